package meta

import (
	"context"
	"sync"
)

// Notify tells every hub that shares this database of a topic; some may miss
// it. It is a hint to look, never the news itself.
func (s *Store) Notify(ctx context.Context, topic string) (err error) {
	defer wrap(&err, "meta.Notify(%q)", topic)
	return s.db.Notify(ctx, topic)
}

// Listen calls fn with each topic that a hub, this one too, notifies of, one
// at a time, until ctx ends, whose error it returns. The topic "" says that
// some may have been missed, and all that was kept in memory is to be looked
// up again; it comes first, and after each new connection to the database.
func (s *Store) Listen(ctx context.Context, fn func(topic string)) (err error) {
	defer wrap(&err, "meta.Listen")
	return s.db.Listen(ctx, fn)
}

// topics hands topics from goroutine to goroutine.
type topics struct {
	mu        sync.Mutex
	listeners map[*listener]bool
}

type listener struct {
	queue []string // of topics.mu
	more  chan struct{}
}

// send never waits for a listener.
func (t *topics) send(topic string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for l := range t.listeners {
		l.queue = append(l.queue, topic)
		select {
		case l.more <- struct{}{}:
		default: // told already
		}
	}
}

func (t *topics) listen(ctx context.Context, fn func(topic string)) error {
	l := &listener{more: make(chan struct{}, 1)}
	t.mu.Lock()
	if t.listeners == nil {
		t.listeners = make(map[*listener]bool)
	}
	t.listeners[l] = true
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.listeners, l)
	}()
	for fn(""); ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.more:
		}
		t.mu.Lock()
		queue := l.queue
		l.queue = nil
		t.mu.Unlock()
		for _, topic := range queue {
			fn(topic)
		}
	}
}
