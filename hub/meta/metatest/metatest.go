// Package metatest makes databases for tests: fresh ones of each kind that a
// hub can use, up to date and gone at the test's end.
package metatest

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest/pgtest"
)

// Drivers are what a hub can use.
var Drivers = []string{"sqlite", "postgres"}

// Each runs fn as a subtest on each kind of database.
func Each(t *testing.T, fn func(t *testing.T, driver string)) {
	t.Helper()
	for _, driver := range Drivers {
		t.Run(driver, func(t *testing.T) { fn(t, driver) })
	}
}

// Open opens a fresh database with the settings of c, whose Driver and DSN
// need not be set. It is closed at tb's end. Where there is no Postgres a test
// on it is skipped, or fails with CI=true in the environment.
func Open(tb testing.TB, driver string, c meta.Config) *meta.Store {
	tb.Helper()
	c.Driver, c.DSN = driver, DSN(tb, driver)
	s, err := meta.Open(tb.Context(), c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close %s: %v", driver, err)
		}
	})
	if driver == "sqlite" { // the other was copied from one that is up to date
		if err := s.Migrate(tb.Context()); err != nil {
			tb.Fatal(err)
		}
	}
	return s
}

// DSN is a fresh database's: of postgres one that is up to date, which several
// may open; of sqlite the name of a file that is not there yet.
func DSN(tb testing.TB, driver string) string {
	tb.Helper()
	if driver == "sqlite" {
		return filepath.Join(tb.TempDir(), "hub.db")
	}
	return pgtest.Shared(tb).Copy(tb, "hub", migrate)
}

func migrate(dsn string) error {
	s, err := meta.Open(context.Background(), meta.Config{Driver: "postgres", DSN: dsn})
	if err != nil {
		return err
	}
	return errors.Join(s.Migrate(context.Background()), s.Close())
}
