package registry

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/blob/blobtest"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// clock is a time that passes only when told to.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

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

// proxied is the proxy that the tests' registries have beside them.
const proxied = "docker.io"

// backing is a database and a store that registries can be opened on, one after
// the other or, where both allow it, at once.
type backing struct {
	Driver, DSN string         // of the database
	Folder      string         // "" when S3 is set
	S3          *blob.S3Config // nil when Folder is set

	wrap func(blob.Store) blob.Store // nil for the store as it is
}

// folder is a backing of a SQLite file and a folder, both in dir.
func folder(dir string) backing {
	return backing{Driver: "sqlite", DSN: filepath.Join(dir, "hub.db"), Folder: filepath.Join(dir, "blobs")}
}

// bucket is a backing of an empty bucket, with parts as small as may be.
func bucket(t *testing.T, driver string) backing {
	t.Helper()
	cfg := blobtest.S3(t)
	cfg.PartBytes = 5 << 20
	return backing{Driver: driver, DSN: metatest.DSN(t, driver), S3: &cfg}
}

func (b backing) store(ctx context.Context) (s blob.Store, err error) {
	if b.S3 != nil {
		s, err = blob.NewS3(ctx, *b.S3)
	} else {
		s, err = blob.NewFS(b.Folder)
	}
	if err == nil && b.wrap != nil {
		s = b.wrap(s)
	}
	return s, err
}

// each runs fn as a subtest on each pair of database and store that a hub can
// have. fresh makes an empty pair.
func each(t *testing.T, fn func(t *testing.T, fresh func(t *testing.T) backing)) {
	t.Helper()
	metatest.Each(t, func(t *testing.T, driver string) {
		t.Run("folder", func(t *testing.T) {
			fn(t, func(t *testing.T) backing {
				b := folder(t.TempDir())
				b.Driver, b.DSN = driver, metatest.DSN(t, driver)
				return b
			})
		})
		t.Run("s3", func(t *testing.T) {
			fn(t, func(t *testing.T) backing { return bucket(t, driver) })
		})
	})
}

// open opens a registry on what was there before, as a hub does at its start.
func (b backing) open(ctx context.Context, c *clock) (*Registry, error) {
	store, err := meta.Open(ctx, meta.Config{Driver: b.Driver, DSN: b.DSN, Now: c.now})
	if err != nil {
		return nil, err
	}
	if err := store.Migrate(ctx); err != nil {
		return nil, err
	}
	if err := store.StartReplica(ctx, "", "test"); err != nil {
		return nil, err
	}
	blobs, err := b.store(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := store.PutProject(ctx, meta.Project{Name: proxied, Kind: meta.Proxy, Public: true, Source: meta.FromFile}); err != nil {
		return nil, err
	}
	return New(blobs, store, Options{Proxies: []string{proxied}, Now: c.now}), nil
}

// registry is open, closed at the test's end.
func (b backing) registry(t *testing.T, c *clock) *Registry {
	t.Helper()
	r, err := b.open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, r) })
	return r
}

// shut closes what a registry is on. It may be called again.
func shut(t *testing.T, r *Registry) {
	t.Helper()
	if r.meta != nil {
		if err := errors.Join(r.meta.Close(), r.blobs.Close()); err != nil {
			t.Error(err)
		}
		r.meta = nil
	}
}

// newRegistry opens an empty registry, closed at the test's end.
func newRegistry(t *testing.T, c *clock) *Registry {
	t.Helper()
	return folder(t.TempDir()).registry(t, c)
}

func TestSuite(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		ocitest.Suite(t, func(t *testing.T) oci.Registry { return fresh(t).registry(t, newClock()) })
	})
}
