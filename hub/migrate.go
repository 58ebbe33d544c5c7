package hub

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/breakwater-oci/breakwater/hub/meta"
)

// Migrate brings the database up to date and says what that was; with dryRun
// only what it would be.
func Migrate(ctx context.Context, cfg Config, dryRun bool) (plan []meta.Migration, err error) {
	if _, missing := noDatabase(cfg); missing && dryRun {
		return planOfNew(ctx)
	}
	rows, err := openRows(ctx, cfg, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	if plan, err = rows.Plan(ctx); err != nil || dryRun {
		return plan, err
	}
	return plan, rows.Migrate(ctx)
}

// planOfNew is what a database that is not there yet will be made by.
func planOfNew(ctx context.Context) (plan []meta.Migration, err error) {
	dir, err := os.MkdirTemp("", "breakwater-plan-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rows, err := meta.Open(ctx, meta.Config{Driver: "sqlite", DSN: filepath.Join(dir, "hub.db")})
	if err != nil {
		return nil, err
	}
	plan, err = rows.Plan(ctx)
	return plan, errors.Join(err, rows.Close())
}
