package meta

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// asking is a herd's look-up that takes a second and returns how many began.
type asking struct {
	herd  herd[string, int64]
	began atomic.Int64
}

func (a *asking) look(ctx context.Context) (int64, error) {
	return a.herd.look(ctx, "key", func(ctx context.Context) (int64, error) {
		n := a.began.Add(1)
		select {
		case <-time.After(time.Second):
			return n, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	})
}

// idle fails the test when the herd remembers anything.
func (a *asking) idle(t *testing.T) {
	t.Helper()
	synctest.Wait()
	if len(a.herd.running) > 0 {
		t.Errorf("%d keys are still looked up", len(a.herd.running))
	}
}

func TestHerdSharesTheNextLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a asking
		var group sync.WaitGroup
		for i := range 4 { // at 0 s, 0.4 s, 0.8 s, 1.2 s, many at a time
			for range 100 {
				group.Go(func() {
					before := a.began.Load()
					got, err := a.look(t.Context())
					if err != nil || got <= before {
						t.Errorf("look = %d, %v: it began before it was asked for, when %d had", got, err, before)
					}
				})
				if i == 0 {
					synctest.Wait() // the first runs, for itself
				}
			}
			time.Sleep(400 * time.Millisecond)
		}
		group.Wait()
		// The first's, that of all until 1 s, that of all until 2 s.
		if n := a.began.Load(); n != 3 {
			t.Errorf("%d look-ups for 400 callers, want 3", n)
		}
		a.idle(t)
	})
}

func TestHerdSharesWhatHasNotBegun(t *testing.T) {
	var h herd[string, int]
	l, mine := h.join("key")
	if other, his := h.join("key"); !mine || his || other != l {
		t.Errorf("who came second was given %p (to run: %t), want %p to wait for", other, his, l)
	}
	got, err := h.run(t.Context(), "key", l, func(context.Context) (int, error) {
		if late, his := h.join("key"); his || late == l {
			t.Error("who came once it had begun was given what was read before he came")
		} else {
			h.leave("key", late)
		}
		return 7, nil
	})
	<-l.done
	if got != 7 || err != nil || l.v != 7 || l.void {
		t.Errorf("run = %d, %v, and %d for who waited", got, err, l.v)
	}
	if len(h.running) > 0 {
		t.Error("the key is still looked up")
	}
}

func TestHerdKeysAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h herd[int, int]
		var group sync.WaitGroup
		begun := time.Now()
		for i := range 10 {
			group.Go(func() {
				got, err := h.look(t.Context(), i, func(context.Context) (int, error) {
					time.Sleep(time.Second)
					return i, fmt.Errorf("of %d", i)
				})
				if got != i || err == nil || err.Error() != fmt.Sprintf("of %d", i) {
					t.Errorf("look(%d) = %d, %v", i, got, err)
				}
			})
		}
		group.Wait()
		if took := time.Since(begun); took != time.Second {
			t.Errorf("they waited for each other: %v", took)
		}
	})
}

// Whoever goes takes nobody with him: neither who runs a look-up, nor who waits
// for one, at whatever moment.
func TestHerdCallersGo(t *testing.T) {
	for _, first := range []time.Duration{0, 500 * time.Millisecond, 10 * time.Second} {
		for _, second := range []time.Duration{500 * time.Millisecond, time.Second, 1500 * time.Millisecond, 10 * time.Second} {
			t.Run(fmt.Sprintf("first after %v, second after %v", first, second), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { callersGo(t, first, second) })
			})
		}
	}
}

func callersGo(t *testing.T, first, second time.Duration) {
	var a asking
	var group sync.WaitGroup
	with := func(limit time.Duration) {
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			if _, err := a.look(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
		synctest.Wait()
	}
	with(first)
	with(second) // may be told to run the next
	for range 3 {
		group.Go(func() {
			if _, err := a.look(t.Context()); err != nil {
				t.Errorf("another's end became ours: %v", err)
			}
		})
	}
	synctest.Wait()
	group.Wait()
	a.idle(t)

	with(10 * time.Second) // runs
	with(second)           // waits for the next, alone
	group.Wait()
	a.idle(t)
}

func TestHerdOutlivesAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a asking
		var group sync.WaitGroup
		group.Go(func() {
			defer func() { _ = recover() }()
			_, _ = a.herd.look(t.Context(), "key", func(context.Context) (int64, error) {
				time.Sleep(time.Second)
				panic("on purpose")
			})
		})
		synctest.Wait()
		if n, err := a.look(t.Context()); n != 1 || err != nil {
			t.Errorf("look after a panic = %d, %v", n, err)
		}
		group.Wait()
		a.idle(t)
	})
}
