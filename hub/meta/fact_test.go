package meta

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
)

func TestFacts(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	if _, err := s.Fact(ctx, "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Fact before SetFact: %v, want ErrNotFound", err)
	}
	for _, value := range []string{"1", "", "2"} {
		must(t, s.SetFact(ctx, "a", value))
		if got, err := s.Fact(ctx, "a"); got != value || err != nil {
			t.Errorf("Fact = %q, %v; want %q", got, err, value)
		}
	}
}

func TestID(t *testing.T) {
	s := newStore(t, nil)
	ids := make([]string, 8)
	var g errgroup.Group
	for i := range ids { // hubs that start at once
		g.Go(func() (err error) {
			ids[i], err = s.ID(t.Context())
			return err
		})
	}
	must(t, g.Wait())
	if all := slices.Compact(ids); len(all) != 1 || uuid.Validate(all[0]) != nil {
		t.Errorf("ids of one database: %v", all)
	}
	if other, err := newStore(t, nil).ID(t.Context()); err != nil || other == ids[0] {
		t.Errorf("another database has the id %q, %v", other, err)
	}
}

func TestARestoredDatabaseIsAnother(t *testing.T) {
	s, c, _ := fullStore(t)
	id, err := s.ID(t.Context())
	must(t, err)
	path, _ := dump(t, c)
	eachTarget(t, func(t *testing.T, to Config) {
		b, err := OpenBackup(t.Context(), copyOf(t, path), nil)
		must(t, err)
		must(t, second(b.Restore(t.Context(), to, RestoreOptions{})))
		r, err := Open(t.Context(), to)
		must(t, err)
		defer r.Close()
		if was, err := r.Fact(t.Context(), IDFact); !errors.Is(err, ErrNotFound) {
			t.Errorf("the id of the backup came with it: %q, %v", was, err)
		}
		if other, err := r.ID(t.Context()); err != nil || other == id || other == "" {
			t.Errorf("the restored database has the id %q, %v; that of the source is %s", other, err, id)
		}
	})
}
