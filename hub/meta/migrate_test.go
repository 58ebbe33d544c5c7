package meta

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/breakwater-oci/breakwater/hub/meta/metatest/pgtest"
)

var update = flag.Bool("update", false, "write schema.sql anew")

// schema.sql is what the migrations add up to: for reading, and so that a
// migration's effect is seen in review.
func TestSchemaIsTheGoldenOne(t *testing.T) {
	only(t, "sqlite")
	s := newStore(t, nil)
	rs, err := s.db.Query(t.Context(), `
		SELECT sql FROM sqlite_master
		 WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'goose_%'
		 ORDER BY tbl_name, type DESC, name`)
	all, err := collect(rs, err, func(r row, text *string) error { return r.Scan(text) })
	must(t, err)
	got := strings.Join(all, ";\n\n") + ";\n"
	if *update {
		must(t, os.WriteFile("schema.sql", []byte(got), 0o644))
	}
	want, err := os.ReadFile("schema.sql")
	must(t, err)
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("schema.sql is not what the migrations make; go test -update writes it anew (-want +got):\n%s", diff)
	}
}

// emptyDSN is a database's that has nothing in it.
func emptyDSN(t *testing.T) string {
	t.Helper()
	if driver == "sqlite" {
		return filepath.Join(t.TempDir(), "hub.db")
	}
	return pgtest.Shared(t).Database(t)
}

func TestMigrate(t *testing.T) {
	dsn := emptyDSN(t)
	s, err := Open(t.Context(), Config{Driver: driver, DSN: dsn})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	for range 2 { // asking changes nothing
		pending, err := s.Pending(t.Context())
		if err != nil || len(pending) == 0 || pending[0] != "0001_init.sql" {
			t.Errorf("Pending of a new database = %v, %v", pending, err)
		}
	}
	plan, err := s.Plan(t.Context())
	if err != nil || len(plan) < 2 || plan[1].Name != "0002_registry.sql" || !strings.Contains(plan[1].SQL, "CREATE TABLE trash (") {
		t.Errorf("Plan of a new database = %v, %v", plan, err)
	}
	if autoincrement := strings.Contains(plan[0].SQL, "AUTOINCREMENT"); autoincrement != (driver == "sqlite") {
		t.Errorf("the plan is not in %s's words:\n%s", driver, plan[0].SQL)
	}
	must(t, s.Migrate(t.Context()))
	must(t, s.Migrate(t.Context()))
	if pending, err := s.Pending(t.Context()); err != nil || len(pending) > 0 {
		t.Errorf("Pending after Migrate = %v, %v", pending, err)
	}
	must(t, s.Close())
	if s, err = Open(t.Context(), Config{Driver: driver, DSN: dsn}); err != nil {
		t.Fatal(err)
	}
	must(t, s.PutUser(t.Context(), User{Name: "a"}))
}

// Replicas start at once, each with a migration of its own.
func TestMigrateAtOnce(t *testing.T) {
	only(t, "postgres")
	dsn := emptyDSN(t)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			s, err := Open(t.Context(), Config{Driver: driver, DSN: dsn})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if err := s.Migrate(t.Context()); err != nil {
				t.Error(err)
			}
			if pending, err := s.Pending(t.Context()); err != nil || len(pending) > 0 {
				t.Errorf("Pending after Migrate = %v, %v", pending, err)
			}
		})
	}
	wg.Wait()
	c := connect(t, dsn)
	var n, versions int
	must(t, c.QueryRow(t.Context(), `SELECT count(*), count(DISTINCT version_id) FROM goose_db_version`).Scan(&n, &versions))
	if n != versions || n < 3 {
		t.Errorf("%d migrations are noted, %d different ones", n, versions)
	}
}

// A migration that fails half-way leaves nothing, and the lock to others.
func TestMigrateFails(t *testing.T) {
	only(t, "postgres")
	dsn := emptyDSN(t)
	s, err := Open(t.Context(), Config{Driver: driver, DSN: dsn})
	must(t, err)
	defer s.Close()
	c := connect(t, dsn)
	_, err = c.Exec(t.Context(), `CREATE TABLE users (name TEXT)`) // in the way of the last statement of 0001
	must(t, err)
	if err := s.Migrate(t.Context()); err == nil || !strings.Contains(err.Error(), "users") {
		t.Errorf("Migrate over another's table: %v", err)
	}
	var n int
	must(t, c.QueryRow(t.Context(), `SELECT count(*) FROM pg_tables WHERE tablename IN ('projects', 'repos', 'fills')`).Scan(&n))
	if n > 0 {
		t.Errorf("%d tables of the migration that failed are there", n)
	}
	_, err = c.Exec(t.Context(), `DROP TABLE users`)
	must(t, err)
	must(t, s.Migrate(t.Context()))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Migrate(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Migrate with a context that has ended: %v", err)
	}
}

