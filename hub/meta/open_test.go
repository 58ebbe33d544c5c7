package meta

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestOpenErrors(t *testing.T) {
	only(t, "sqlite")
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	database := func(name, text string) string {
		path := filepath.Join(dir, name)
		pool, err := sql.Open("sqlite", path)
		must(t, err)
		defer pool.Close()
		_, err = pool.Exec(text)
		must(t, err)
		return path
	}
	held := filepath.Join(dir, "held.db")
	s, err := Open(t.Context(), Config{Driver: "sqlite", DSN: held})
	must(t, err)
	defer s.Close()

	for _, tt := range []struct {
		name   string
		config Config
		is     error  // nil for any
		says   string // in the message
	}{
		{"driver", Config{Driver: "mysql", DSN: "x"}, nil, `"mysql" is not known`},
		{"no dsn", Config{Driver: "sqlite"}, nil, "dsn is empty"},
		{"a file for a folder", Config{Driver: "sqlite", DSN: filepath.Join(write("file", ""), "hub.db")}, nil, "not a directory"},
		{"a folder for a file", Config{Driver: "sqlite", DSN: dir}, nil, dir},
		{"not a database", Config{Driver: "sqlite", DSN: write("text.db", strings.Repeat("no database\n", 1000))}, ErrNotDatabase, "text.db"},
		{"another program's", Config{Driver: "sqlite", DSN: database("other.db", `CREATE TABLE people (name TEXT)`)}, ErrNotDatabase, "none of ours"},
		{"newer", Config{Driver: "sqlite", DSN: database("newer.db", `CREATE TABLE goose_db_version (version_id INTEGER); INSERT INTO goose_db_version VALUES (0), (1), (4711)`)}, ErrNewer, "4711"},
		{"in use", Config{Driver: "sqlite", DSN: held}, ErrLocked, "held.db"},
	} {
		s, err := Open(t.Context(), tt.config)
		if err == nil {
			s.Close()
			t.Errorf("%s: Open succeeded", tt.name)
			continue
		}
		if tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v; want %v saying %q", tt.name, err, tt.is, tt.says)
		}
	}

	// None of the failures keeps the lock.
	if s, err := Open(t.Context(), Config{Driver: "sqlite", DSN: filepath.Join(dir, "newer.db")}); !errors.Is(err, ErrNewer) {
		t.Errorf("Open again: %v, %v; want ErrNewer, not ErrLocked", s, err)
	}
}

func TestOpenMakesWhatIsMissing(t *testing.T) {
	only(t, "sqlite")
	path := filepath.Join(t.TempDir(), "data of hub?#%20", "hub.db") // no part of a URL
	s, err := Open(t.Context(), Config{Driver: "sqlite", DSN: path})
	must(t, err)
	must(t, s.Migrate(t.Context()))
	must(t, s.PutUser(t.Context(), User{Name: "admin", PasswordHash: "x"}))
	for _, name := range []string{path, path + "-wal"} {
		if fi, err := os.Stat(name); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want a file of mode 0600", name, fi, err)
		}
	}
	must(t, s.Close())
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the log is there after Close: %v", err)
	}
}

func TestDurability(t *testing.T) {
	only(t, "sqlite")
	s := newStore(t, nil)
	d := s.db.(*sqliteDB)
	for _, tt := range []struct{ pragma, want string }{
		{"journal_mode", "wal"},
		{"synchronous", "2"}, // FULL
		{"foreign_keys", "1"},
	} {
		err := s.write(t.Context(), func(q querier) error {
			var got string
			if err := q.QueryRow(t.Context(), "PRAGMA "+tt.pragma).Scan(&got); err != nil || got != tt.want {
				t.Errorf("the writer's %s is %q, %v; want %q", tt.pragma, got, err, tt.want)
			}
			return nil
		})
		must(t, err)
	}
	if _, err := d.readers.Exec(`DELETE FROM users`); err == nil {
		t.Error("a reading connection wrote")
	}
	must(t, s.PutUser(t.Context(), User{Name: "a"}))
}

