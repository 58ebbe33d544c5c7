package meta

import (
	"context"
	"runtime"
	"sync"
)

// herd spares the database the same look-up many times over: of a thousand
// nodes that begin to pull a tag at once, the first asks, and then one for all
// the others. Nobody is given what was read before he asked: who comes while a
// look-up runs waits for the next one, and shares it with all who come before
// that begins. The zero value is ready.
//
// What V points at is shared too, and so for nobody to change.
type herd[K comparable, V any] struct {
	mu      sync.Mutex
	running map[K]*lookup[V]
}

// lookup is one that runs, or the next to.
type lookup[V any] struct {
	// Of herd.mu.
	next    *lookup[V]    // for those who come while this one runs
	waiting int           // for this one, with who runs it
	begun   bool          // it asks: who comes now is too late
	done    chan struct{} // closed once v, err and void are set; nil while nobody waits

	turn chan struct{} // whoever receives from it runs the look-up; nil for one that has who made it
	v    V
	err  error
	void bool // it ended with the context of who ran it
}

// look returns what ask does, or what it just did for another.
func (h *herd[K, V]) look(ctx context.Context, key K, ask func(context.Context) (V, error)) (V, error) {
	l, mine := h.join(key)
	if mine {
		return h.run(ctx, key, l, ask)
	}
	select {
	case <-l.turn:
		return h.run(ctx, key, l, ask)
	case <-l.done:
		if l.void {
			return h.look(ctx, key, ask)
		}
		return l.v, l.err
	case <-ctx.Done():
		h.leave(key, l)
		var none V
		return none, ctx.Err()
	}
}

// join returns a new look-up to run, or one to wait for: of those that are
// under way the first that has not begun.
func (h *herd[K, V]) join(key K) (l *lookup[V], mine bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	running, ok := h.running[key]
	if !ok {
		if h.running == nil {
			h.running = make(map[K]*lookup[V])
		}
		l = &lookup[V]{waiting: 1}
		h.running[key] = l
		return l, true
	}
	l = running
	if running.begun {
		if running.next == nil {
			running.next = &lookup[V]{turn: make(chan struct{}, 1)}
		}
		l = running.next
	}
	if l.done == nil {
		l.done = make(chan struct{})
	}
	l.waiting++
	return l, false
}

func (h *herd[K, V]) run(ctx context.Context, key K, l *lookup[V], ask func(context.Context) (V, error)) (V, error) {
	runtime.Gosched() // those whose requests were read already come in time: of 32 clients 11 share a look-up, not 8
	h.begin(l)
	l.void = true // should ask panic
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.pass(key, l)
		if l.done != nil {
			close(l.done)
		}
	}()
	l.v, l.err = ask(ctx)
	l.void = l.err != nil && ctx.Err() != nil
	return l.v, l.err
}

func (h *herd[K, V]) begin(l *lookup[V]) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l.begun = true
}

// leave is for who waits for l no longer. That he was the last shows here, or
// when what runs before l ends.
func (h *herd[K, V]) leave(key K, l *lookup[V]) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l.waiting--; l.waiting == 0 && h.running[key] == l {
		h.pass(key, l) // its turn came, and nobody took it
	}
}

// pass gives the turn to those who wait for the look-up after l. Call with mu
// held.
func (h *herd[K, V]) pass(key K, l *lookup[V]) {
	if l.next == nil || l.next.waiting == 0 {
		delete(h.running, key)
		return
	}
	h.running[key] = l.next
	l.next.turn <- struct{}{} // there is room: it is given once
}
