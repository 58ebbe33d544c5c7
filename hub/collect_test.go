package hub

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// A blob that was to be deleted, and cannot be, keeps no hub from starting.
func TestStartsBesideWhatCannotBeDeleted(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	cfg := DefaultConfig(dir)
	cfg.Listen, cfg.Metrics.Listen, cfg.Proxies = "127.0.0.1:0", "127.0.0.1:0", nil
	rows, err := openRows(ctx, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	const key = "b/00/bad"
	d := oci.FromBytes([]byte("bad"))
	project := meta.Project{Name: "docker.io", Kind: meta.Proxy, Source: meta.FromFile}
	for _, do := range []func() error{
		func() error { return rows.Migrate(ctx) },
		func() (err error) { project, err = rows.PutProject(ctx, project); return err },
		func() error { return rows.StartFill(ctx, key, d, 3) },
		func() error { _, _, err := rows.CommitFill(ctx, key, 3); return err },
		func() error {
			r, err := rows.EnsureRepo(ctx, "docker.io/x", meta.Proxy)
			if err != nil {
				return err
			}
			return rows.Grant(ctx, r.RepoID, oci.Descriptor{Digest: d, Size: 3})
		},
		func() error {
			b, err := rows.LiveBlob(ctx, d)
			if err != nil {
				return err
			}
			doomed, err := rows.Doom(ctx, project.ID, b.ID, b.LastUsedAt)
			if err == nil && !doomed {
				t.Error("the blob is not doomed")
			}
			return err
		},
		rows.Close,
		func() error {
			return os.MkdirAll(filepath.Join(cfg.Storage.Filesystem.Root, key, "a folder that is not empty"), 0o700)
		},
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	h, err := New(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if p := h.garbage.Once(ctx, false); p.Err == nil || p.Deleted != 0 {
		t.Errorf("garbage collection: %+v; want it to say that the blob cannot be deleted", p)
	}
	stopped, stop := context.WithCancel(ctx)
	stop()
	if err := h.Run(stopped); err != nil {
		t.Error(err)
	}
}
