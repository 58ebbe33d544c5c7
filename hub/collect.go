package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/hub/api"
	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/gc"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/version"
)

// newGC is the collector that a hub has running.
func newGC(cfg Config, rows *meta.Store, storage blob.Store, metrics prometheus.Registerer, log *slog.Logger) *gc.GC {
	return gc.New(rows, storage, gc.Options{
		Every: time.Duration(cfg.GC.Every), UntaggedAfter: time.Duration(cfg.GC.UntaggedAfter),
		Alone: cfg.Metadata.Driver != "postgres", Metrics: metrics, Log: log,
	})
}

// CollectOptions are what garbage collection without a running hub can be told.
type CollectOptions struct {
	DryRun bool // change nothing
	// AllOrphans deletes objects that no row speaks of even where most are such,
	// see [gc.ErrStrange].
	AllOrphans bool
	// List has a dry run name what would go.
	List bool
	// Progress hears what is being done, and with how many so far; nil drops it.
	Progress func(doing string, n int64)
}

// Collected is what [Collect] found, or did.
type Collected struct {
	Garbage     hubapi.Garbage `json:"garbage"`     // before it did anything
	Untagged    int64          `json:"untagged"`    // manifests that would go to the trash; of a dry run
	Orphans     int64          `json:"orphans"`     // objects of no row that would be deleted; of a dry run
	OrphanBytes int64          `json:"orphanBytes"` // of these
	// Strange says why these would not be deleted; "" when they would.
	Strange string         `json:"strange,omitempty"`
	List    []gc.Found     `json:"list,omitempty"` // what would go in the next pass, when asked for
	Pass    *hubapi.GCPass `json:"pass,omitempty"` // what was done; nil of a dry run
}

// Collect collects garbage without a hub that serves, as fast as it can, or
// says what there is.
func Collect(ctx context.Context, cfg Config, o CollectOptions, log *slog.Logger) (c Collected, err error) {
	if path, missing := noDatabase(cfg); missing {
		return c, fmt.Errorf("there is no database %s, and so nothing to collect", path)
	}
	rows, err := openRows(ctx, cfg, log)
	if err != nil {
		return c, inUse(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	if pending, err := rows.Pending(ctx); err != nil || len(pending) > 0 {
		return c, errors.Join(err, errors.New("the database is of an older release, or new: bring it up to date with breakwater-hub migrate"))
	}
	if root := cfg.Storage.Filesystem.Root; o.DryRun && cfg.Storage.Driver != "s3" && !exists(root) {
		return c, fmt.Errorf("storage: there is no folder %s", root)
	}
	storage, err := openStorage(ctx, cfg.Storage, func(s string) { log.Warn("secret is not kept well", "why", s) })
	if err != nil {
		return c, inUse(fmt.Errorf("storage: %w", err))
	}
	defer func() { err = errors.Join(err, storage.Close()) }()
	options := gc.Options{
		UntaggedAfter: time.Duration(cfg.GC.UntaggedAfter), Share: 1, AllOrphans: o.AllOrphans, Progress: o.Progress, Log: log,
	}
	if o.DryRun {
		if err := ours(ctx, rows, storage); err != nil {
			return c, fmt.Errorf("storage: %w", err)
		}
		err = c.look(ctx, gc.New(rows, storage, options), o)
		return c, err
	}
	owned, err := claim(ctx, rows, storage)
	if err != nil {
		return c, fmt.Errorf("storage: %w", err)
	}
	if err := rows.StartReplica(ctx, "", version.String()); err != nil {
		return c, err
	}
	g := gc.New(rows, owned, options)
	before, err := g.DryRun(ctx, gc.Look{})
	if err != nil {
		return c, err
	}
	c.Garbage = hubapi.Garbage(before.Garbage)
	pass := g.Once(ctx, true)
	c.Pass = api.GCPass(pass)
	return c, pass.Err
}

// look fills c with what there is.
func (c *Collected) look(ctx context.Context, g *gc.GC, o CollectOptions) error {
	look := gc.Look{Untagged: true, Objects: true}
	if o.List {
		look.Found = func(f gc.Found) error {
			c.List = append(c.List, f)
			return nil
		}
	}
	r, err := g.DryRun(ctx, look)
	c.Garbage, c.Untagged, c.Orphans, c.OrphanBytes = hubapi.Garbage(r.Garbage), r.Untagged, r.Orphans, r.OrphanBytes
	if r.Strange != nil && !o.AllOrphans {
		c.Strange = r.Strange.Error()
	}
	return err
}

// ours refuses a storage that is another's, as [claim] does, and writes
// nothing.
func ours(ctx context.Context, rows *meta.Store, storage blob.Store) error {
	of, err := blob.Owner(ctx, storage)
	if err != nil {
		return unreadable(err)
	}
	if of == "" {
		return familiar(ctx, rows, storage)
	}
	id, err := rows.Fact(ctx, meta.IDFact)
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return err
	}
	if of != id {
		return notOurs(of, id)
	}
	return nil
}

// noDatabase says that the database is a file that is not there: to open it
// would make it.
func noDatabase(cfg Config) (path string, missing bool) {
	path = cfg.Metadata.DSN
	return path, cfg.Metadata.Driver != "postgres" && cfg.Metadata.DSNFile == "" && !exists(path)
}

// exists holds for what may be there, too.
func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// inUse says what to do instead where a hub is running.
func inUse(err error) error {
	if errors.Is(err, meta.ErrLocked) || errors.Is(err, blob.ErrLocked) {
		return fmt.Errorf("a hub is running, which collects garbage by itself; breakwater gc has it do so now (%w)", err)
	}
	return err
}
