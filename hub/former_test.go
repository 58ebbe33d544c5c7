package hub

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// The cache of a proxy that is in the configuration no longer goes, some time
// after its last use; that of one without limits stays.
func TestCacheOfAFormerProxy(t *testing.T) {
	ctx := t.Context()
	cfg := DefaultConfig(t.TempDir())
	cfg.Listen, cfg.Metrics.Listen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Proxies = []Proxy{{Registry: "quay.io"}}
	c, err := metaConfig(cfg, nil)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(err)
	now := time.Now()
	c.Now = func() time.Time { return now }
	rows, err := meta.Open(ctx, c)
	must(err)
	must(rows.Migrate(ctx))
	storage, err := openStorage(ctx, cfg.Storage, nil)
	must(err)
	all := make(map[string]oci.Digest)
	put := func(project, name string) {
		t.Helper()
		_, err := rows.PutProject(ctx, meta.Project{Name: project, Kind: meta.Proxy, Source: meta.FromFile})
		must(err)
		key, d, n := blob.NewKey(), oci.FromBytes([]byte(name)), int64(len(name))
		must(rows.StartFill(ctx, key, d, n))
		w, err := storage.Create(ctx, key)
		must(err)
		_, err = w.Write([]byte(name))
		must(errors.Join(err, w.Commit(ctx), w.Close()))
		_, _, err = rows.CommitFill(ctx, key, n)
		must(err)
		r, err := rows.EnsureRepo(ctx, project+"/x", meta.Proxy)
		must(err)
		must(rows.Grant(ctx, r.RepoID, oci.Descriptor{Digest: d, Size: n}))
		all[name] = d
	}
	put("docker.io", "young")
	now = now.Add(-formerKeepFor - time.Hour)
	put("docker.io", "old")
	put("quay.io", "configured")
	must(errors.Join(storage.Close(), rows.Close()))

	h, err := New(ctx, cfg, slog.New(slog.DiscardHandler))
	must(err)
	h.Tidy(ctx)
	for name, want := range map[string]bool{"young": true, "old": false, "configured": true} {
		if _, err := h.rows.LiveBlob(ctx, all[name]); (err == nil) != want || err != nil && !errors.Is(err, meta.ErrNotFound) {
			t.Errorf("%s: %v; want it there: %v", name, err, want)
		}
	}
	stopped, stop := context.WithCancel(ctx)
	stop()
	must(h.Run(stopped))
}
