package registry

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
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

// open opens the registry in a folder, as a hub does at its start.
func open(ctx context.Context, dir string, c *clock) (*Registry, error) {
	store, err := meta.Open(ctx, meta.Config{Driver: "sqlite", DSN: filepath.Join(dir, "hub.db"), Now: c.now})
	if err != nil {
		return nil, err
	}
	if err := store.Migrate(ctx); err != nil {
		return nil, err
	}
	blobs, err := blob.OpenFS(filepath.Join(dir, "blobs"))
	if err != nil {
		return nil, err
	}
	if _, err := store.PutProject(ctx, meta.Project{Name: proxied, Kind: meta.Proxy, Public: true, Source: meta.FromFile}); err != nil {
		return nil, err
	}
	return New(blobs, store, Options{Proxies: []string{proxied}, Now: c.now}), nil
}

// newRegistry opens an empty registry, closed at the test's end.
func newRegistry(t *testing.T, c *clock) *Registry {
	t.Helper()
	r, err := open(t.Context(), t.TempDir(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.meta.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestSuite(t *testing.T) {
	ocitest.Suite(t, func(t *testing.T) oci.Registry { return newRegistry(t, newClock()) })
}
