package meta

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta/metatest/pgtest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// clock is a time that passes only when told to.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// driver is the kind of database that newStore makes.
var driver string

// TestMain runs all tests on each kind of database. A test that is about one
// kind runs with it alone, see only.
func TestMain(m *testing.M) {
	flag.Parse()
	drivers := []string{"sqlite", "postgres"}
	if f := flag.Lookup("test.list"); f.Value.String() != "" {
		drivers = drivers[:1]
	}
	status := 0
	for _, driver = range drivers {
		if driver == "postgres" {
			switch err := pgtest.Available(); {
			case errors.Is(err, pgtest.ErrMissing) && os.Getenv("CI") != "true":
				fmt.Println("not tested on postgres:", err)
				continue
			case err != nil:
				fmt.Println(err)
				status = 1
				continue
			}
		}
		fmt.Println("database:", driver)
		status = max(status, m.Run())
	}
	os.Exit(status)
}

// only skips a test that is about another kind of database, or about none and
// has run with the first.
func only(tb testing.TB, want string) {
	tb.Helper()
	if driver != want {
		tb.Skip("runs with " + want)
	}
}

// newStore opens a fresh database, up to date, closed at the test's end.
func newStore(tb testing.TB, c *clock) *Store {
	tb.Helper()
	return openStore(tb, newDSN(tb), c)
}

// newDSN is a fresh database's.
func newDSN(tb testing.TB) string {
	tb.Helper()
	if driver == "sqlite" {
		return filepath.Join(tb.TempDir(), "hub.db")
	}
	return pgtest.Shared(tb).Copy(tb, "hub", func(dsn string) error {
		s, err := Open(context.Background(), Config{Driver: driver, DSN: dsn})
		if err != nil {
			return err
		}
		return errors.Join(s.Migrate(context.Background()), s.Close())
	})
}

// openStore opens a database, up to date, and closes it at the test's end. One
// of Postgres can be opened again and again.
func openStore(tb testing.TB, dsn string, c *clock) *Store {
	tb.Helper()
	cfg := Config{Driver: driver, DSN: dsn, TouchEvery: time.Hour}
	if c != nil {
		cfg.Now = c.now
	}
	s, err := Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("Close: %v", err)
		}
	})
	if driver == "sqlite" { // the other is a copy of one that is up to date
		must(tb, s.Migrate(tb.Context()))
	}
	return s
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// digestOf is a digest of its own for each text.
func digestOf(text string) oci.Digest { return oci.FromBytes([]byte(text)) }

// putBlob uploads text to repo, as hub/registry does, and returns its digest.
func putBlob(tb testing.TB, s *Store, repo, text string) oci.Digest {
	tb.Helper()
	d := digestOf(text)
	u := Upload{ID: "up-" + repo + text, StorageKey: "b/" + repo + text, Alg: "sha256", HashState: []byte{}}
	must(tb, s.CreateUpload(tb.Context(), repo, u))
	u, err := s.HoldUpload(tb.Context(), repo, u.ID, nil)
	must(tb, err)
	won, err := s.CommitUpload(tb.Context(), u, d, int64(len(text)))
	must(tb, err)
	if !won {
		must(tb, s.DeleteUpload(tb.Context(), u.ID))
	}
	must(tb, s.ReleaseUpload(tb.Context(), u.ID))
	return d
}

// image makes an image manifest of some blobs.
func image(repo, tag string, blobs ...oci.Digest) NewManifest {
	body := fmt.Appendf(nil, `{"schemaVersion":2,"tag":%q,"blobs":%q}`, tag, blobs)
	m := NewManifest{Repo: repo, Tag: tag, Body: body, Digest: oci.FromBytes(body), Links: oci.Links{MediaType: oci.MediaTypeImage}}
	for _, d := range blobs {
		m.Links.Blobs = append(m.Links.Blobs, oci.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: 1})
	}
	return m
}
