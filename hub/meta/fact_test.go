package meta

import (
	"errors"
	"testing"
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
