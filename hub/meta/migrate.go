package meta

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// oldestProgram is the line by which a migration says which releases may go on
// using, and open, the schema that it makes: those that know the schema up to
// this version. Their statements must work on it and do no harm: what they
// write is to be right for the newer ones, and what they delete is to be
// nobody's. Without the line it is for releases that know it themselves.
var oldestProgram = regexp.MustCompile(`(?m)^-- oldest program: (\d+)$`)

// Migration is a step of the schema.
type Migration struct {
	Name string // of its file
	SQL  string // as it is run, with comments
}

// Migrate brings the schema up to date: each migration that was not applied
// yet, in order, each in a transaction of its own. When one fails, the
// database is as the one before it left it. Several processes may call it at
// once: one works, the others wait. It also notes which releases may open the
// schema, for these to read.
func (s *Store) Migrate(ctx context.Context) error {
	err := s.db.Migrations(ctx, func(p *goose.Provider) error {
		_, err := p.UpTo(ctx, s.knows)
		return err
	})
	if err == nil {
		err = s.noteForeign(ctx)
	}
	if err == nil {
		err = s.noteOldest(ctx)
	}
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
		if k.Version > s.knows || slices.Contains(applied, k.Version) {
			continue
		}
		text, err := fs.ReadFile(files, k.Path)
		if err != nil {
			return nil, err
		}
		plan = append(plan, Migration{Name: k.Path, SQL: string(text)})
	}
	if known, err := s.foreignKnown(ctx); err != nil || known {
		return plan, err
	}
	return append(plan, foreignPlan), nil
}

// checkSchema refuses a database that is another program's, or that a newer
// release has changed in ways this one cannot work with.
func (s *Store) checkSchema(ctx context.Context) error {
	tables, err := s.tables(ctx)
	if err != nil {
		return err
	}
	applied, err := s.applied(ctx)
	if err != nil {
		return err
	}
	has := slices.Max(append(applied, 0))
	if has <= s.knows {
		return nil
	}
	oldest := has
	if slices.Contains(tables, "facts") {
		value, err := s.Fact(ctx, schemaFact(has))
		if err == nil {
			oldest, err = strconv.ParseInt(value, 10, 64)
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	if s.knows >= oldest {
		return nil
	}
	return fmt.Errorf("%w: its schema is version %d, for releases that know version %d or later, and this one knows up to %d; "+
		"start the newer release again, or restore a backup made before it", ErrNewer, has, oldest, s.knows)
}

// schemaFact is the name of the fact that says the oldest version of the schema
// whose releases may open this one. Each version has its own: an old release
// that notes what it knows changes nothing for the new one.
func schemaFact(version int64) string {
	return schemaFacts + strconv.FormatInt(version, 10)
}

const schemaFacts = "schema."

// noteOldest notes who may open the newest schema that this release knows.
// Until it is done nobody older does.
func (s *Store) noteOldest(ctx context.Context) error {
	oldest, err := oldestFor(s.knows)
	if err != nil {
		return err
	}
	name, want := schemaFact(s.knows), strconv.FormatInt(oldest, 10)
	has, err := s.Fact(ctx, name)
	if err == nil && has == want || err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	return s.SetFact(ctx, name, want)
}

// oldestFor reads from a migration who may open the schema that it makes.
func oldestFor(version int64) (int64, error) {
	known, err := sources()
	if err != nil {
		return 0, err
	}
	for _, k := range known {
		if k.Version != version {
			continue
		}
		text, err := fs.ReadFile(migrations(nil), k.Path)
		if err != nil {
			return 0, err
		}
		if m := oldestProgram.FindSubmatch(text); m != nil {
			return strconv.ParseInt(string(m[1]), 10, 64)
		}
	}
	return version, nil
}

// newestSchema is the version that the last migration makes.
func newestSchema() (int64, error) {
	known, err := sources()
	if err != nil {
		return 0, err
	}
	return known[len(known)-1].Version, nil
}

// tables lists those of the database.
func (s *Store) tables(ctx context.Context) (names []string, err error) {
	rs, err := s.db.Query(ctx, `SELECT name FROM {tables} AS t`)
	return collect(rs, err, func(r row, name *string) error { return r.Scan(name) })
}

// applied lists the versions of the migrations the database has had.
func (s *Store) applied(ctx context.Context) (versions []int64, err error) {
	defer wrap(&err, "meta.applied")
	tables, err := s.tables(ctx)
	switch {
	case err != nil || len(tables) == 0:
		return nil, err
	case !slices.Contains(tables, goose.DefaultTablename):
		return nil, fmt.Errorf("%w: it has tables, but none of ours", ErrNotDatabase)
	}
	rs, err := s.db.Query(ctx, `SELECT version_id FROM goose_db_version WHERE version_id > 0`)
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
