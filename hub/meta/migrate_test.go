package meta

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
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

// connect opens a connection beside the store's.
func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	must(t, err)
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}
