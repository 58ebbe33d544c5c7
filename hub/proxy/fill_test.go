package proxy

import (
	"context"
	"database/sql"
	"io"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// rig is a proxy of an upstream that holds one blob, in library/a and library/b.
type rig struct {
	*Proxy
	db     string // the database's file
	faults *ocitest.FaultProxy
	bytes  []byte
	digest oci.Digest
	image  oci.Digest // of a manifest, library/a:v1
}

const (
	repoA = "docker.io/library/a"
	repoB = "docker.io/library/b"
)

func newRig(t *testing.T) *rig {
	t.Helper()
	upstream := ocitest.NewMemory()
	g := &rig{db: filepath.Join(t.TempDir(), "hub.db"), bytes: ocitest.RandomBytes(1, 1<<20)}
	g.digest = oci.FromBytes(g.bytes)
	for _, repo := range []string{"library/a", "library/b"} {
		must(t, ocitest.PushBlob(t.Context(), upstream, repo, g.bytes))
	}
	image := ocitest.Image(2, 1, 100)
	must(t, image.Push(t.Context(), upstream, "library/a", "v1"))
	g.image = image.Descriptor.Digest
	g.faults = ocitest.NewFaultProxy(ociserver.New(upstream, ociserver.Options{}))
	srv := httptest.NewServer(g.faults)
	t.Cleanup(srv.Close)
	t.Cleanup(g.faults.Clear) // what stalls is let go before the server is closed

	rows, err := meta.Open(t.Context(), meta.Config{Driver: "sqlite", DSN: g.db})
	must(t, err)
	t.Cleanup(func() { must(t, rows.Close()) })
	must(t, rows.Migrate(t.Context()))
	_, err = rows.PutProject(t.Context(), meta.Project{Name: "docker.io", Kind: meta.Proxy, Public: true, Source: meta.FromFile})
	must(t, err)
	store, err := blob.NewFS(filepath.Join(t.TempDir(), "blobs"))
	must(t, err)
	client, err := ociclient.New(ociclient.Options{URL: srv.URL})
	must(t, err)
	blobs := NewBlobs(rows, store, BlobOptions{})
	t.Cleanup(blobs.Close)
	g.Proxy = New(rows, blobs, Options{Registry: "docker.io", Public: true, Upstream: client, Anonymous: client, Log: slog.New(slog.DiscardHandler)})
	return g
}

// read opens the blob through a repository and returns its first n bytes.
func (g *rig) read(ctx context.Context, t *testing.T, repo string, n int) (*oci.Blob, string) {
	t.Helper()
	b, err := g.Blob(ctx, repo, g.digest)
	must(t, err)
	section, err := b.Section(ctx, 0, int64(n))
	must(t, err)
	defer section.Close()
	got, err := io.ReadAll(section)
	must(t, err)
	return b, string(got)
}

// left counts the keys there are and the fills that the database knows.
func (g *rig) left(t *testing.T) (keys, fills int) {
	t.Helper()
	return leftIn(t, g.rows, g.blobs.store.keys)
}

func leftIn(t *testing.T, rows *meta.Store, keys blob.Store) (objects, fills int) {
	t.Helper()
	must(t, keys.Walk(t.Context(), "", func(blob.Object) error { objects++; return nil }))
	all, err := rows.LeftFills(t.Context(), 0, 100, "")
	must(t, err)
	return objects, len(all)
}

// stored waits until the blob has its row.
func (g *rig) stored(t *testing.T) {
	t.Helper()
	for range 1000 {
		if _, err := g.rows.LiveBlob(t.Context(), g.digest); err == nil && g.blobs.Filling() == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("the blob was not stored within 5 s")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A client has all but the held-back end of a cold blob while nobody may write
// to the database: its first byte waits for no disk.
func TestFirstByteWaitsForNoWrite(t *testing.T) {
	g := newRig(t)
	other, err := sql.Open("sqlite", "file:"+g.db)
	must(t, err)
	defer other.Close()
	other.SetMaxOpenConns(1)
	_, err = other.ExecContext(t.Context(), `BEGIN IMMEDIATE`)
	must(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // less than a writer waits for its turn
	defer cancel()
	n := len(g.bytes) - pullthrough.HoldBackBytes
	b, got := g.read(ctx, t, repoA, n)
	defer b.Close()
	if got != string(g.bytes[:n]) {
		t.Error("other bytes came")
	}
	if b.Visibility != oci.Public {
		t.Errorf("visibility %q, want public", b.Visibility)
	}

	_, err = other.ExecContext(t.Context(), `ROLLBACK`)
	must(t, err)
	g.stored(t)
	if row, err := g.rows.RepoBlob(t.Context(), repoA, g.digest); err != nil || row.CheckedAt.IsZero() || row.StorageKey == "" {
		t.Errorf("RepoBlob = %+v, %v; want it stored, and confirmed in its repository", row, err)
	}
	if len(g.blobs.store.shown.in(g.digest)) > 0 {
		t.Error("what became rows is still remembered")
	}
	g.faults.Down(true)
	again, got := g.read(t.Context(), t, repoA, len(g.bytes))
	defer again.Close()
	if got != string(g.bytes) {
		t.Error("other bytes came from storage")
	}
}

// Who joins a running fetch is let in by what its own repository has shown:
// the one that the fetch is for is not asked again, another one is.
func TestJoinAFetch(t *testing.T) {
	g := newRig(t)
	g.faults.Set(ocitest.Fault{Method: "GET", StallAt: 512 << 10})
	for _, tt := range []struct {
		repo  string
		heads int // of all so far
	}{
		{repoA, 0},
		{repoA, 0},
		{repoB, 1},
		{repoB, 1},
	} {
		b, got := g.read(t.Context(), t, tt.repo, 1000)
		defer b.Close()
		if got != string(g.bytes[:1000]) {
			t.Errorf("through %s other bytes came", tt.repo)
		}
		if n := g.faults.Count("HEAD", "/blobs/"); n != tt.heads {
			t.Errorf("through %s the upstream was asked %d times, want %d", tt.repo, n, tt.heads)
		}
	}
	if n := g.faults.Count("GET", "/blobs/"); n != 1 {
		t.Errorf("the blob was fetched %d times", n)
	}
}

// Of a fill that is given up nothing is left, of one that is committed its key
// alone.
func TestFillLeavesNothing(t *testing.T) {
	g := newRig(t)
	for _, commit := range []bool{false, true} {
		p, err := g.blobs.store.Begin(t.Context(), g.digest, int64(len(g.bytes)))
		must(t, err)
		if _, err := p.File().Write(g.bytes); err != nil {
			t.Fatal(err)
		}
		if keys, fills := g.left(t); keys != 0 || fills != 0 {
			t.Errorf("while it runs there are %d keys and %d rows", keys, fills)
		}
		want := 0
		if commit {
			must(t, p.Commit(t.Context()))
			want = 1
		}
		must(t, p.Close(false))
		if keys, fills := g.left(t); keys != want || fills != 0 {
			t.Errorf("committed %t: %d keys and %d rows are left, want %d and 0", commit, keys, fills, want)
		}
	}
	b, err := g.blobs.store.Open(t.Context(), g.digest)
	must(t, err)
	defer b.Close()
	section, err := b.Section(t.Context(), 0, b.Size)
	must(t, err)
	defer section.Close()
	if got, err := io.ReadAll(section); err != nil || oci.FromBytes(got) != g.digest {
		t.Errorf("what was stored is %s, %v", oci.FromBytes(got), err)
	}
}

// A blob that the disk has no room for is an error, and leaves nothing.
func TestFillTooLarge(t *testing.T) {
	g := newRig(t)
	if _, err := g.blobs.store.Begin(t.Context(), g.digest, 1<<60); oci.CodeOf(err) != oci.NoSpace {
		t.Errorf("Begin: %v, want %s", err, oci.NoSpace)
	}
	if keys, fills := g.left(t); keys != 0 || fills != 0 {
		t.Errorf("%d keys and %d rows are left", keys, fills)
	}
}
