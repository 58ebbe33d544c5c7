package meta

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migration is a step of the schema.
type Migration struct {
	Name string // of its file
	SQL  string // as it is run, with comments
}

// Migrate brings the schema up to date: each migration that was not applied
// yet, in order, each in a transaction of its own. When one fails, the
// database is as the one before it left it. Several processes may call it at
// once: one works, the others wait.
func (s *Store) Migrate(ctx context.Context) error {
	err := s.db.Migrations(ctx, func(p *goose.Provider) error {
		_, err := p.Up(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("migrate %s: %w", s.name, translate(err))
	}
	// Whom we waited for may be of a newer release.
	return s.checkSchema(ctx)
}

// Pending names the migrations that [Store.Migrate] would apply. It changes
// nothing.
func (s *Store) Pending(ctx context.Context) ([]string, error) {
	plan, err := s.Plan(ctx)
	var names []string
	for _, m := range plan {
		names = append(names, m.Name)
	}
	return names, err
}

// Plan lists the migrations that [Store.Migrate] would apply, with what they
// would do. It changes nothing.
func (s *Store) Plan(ctx context.Context) ([]Migration, error) {
	applied, err := s.applied(ctx)
	if err != nil {
		return nil, err
	}
	known, err := sources()
	if err != nil {
		return nil, err
	}
	files := migrations(s.db.Schema)
	var plan []Migration
	for _, k := range known {
		if slices.Contains(applied, k.Version) {
			continue
		}
		text, err := fs.ReadFile(files, k.Path)
		if err != nil {
			return nil, err
		}
		plan = append(plan, Migration{Name: k.Path, SQL: string(text)})
	}
	return plan, nil
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
	p, err := goose.NewProvider(goose.DialectSQLite3, new(sql.DB), migrations(nil), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, err
	}
	return p.ListSources(), nil
}

// migrations is a folder of the migrations, spelled for a database; nil as
// they were written.
func migrations(spell func(text string) string) fs.FS { return migrationFS{spell} }

type migrationFS struct{ spell func(text string) string }

// Open implements fs.FS.
func (m migrationFS) Open(name string) (fs.File, error) {
	f, err := migrationFiles.Open(path.Join("migrations", name))
	if err != nil || m.spell == nil || name == "." {
		return f, err
	}
	text, err := io.ReadAll(f)
	return migrationFile{strings.NewReader(m.spell(string(text))), f}, err
}

type migrationFile struct {
	io.Reader
	file fs.File
}

func (f migrationFile) Stat() (fs.FileInfo, error) { return f.file.Stat() }
func (f migrationFile) Close() error               { return f.file.Close() }