// A hub's database may be another program's too, in a schema of its own.
func TestSchemaOfItsOwn(t *testing.T) {
	only(t, "postgres")
	dsn := emptyDSN(t)
	c := connect(t, dsn)
	_, err := c.Exec(t.Context(), `CREATE TABLE people (name TEXT)`)
	must(t, err)
	if _, err := Open(t.Context(), Config{Driver: driver, DSN: dsn}); !errors.Is(err, ErrNotDatabase) {
		t.Errorf("Open of another's database: %v, want ErrNotDatabase", err)
	}
	dsn += "&search_path=hub"
	if _, err := Open(t.Context(), Config{Driver: driver, DSN: dsn}); err == nil || !strings.Contains(err.Error(), "CREATE SCHEMA") {
		t.Errorf("Open with a schema that is not there: %v", err)
	}
	_, err = c.Exec(t.Context(), `CREATE SCHEMA hub`)
	must(t, err)
	s, err := Open(t.Context(), Config{Driver: driver, DSN: dsn})
	must(t, err)
	defer s.Close()
	must(t, s.Migrate(t.Context()))
	must(t, s.PutUser(t.Context(), User{Name: "a"}))
	var schema string
	must(t, c.QueryRow(t.Context(), `SELECT schemaname FROM pg_tables WHERE tablename = 'users'`).Scan(&schema))
	if schema != "hub" {
		t.Errorf("our tables are in %s", schema)
	}

	_, err = c.Exec(t.Context(), `INSERT INTO hub.goose_db_version (version_id, is_applied) VALUES (4711, TRUE)`)
	must(t, err)
	if _, err := Open(t.Context(), Config{Driver: driver, DSN: dsn}); !errors.Is(err, ErrNewer) {
		t.Errorf("Open of a newer database: %v, want ErrNewer", err)
	}
}

// A release that knows the schema up to the one before starts on the newest one
// as well, amid a rollout and after a rollback, where the newest one says so.
func TestOlderReleaseOpensNewerSchema(t *testing.T) {
	newest, err := newestSchema()
	must(t, err)
	oldest, err := oldestFor(newest)
	must(t, err)
	dsn := emptyDSN(t)
	open := func(knows int64) (*Store, error) {
		return openKnowing(t.Context(), Config{Driver: driver, DSN: dsn}, knows)
	}
	works := func(s *Store, name string) {
		t.Helper()
		must(t, s.PutUser(t.Context(), User{Name: name}))
		must(t, second(s.User(t.Context(), name)))
	}
	before, err := open(newest - 1)
	must(t, err)
	defer func() { must(t, before.Close()) }()
	must(t, before.Migrate(t.Context()))
	if pending, err := before.Pending(t.Context()); err != nil || len(pending) > 0 {
		t.Errorf("Pending of what the release before knows = %v, %v", pending, err)
	}
	if driver == "sqlite" { // one at a time
		must(t, before.Close())
	}
	now, err := open(newest)
	must(t, err)
	if pending, err := now.Pending(t.Context()); err != nil || len(pending) != 1 {
		t.Errorf("Pending over the schema of the release before = %v, %v", pending, err)
	}
	must(t, now.Migrate(t.Context()))
	works(now, "now")
	must(t, now.Close())
	if driver == "postgres" && oldest < newest {
		works(before, "before")
	}
	for knows := oldest - 1; knows <= newest; knows++ {
		s, err := open(knows)
		if want := knows < oldest; errors.Is(err, ErrNewer) != want || err != nil && !want {
			t.Fatalf("schema %d is for those that know %d; Open by one that knows %d: %v", newest, oldest, knows, err)
		}
		if err != nil {
			continue
		}
		must(t, s.Migrate(t.Context())) // as each start does
		works(s, fmt.Sprintf("knows %d", knows))
		must(t, s.Close())
	}
	if driver == "sqlite" {
		before, err = open(newest) // for Close
		must(t, err)
	}
}

