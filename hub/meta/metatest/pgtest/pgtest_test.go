package pgtest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestCopy(t *testing.T) {
	s := Start(t)
	prepared := 0
	open := func() *pgx.Conn {
		dsn := s.Copy(t, "prepared", func(dsn string) error {
			prepared++
			c, err := pgx.Connect(t.Context(), dsn)
			if err != nil {
				return err
			}
			_, err = c.Exec(t.Context(), `CREATE TABLE a (b BIGINT); INSERT INTO a VALUES (1)`)
			return errors.Join(err, c.Close(t.Context()))
		})
		c, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(context.Background()) })
		return c
	}
	one, two := open(), open()
	if _, err := one.Exec(t.Context(), `INSERT INTO a VALUES (2)`); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := two.QueryRow(t.Context(), `SELECT count(*) FROM a`).Scan(&n); err != nil || n != 1 || prepared != 1 {
		t.Errorf("a copy has %d rows, %v; the template was prepared %d times", n, err, prepared)
	}
}

// A test binary that is killed has no time to clean up.
func TestNothingIsLeft(t *testing.T) {
	if os.Getenv("PGTEST_DIE") != "" {
		s := Shared(t)
		_, _ = os.Stdout.WriteString("dir:" + s.dir + "\n")
		p, err := os.FindProcess(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		_ = p.Kill()
		select {}
	}
	Shared(t) // skips where there is none
	c := exec.Command(os.Args[0], "-test.run=^TestNothingIsLeft$")
	c.Env = append(os.Environ(), "PGTEST_DIE=1")
	out, err := c.Output()
	_, dir, ok := strings.Cut(strings.TrimSpace(string(out)), "dir:")
	if err == nil || !ok || !strings.HasPrefix(filepath.Base(dir), "pgtest") {
		t.Fatalf("the test binary said %q, %v; want it killed", out, err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is still there", dir)
		}
	}
}
