package hub

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/breakwater-oci/breakwater/hub/backup"
	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/version"
)

type (
	// BackupResult is what a backup holds.
	BackupResult = backup.Result
	// StoredBackup is one in the storage.
	StoredBackup = backup.Stored
	// RestoreOptions say how to restore.
	RestoreOptions = backup.Options
	// RestoreReport says what a restore did or would do.
	RestoreReport = backup.Report
)

// WriteBackup backs up the configured database into a file, see
// [backup.Create]. A hub may run meanwhile.
func WriteBackup(ctx context.Context, cfg Config, path string, p meta.Progress) (BackupResult, error) {
	rows, err := metaConfig(cfg, nil)
	if err != nil {
		return BackupResult{}, fmt.Errorf("metadata: %w", err)
	}
	return backup.Create(ctx, rows, path, version.String(), p)
}

// StoredBackups lists the backups in the configured storage, the newest first.
func StoredBackups(ctx context.Context, cfg Config) (all []StoredBackup, err error) {
	err = withStorage(ctx, cfg, func(store blob.Store) error {
		all, err = backup.List(ctx, store)
		return err
	})
	return all, err
}

// Restore makes the configured database hold what a backup does, and looks for
// its blobs in the configured storage, see [backup.Restore]. No hub may run.
func Restore(ctx context.Context, cfg Config, from string, o RestoreOptions) (r RestoreReport, err error) {
	rows, err := metaConfig(cfg, nil)
	if err != nil {
		return r, fmt.Errorf("metadata: %w", err)
	}
	err = withStorage(ctx, cfg, func(store blob.Store) error {
		r, err = backup.Restore(ctx, rows, store, from, o)
		return err
	})
	return r, err
}

func withStorage(ctx context.Context, cfg Config, fn func(blob.Store) error) (err error) {
	store, err := openStorage(ctx, cfg.Storage, nil)
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return fn(store)
}

func (h *Hub) openBackups() error {
	if h.cfg.Backup.Every == 0 {
		return nil
	}
	rows, err := metaConfig(h.cfg, h.log)
	if err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	h.backups = backup.New(
		backup.Config{Every: time.Duration(h.cfg.Backup.Every), Keep: h.cfg.Backup.Keep, Dir: h.cfg.Backup.Dir},
		backup.Parts{Rows: rows, Store: h.owned, Leases: h.rows, Version: version.String(), Log: h.log, Metrics: h.metrics},
	)
	return nil
}
