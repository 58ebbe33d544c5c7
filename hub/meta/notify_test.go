package meta

import (
	"context"
	"errors"
	"testing"
)

// topicsOf listens until the test's end.
func topicsOf(t *testing.T, s *Store) <-chan string {
	t.Helper()
	heard := make(chan string, 100)
	ended := make(chan error)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- s.Listen(ctx, func(topic string) { heard <- topic }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Listen: %v, want context.Canceled", err)
		}
	})
	if first := <-heard; first != "" {
		t.Errorf("the first topic is %q", first)
	}
	return heard
}

func TestNotify(t *testing.T) {
	dsn := newDSN(t)
	s := openStore(t, dsn, nil)
	listeners := []<-chan string{topicsOf(t, s), topicsOf(t, s)}
	if driver == "postgres" {
		listeners = append(listeners, topicsOf(t, openStore(t, dsn, nil)))
	}
	must(t, s.Notify(t.Context(), "a"))
	err := s.write(t.Context(), func(q querier) error {
		if err := q.Notify(t.Context(), "never"); err != nil {
			return err
		}
		return ErrConflict
	})
	if !errors.Is(err, ErrConflict) {
		t.Error(err)
	}
	must(t, s.write(t.Context(), func(q querier) error {
		_, err := q.Exec(t.Context(), `INSERT INTO facts (name, value, updated_at) VALUES ('new', 'x', 0)`)
		return errors.Join(err, q.Notify(t.Context(), "b"))
	}))
	for i, heard := range listeners {
		if topic := <-heard; topic != "a" {
			t.Errorf("listener %d heard %q first, want a", i, topic)
		}
		if topic := <-heard; topic != "b" {
			t.Errorf("listener %d heard %q then, want b", i, topic)
		}
		must(t, second(s.Fact(t.Context(), "new"))) // it is there when it is told of
	}
}

func TestListenAgain(t *testing.T) {
	only(t, "postgres")
	s := newStore(t, nil)
	heard := topicsOf(t, s)
	endBackends(t, s)
	if topic := <-heard; topic != "" {
		t.Errorf("heard %q after the connection broke, want that something may have been missed", topic)
	}
	must(t, s.Ping(t.Context())) // a look-up: it finds out that all others broke too
	must(t, s.Notify(t.Context(), "a"))
	if topic := <-heard; topic != "a" {
		t.Errorf("heard %q, want a", topic)
	}
}
