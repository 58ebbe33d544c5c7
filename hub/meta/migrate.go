package meta

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"slices"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the schema up to date: each migration that was not applied
// yet, in order, each in a transaction of its own.
func (s *Store) Migrate(ctx context.Context) error {
	return s.db.Plain(ctx, func(pool *sql.DB) error {
		p, err := provider(pool)
		if err != nil {
			return err
		}
		if _, err := p.Up(ctx); err != nil {
			return fmt.Errorf("migrate %s: %w", s.path, err)
		}
		return nil
	})
}

// Pending names the migrations that [Store.Migrate] would apply. It changes
// nothing.
func (s *Store) Pending(ctx context.Context) ([]string, error) {
	applied, err := s.applied(ctx)
	if err != nil {
		return nil, err
	}
	known, err := sources()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, k := range known {
		if !slices.Contains(applied, k.Version) {
			names = append(names, k.Path)
		}
	}
	return names, nil
}

// checkSchema refuses a database that is another program's, or that a newer
// release has changed in ways this one does not know.
func (s *Store) checkSchema(ctx context.Context) error {
	applied, err := s.applied(ctx)
	if err != nil {
		return err
	}
	known, err := sources()
	if err != nil {
		return err
	}
	newest := known[len(known)-1].Version
	if has := slices.Max(append(applied, 0)); has > newest {
		return fmt.Errorf("%w: its schema is version %d, this release knows up to %d", ErrNewer, has, newest)
	}
	return nil
}

// applied lists the versions of the migrations the database has had.
func (s *Store) applied(ctx context.Context) (versions []int64, err error) {
	defer wrap(&err, "meta.applied")
	rs, err := s.db.Query(ctx, `SELECT name FROM {tables} AS t`)
	tables, err := collect(rs, err, func(r row, name *string) error { return r.Scan(name) })
	switch {
	case err != nil || len(tables) == 0:
		return nil, err
	case !slices.Contains(tables, goose.DefaultTablename):
		return nil, fmt.Errorf("%w: it has tables, but none of ours", ErrNotDatabase)
	}
	rs, err = s.db.Query(ctx, `SELECT version_id FROM goose_db_version WHERE version_id > 0`)
	return collect(rs, err, func(r row, v *int64) error { return r.Scan(v) })
}

// sources lists the migrations this release knows, in order.
func sources() ([]*goose.Source, error) {
	p, err := provider(new(sql.DB)) // only asked for what it was given
	if err != nil {
		return nil, err
	}
	return p.ListSources(), nil
}

func provider(pool *sql.DB) (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectSQLite3, pool, files, goose.WithDisableGlobalRegistry(true))
}
