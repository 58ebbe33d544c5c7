package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/gc"
	"github.com/breakwater-oci/breakwater/hub/meta"
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
}

// Collect collects garbage without a hub that serves, as fast as it can, or
// says what there is. report is of before.
func Collect(ctx context.Context, cfg Config, o CollectOptions, log *slog.Logger) (report gc.Report, pass gc.Pass, err error) {
	rows, err := openRows(ctx, cfg, log)
	if err != nil {
		return report, pass, inUse(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	if pending, err := rows.Pending(ctx); err != nil || len(pending) > 0 {
		return report, pass, errors.Join(err, errors.New("the database is of an older release: bring it up to date with breakwater-hub migrate"))
	}
	if report, err = gc.New(rows, nil, gc.Options{}).DryRun(ctx); err != nil || o.DryRun {
		return report, pass, err
	}
	storage, err := openStorage(ctx, cfg.Storage, func(s string) { log.Warn("secret is not kept well", "why", s) })
	if err != nil {
		return report, pass, inUse(fmt.Errorf("storage: %w", err))
	}
	defer func() { err = errors.Join(err, storage.Close()) }()
	if err := rows.StartReplica(ctx, "", version.String()); err != nil {
		return report, pass, err
	}
	g := gc.New(rows, storage, gc.Options{
		UntaggedAfter: time.Duration(cfg.GC.UntaggedAfter), Share: 1, AllOrphans: o.AllOrphans, Log: log,
	})
	pass = g.Once(ctx, true)
	return report, pass, pass.Err
}

// inUse says what to do instead where a hub is running.
func inUse(err error) error {
	if errors.Is(err, meta.ErrLocked) || errors.Is(err, blob.ErrLocked) {
		return fmt.Errorf("a hub is running, which collects garbage by itself; breakwater gc has it do so now (%w)", err)
	}
	return err
}
