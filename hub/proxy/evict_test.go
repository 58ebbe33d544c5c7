package proxy

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// shelf is a hub's storage with one proxy project, on a clock of its own.
type shelf struct {
	t       *testing.T
	dir     string
	rows    *meta.Store
	keys    blob.Store
	blobs   *Blobs
	project meta.Project
	repo    meta.Repo
	now     atomic.Int64 // seconds
}

func newShelf(t *testing.T) *shelf {
	s := &shelf{t: t, dir: t.TempDir()}
	s.now.Store(1_000_000)
	var err error
	if s.keys, err = blob.NewFS(filepath.Join(s.dir, "blobs")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { must(t, s.keys.Close()) })
	s.open()
	t.Cleanup(s.close)
	if s.project, err = s.rows.PutProject(t.Context(), meta.Project{Name: "docker.io", Kind: meta.Proxy, Public: true, Source: meta.FromFile}); err != nil {
		t.Fatal(err)
	}
	if s.repo, err = s.rows.EnsureRepo(t.Context(), "docker.io/library/x", meta.Proxy); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *shelf) open() {
	s.t.Helper()
	var err error
	s.rows, err = meta.Open(context.Background(), meta.Config{
		Driver: "sqlite", DSN: filepath.Join(s.dir, "hub.db"), Now: func() time.Time { return time.Unix(s.now.Load(), 0) },
	})
	if err == nil {
		err = s.rows.Migrate(context.Background())
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.blobs = NewBlobs(s.rows, s.keys, BlobOptions{})
}

func (s *shelf) close() {
	s.blobs.Close()
	if err := s.rows.Close(); err != nil {
		s.t.Error(err)
	}
}

// fill fetches a blob from a source that has it.
func (s *shelf) fill(content string) oci.Digest {
	s.t.Helper()
	d := oci.FromBytes([]byte(content))
	size := int64(len(content))
	b, err := s.blobs.Blob(s.t.Context(), oci.Descriptor{Digest: d, Size: size}, func(_ context.Context, off int64) (*pullthrough.Stream, error) {
		return &pullthrough.Stream{Body: io.NopCloser(strings.NewReader(content[off:])), SizeBytes: size, Origin: oci.FromUpstream}, nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := b.Section(s.t.Context(), 0, size)
	if err == nil {
		_, err = io.ReadAll(r)
		r.Close()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	b.Close()
	for s.blobs.Filling() > 0 { // the reader has it before the disk does
		time.Sleep(time.Millisecond)
	}
	if err := s.rows.Grant(s.t.Context(), s.repo.RepoID, oci.Descriptor{Digest: d, Size: size}); err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *shelf) has(d oci.Digest) bool {
	b, err := s.blobs.store.Open(s.t.Context(), d)
	if err == nil {
		b.Close()
	}
	return err == nil
}

// files counts what lies in storage.
func (s *shelf) files() int {
	s.t.Helper()
	n, _ := leftIn(s.t, s.rows, s.keys)
	return n
}

func (s *shelf) evictor(l Limits) *Evictor {
	return &Evictor{Rows: s.rows, Keys: s.keys, Project: s.project.ID, Limits: l, Log: slog.New(slog.DiscardHandler)}
}

func TestEvictOld(t *testing.T) {
	s := newShelf(t)
	old := s.fill("old")
	s.now.Add(3600)
	young := s.fill("young")
	freed, err := s.evictor(Limits{KeepFor: 30 * time.Minute}).Run(t.Context())
	if err != nil || freed != 3 || s.has(old) || !s.has(young) || s.files() != 1 {
		t.Errorf("freed %d, %v; old %v, young %v, %d files", freed, err, s.has(old), s.has(young), s.files())
	}
	if freed, err := s.evictor(Limits{}).Run(t.Context()); freed != 0 || err != nil {
		t.Errorf("without limits: %d, %v", freed, err)
	}
}

// What was read last stays, whenever it came.
func TestEvictLeastUsed(t *testing.T) {
	s := newShelf(t)
	a := s.fill(strings.Repeat("a", 100))
	s.now.Add(10)
	b := s.fill(strings.Repeat("b", 100))
	s.now.Add(10)
	c := s.fill(strings.Repeat("c", 100))
	s.now.Add(10)
	if !s.has(a) { // and so used again
		t.Fatal("a is gone")
	}
	s.now.Add(10)
	if _, err := s.evictor(Limits{MaxBytes: 250}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !s.has(a) || s.has(b) || !s.has(c) {
		t.Errorf("a %v, b %v, c %v; want b gone", s.has(a), s.has(b), s.has(c))
	}
}

// A blob that a local project holds as well is not the proxy's to evict.
func TestEvictLeavesOthers(t *testing.T) {
	s := newShelf(t)
	d := s.fill("shared")
	r, err := s.rows.EnsureRepo(t.Context(), "team/app", meta.Local)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.rows.Grant(t.Context(), r.RepoID, oci.Descriptor{Digest: d, Size: 6}); err != nil {
		t.Fatal(err)
	}
	s.now.Add(3600)
	if freed, err := s.evictor(Limits{KeepFor: time.Second, MaxBytes: 1}).Run(t.Context()); freed != 0 || err != nil || !s.has(d) {
		t.Errorf("freed %d, %v, has %v", freed, err, s.has(d))
	}
}

// A fill that a crash ended leaves a row, and maybe bytes; the next start takes
// both. What was committed by then is not touched.
func TestReclaim(t *testing.T) {
	s := newShelf(t)
	whole := s.fill("whole")
	dead := oci.FromBytes([]byte("dead"))
	for _, key := range []string{blob.NewKey(), blob.NewKey()} {
		must(t, s.rows.StartFill(t.Context(), key, dead, 4))
		spool, err := s.keys.NewSpool(t.Context(), 4)
		must(t, err)
		_, err = spool.File().WriteString("dead")
		must(t, err)
		must(t, spool.Keep(t.Context(), key, 4))
		must(t, spool.Close())
	}
	must(t, s.rows.StartFill(t.Context(), blob.NewKey(), dead, 4)) // its key has no bytes yet
	if s.files() != 3 {
		t.Fatalf("%d files, want the whole and two dead ones", s.files())
	}
	s.close()
	s.now.Add(60)
	s.open()
	must(t, s.blobs.Reclaim(t.Context()))
	if _, fills := leftIn(t, s.rows, s.keys); s.files() != 1 || fills != 0 || !s.has(whole) {
		t.Errorf("%d files and %d rows after the next start, whole one there: %v", s.files(), fills, s.has(whole))
	}
}

// A key that someone here writes to is not taken for one that was left.
func TestReclaimLeavesWhatIsWritten(t *testing.T) {
	s := newShelf(t)
	key := blob.NewKey()
	done := s.blobs.store.write(key)
	must(t, s.rows.StartFill(t.Context(), key, oci.FromBytes(nil), 0))
	must(t, s.blobs.Reclaim(t.Context()))
	if _, fills := leftIn(t, s.rows, s.keys); fills != 1 {
		t.Errorf("%d fills while it is written, want 1", fills)
	}
	done()
	must(t, s.blobs.Reclaim(t.Context()))
	if _, fills := leftIn(t, s.rows, s.keys); fills != 0 {
		t.Errorf("%d fills after it was given up", fills)
	}
}
