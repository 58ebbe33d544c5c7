package metatest_test

import (
	"errors"
	"testing"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
)

func TestEachDatabaseIsItsOwn(t *testing.T) {
	metatest.Each(t, func(t *testing.T, driver string) {
		a, b := metatest.Open(t, driver, meta.Config{}), metatest.Open(t, driver, meta.Config{})
		if err := a.PutUser(t.Context(), meta.User{Name: "ann"}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.User(t.Context(), "ann"); !errors.Is(err, meta.ErrNotFound) {
			t.Errorf("another database's user: %v, want ErrNotFound", err)
		}
	})
}