// What a schema of tomorrow says of who may open it is heeded by this release.
func TestNewerSchemaSaysWhoMayOpenIt(t *testing.T) {
	newest, err := newestSchema()
	must(t, err)
	next := newest + 1
	dsn := emptyDSN(t)
	s, err := Open(t.Context(), Config{Driver: driver, DSN: dsn})
	must(t, err)
	must(t, s.Migrate(t.Context()))
	must(t, second(s.db.Exec(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES ($1, TRUE)`, next)))
	for _, tt := range []struct {
		says string // "" for nothing
		want string // what Open says; "" that it opens
	}{
		{"", fmt.Sprintf("its schema is version %d, for releases that know version %[1]d or later, and this one knows up to %d; start the newer release again", next, newest)},
		{fmt.Sprint(next), "knows up to"},
		{fmt.Sprint(newest), ""},
		{fmt.Sprint(newest - 1), ""},
		{"yes", "invalid syntax"},
	} {
		if tt.says != "" {
			must(t, s.SetFact(t.Context(), schemaFact(next), tt.says))
		}
		must(t, s.Close())
		other, err := Open(t.Context(), Config{Driver: driver, DSN: dsn})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Open of one that says %q: %v; want %q", tt.says, err, tt.want)
		}
		if err == nil {
			must(t, other.Migrate(t.Context()))
			must(t, other.Close())
		} else if (tt.says != "yes") != errors.Is(err, ErrNewer) {
			t.Errorf("Open of one that says %q: %v", tt.says, err)
		}
		s, err = openKnowing(t.Context(), Config{Driver: driver, DSN: dsn}, next)
		must(t, err)
	}
	must(t, s.Close())
}

// A backup is not restored over a schema that has tables which it does not know,
// though one may work on that.
func TestRestoreRefusesNewerSchema(t *testing.T) {
	only(t, "postgres")
	to := Config{Driver: driver, DSN: newDSN(t)}
	path, _ := dump(t, to)
	b, err := OpenBackup(t.Context(), path, nil)
	must(t, err)
	newest, err := newestSchema()
	must(t, err)
	s, err := Open(t.Context(), to)
	must(t, err)
	must(t, second(s.db.Exec(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES ($1, TRUE)`, newest+1)))
	must(t, s.SetFact(t.Context(), schemaFact(newest+1), fmt.Sprint(newest)))
	must(t, s.Close())
	if _, err := b.Restore(t.Context(), to, RestoreOptions{Replace: true}); !errors.Is(err, ErrNewer) {
		t.Errorf("Restore: %v, want ErrNewer", err)
	}
}

// The statements of the oldest release that may use a schema find all that they
// name, and need not give what they do not know.
func TestSchemaSuitsOlderReleases(t *testing.T) {
	only(t, "sqlite")
	type definition struct {
		Type  string
		Needs bool // a value of its own
	}
	schema := func(version int64) map[string]definition {
		pool, err := openPlain(filepath.Join(t.TempDir(), "at.db"), "")
		must(t, err)
		defer pool.Close()
		must(t, schemaAt(t.Context(), pool, version))
		rs, err := pool.QueryContext(t.Context(), `
			SELECT m.name || '.' || c.name, c.type, c."notnull" AND c.dflt_value IS NULL AND c.pk = 0
			  FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'`)
		must(t, err)
		defer rs.Close()
		all := make(map[string]definition)
		for rs.Next() {
			var name string
			var d definition
			must(t, rs.Scan(&name, &d.Type, &d.Needs))
			all[name] = d
		}
		must(t, rs.Err())
		return all
	}
	faults := func(old, now map[string]definition) (bad []string) {
		for name, was := range old {
			if is, ok := now[name]; !ok || is.Type != was.Type {
				bad = append(bad, name+" is gone, or of another type")
			}
		}
		for name, is := range now {
			table, _, _ := strings.Cut(name, ".")
			_, known := old[name]
			ofOld := slices.ContainsFunc(slices.Collect(maps.Keys(old)), func(o string) bool { return strings.HasPrefix(o, table+".") })
			if ofOld && !known && is.Needs {
				bad = append(bad, name+" is new and has no default")
			}
		}
		return bad
	}
	newest, err := newestSchema()
	must(t, err)
	for version := int64(2); version <= newest; version++ {
		oldest, err := oldestFor(version)
		must(t, err)
		if oldest > version || oldest < 1 {
			t.Fatalf("migration %d says it is for those that know %d", version, oldest)
		}
		for was := oldest; was < version; was++ {
			if bad := faults(schema(was), schema(version)); len(bad) > 0 {
				t.Errorf("migration %d says that those who know %d may go on, but %s", version, was, strings.Join(bad, ", "))
			}
		}
	}
	if len(faults(schema(2), schema(1))) == 0 {
		t.Error("no fault is found where tables and columns are missing: this test has become another")
	}
}

// connect opens a connection beside the store's.
func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	must(t, err)
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}
