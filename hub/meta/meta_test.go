package meta

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

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

// newStore opens a fresh database, up to date, closed at the test's end.
func newStore(tb testing.TB, c *clock) *Store {
	tb.Helper()
	cfg := Config{Driver: "sqlite", DSN: filepath.Join(tb.TempDir(), "hub.db"), TouchEvery: time.Hour}
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
	if err := s.Migrate(tb.Context()); err != nil {
		tb.Fatal(err)
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
	u, err := s.Upload(tb.Context(), repo, u.ID)
	must(tb, err)
	won, err := s.CommitUpload(tb.Context(), u, d, int64(len(text)))
	must(tb, err)
	if !won {
		must(tb, s.DeleteUpload(tb.Context(), u.ID))
	}
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
