package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
)

// Config says when backups are made by themselves.
type Config struct {
	// Every is the time from one to the next; 0 makes none.
	Every time.Duration
	// Keep is how many are kept, in the storage and in Dir each; 0 keeps all.
	Keep int
	// Dir is a folder that they are written to as well, such as one on another
	// disk or a mounted share; "" is none.
	Dir string
}

// Leases are what one of several hubs does for all. [meta.Store] has them.
type Leases interface {
	TakeLease(ctx context.Context, name string) (meta.Lease, error)
	DropLease(ctx context.Context, name string) error
}

// Parts are what a [Schedule] works with; all are needed.
type Parts struct {
	Rows    meta.Config // the hub's database; it is opened anew, for reading
	Store   blob.Store
	Leases  Leases
	Version string // of this release
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

const (
	leaseName = "backup"
	// lookEvery is how often a hub that is not the one looks whether it is now,
	// and one that failed tries again.
	lookEvery = 5 * time.Minute
)

// Schedule makes backups by itself.
type Schedule struct {
	Parts
	cfg     Config
	metrics scheduleMetrics
	untaken string // file in Dir that the storage did not take; "" for none
}

// New returns a schedule that [Schedule.Run] follows.
func New(c Config, p Parts) *Schedule {
	return &Schedule{Parts: p, cfg: c, metrics: newMetrics(p.Metrics)}
}

// Run makes backups when they are due until ctx ends. Of several hubs on one
// database one does. Whether one is due is told by those that are there, so
// that a start by itself makes none.
func (s *Schedule) Run(ctx context.Context) {
	if s.cfg.Every <= 0 {
		return
	}
	defer s.drop(ctx)
	for {
		wait, err := s.turn(ctx)
		if err != nil && ctx.Err() == nil {
			s.metrics.failed.Inc()
			s.Log.Error("no backup was made, it is tried again", "in", lookEvery, "err", err)
			wait = lookEvery
		}
		t := time.NewTimer(min(wait, s.cfg.Every))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

func (s *Schedule) drop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.Leases.DropLease(ctx, leaseName); err != nil {
		s.Log.Warn("lease not given back, it ends with this process", "lease", leaseName, "err", err)
	}
}

// turn makes a backup if one is due and this hub is the one to make it. It
// says when to look again.
func (s *Schedule) turn(ctx context.Context) (time.Duration, error) {
	l, err := s.Leases.TakeLease(ctx, leaseName)
	if err != nil || !l.Mine {
		return lookEvery, err
	}
	all, err := List(ctx, s.Store)
	if err != nil {
		return 0, err
	}
	if len(all) > 0 {
		s.metrics.seen(all[0].MadeAt, all[0].SizeBytes)
		if left := time.Until(all[0].MadeAt.Add(s.cfg.Every)); left > 0 && left <= s.cfg.Every {
			return left, nil
		}
	}
	r, err := s.make(ctx)
	if err != nil {
		return 0, errors.Join(err, s.pruneDir())
	}
	s.metrics.seen(r.MadeAt, r.SizeBytes)
	s.metrics.took.Set(r.Took.Seconds())
	s.Log.Info("backup made", "key", Prefix+nameAt(r.MadeAt), "bytes", r.SizeBytes, "dur", r.Took, "tags", r.Rows("tags"))
	if err := errors.Join(s.pruneStored(ctx), s.pruneDir()); err != nil && ctx.Err() == nil {
		s.Log.Error("old backups are not deleted", "err", err)
	}
	return s.cfg.Every, nil
}

// make makes one backup and puts it where it belongs: into the storage last, so
// that whether one is due is told by those that are everywhere.
func (s *Schedule) make(ctx context.Context) (r Result, err error) {
	if s.cfg.Dir != "" {
		if err := errors.Join(os.MkdirAll(s.cfg.Dir, 0o700), sweep(s.cfg.Dir)); err != nil {
			return r, err
		}
	}
	work, err := os.MkdirTemp(s.cfg.Dir, workPattern)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if r, err = Create(ctx, s.Rows, filepath.Join(work, "backup"+suffix), s.Version, nil); err != nil {
		return r, err
	}
	name := nameAt(r.MadeAt)
	f, err := os.Open(r.Path)
	if err != nil {
		return r, err
	}
	defer f.Close()
	if s.cfg.Dir != "" {
		if err := errors.Join(os.Rename(r.Path, filepath.Join(s.cfg.Dir, name)), syncDir(s.cfg.Dir)); err != nil {
			return r, err
		}
		if s.untaken != "" && s.untaken != name {
			// Or those of a storage that takes none would drive the older ones out.
			_ = os.Remove(filepath.Join(s.cfg.Dir, s.untaken))
		}
		s.untaken = name
	}
	if err := s.Store.PutFile(ctx, Prefix+name, f, r.SizeBytes); err != nil {
		return r, fmt.Errorf("put the backup into the storage: %w", err)
	}
	s.untaken = ""
	return r, nil
}

// sweep removes what hubs left in the folder that were killed at work.
func sweep(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, workPattern))
	for _, path := range left {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return err
}

// pruneStored deletes the oldest in the storage beyond what is kept.
func (s *Schedule) pruneStored(ctx context.Context) error {
	if s.cfg.Keep <= 0 {
		return nil
	}
	all, err := List(ctx, s.Store)
	if err != nil {
		return err
	}
	for i := s.cfg.Keep; i < len(all); i++ {
		if err := s.Store.Delete(ctx, all[i].Key); err != nil {
			return fmt.Errorf("delete an old backup: %w", err)
		}
	}
	return nil
}

// pruneDir does so in the folder, which is to fill up least of all when the
// storage takes nothing.
func (s *Schedule) pruneDir() error {
	if s.cfg.Keep <= 0 || s.cfg.Dir == "" {
		return nil
	}
	paths, err := listDir(s.cfg.Dir)
	if err != nil {
		return err
	}
	for i := s.cfg.Keep; i < len(paths); i++ {
		if err := os.Remove(paths[i]); err != nil {
			return err
		}
	}
	return nil
}