func TestBrokenKeysAreConflicts(t *testing.T) {
	s := newStore(t, nil)
	must(t, s.Grant(t.Context(), 4711)) // nothing to grant
	if err := s.PutTag(t.Context(), 4711, Tag{Name: "x"}); !errors.Is(err, ErrConflict) {
		t.Errorf("a tag in no repository: %v, want ErrConflict", err)
	}
}

func TestWritersTakeTurns(t *testing.T) {
	only(t, "sqlite")
	dsn := filepath.Join(t.TempDir(), "hub.db")
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(t.Context(), Config{Driver: "sqlite", DSN: dsn})
		must(t, err)
		defer s.Close()
		const writers = 30
		var order []int
		var wg sync.WaitGroup
		err = s.write(t.Context(), func(querier) error { // all others wait for this one
			for i := range writers {
				wg.Go(func() {
					if err := s.write(t.Context(), func(querier) error { order = append(order, i); return nil }); err != nil {
						t.Error(err)
					}
				})
				synctest.Wait() // it is in the queue
			}
			return nil
		})
		must(t, err)
		wg.Wait()
		if !slices.IsSorted(order) || len(order) != writers {
			t.Errorf("turns were taken in the order %v", order)
		}
	})
}

func TestWriteEndsWithItsContext(t *testing.T) {
	s := newStore(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	err := s.write(ctx, func(q querier) error {
		if _, err := q.Exec(ctx, `INSERT INTO users (name, password_hash, admin, created_at) VALUES ('x', '', FALSE, 0)`); err != nil {
			return err
		}
		// Who waits for a turn stops waiting when its own context ends.
		short, stop := context.WithCancel(t.Context())
		stop()
		if err := s.PutUser(short, User{Name: "y"}); !errors.Is(err, context.Canceled) {
			t.Errorf("a waiting writer: %v, want context.Canceled", err)
		}
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("write: %v, want context.Canceled", err)
	}
	if _, err := s.User(t.Context(), "x"); !errors.Is(err, ErrNotFound) {
		t.Errorf("what a cancelled transaction wrote: %v, want ErrNotFound", err)
	}
	must(t, s.PutUser(t.Context(), User{Name: "z"})) // the turn was given back
}

func TestWriterIsMadeAnew(t *testing.T) {
	only(t, "sqlite")
	s := newStore(t, nil)
	d := s.db.(*sqliteDB)
	must(t, s.PutUser(t.Context(), User{Name: "a"}))
	// SQLite ends a transaction by itself when the disk is full; the ROLLBACK
	// that follows then fails, and the next writer must not be the worse for it.
	err := s.write(t.Context(), func(q querier) error {
		if _, err := q.Exec(t.Context(), `ROLLBACK`); err != nil {
			return err
		}
		return errors.New("disk full")
	})
	if err == nil || d.conn != nil {
		t.Errorf("write: %v, connection %v; want an error and the connection dropped", err, d.conn)
	}
	must(t, s.PutUser(t.Context(), User{Name: "b"}))
	must(t, second(s.User(t.Context(), "b")))
}

func TestReadersDoNotWaitForTheWriter(t *testing.T) {
	s := newStore(t, nil)
	must(t, s.PutUser(t.Context(), User{Name: "a"}))
	var reads atomic.Int32
	err := s.write(t.Context(), func(q querier) error {
		if _, err := q.Exec(t.Context(), `UPDATE users SET name = 'b'`); err != nil {
			return err
		}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if err := second(s.User(t.Context(), "a")); err == nil {
					reads.Add(1)
				}
			})
		}
		wg.Wait()
		return nil
	})
	if err != nil || reads.Load() != 20 {
		t.Errorf("%d of 20 reads saw what was there before the running transaction; %v", reads.Load(), err)
	}
}
