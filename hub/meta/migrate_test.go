package meta

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write schema.sql anew")

// schema.sql is what the migrations add up to: for reading, and so that a
// migration's effect is seen in review.
func TestSchemaIsTheGoldenOne(t *testing.T) {
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

func TestMigrate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	s, err := Open(t.Context(), Config{Driver: "sqlite", DSN: path})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	for range 2 { // asking changes nothing
		pending, err := s.Pending(t.Context())
		if err != nil || len(pending) == 0 || pending[0] != "0001_init.sql" {
			t.Errorf("Pending of a new database = %v, %v", pending, err)
		}
	}
	must(t, s.Migrate(t.Context()))
	must(t, s.Migrate(t.Context()))
	if pending, err := s.Pending(t.Context()); err != nil || len(pending) > 0 {
		t.Errorf("Pending after Migrate = %v, %v", pending, err)
	}
	must(t, s.Close())
	if s, err = Open(t.Context(), Config{Driver: "sqlite", DSN: path}); err != nil {
		t.Fatal(err)
	}
	must(t, s.PutUser(t.Context(), User{Name: "a"}))
}
