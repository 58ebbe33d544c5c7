package pullthrough

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestCloseDuringFill(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 5, 20*mib), newStore(t)
		e := New(s, Options{})
		o.hold(9 * mib)
		errs := make(chan error)
		for range 5 {
			go func() {
				_, err := fetch(t.Context(), e, o.want, o.open)
				errs <- err
			}()
		}
		synctest.Wait()
		go e.Close()
		for range 5 {
			if err := <-errs; oci.CodeOf(err) != oci.Unavailable {
				t.Errorf("reader ended with %v, want Unavailable", err)
			}
		}
		e.Close() // waits for the first
		if n := count(s.keeps(o.want.Digest)); n != 2 {
			t.Errorf("%d chunks kept, want 2", n)
		}
		if _, err := e.Blob(t.Context(), o.want, o.open); oci.CodeOf(err) != oci.Unavailable {
			t.Errorf("Blob after Close: %v, want Unavailable", err)
		}
		o.checkClosed()

		o.free()
		e = New(s, Options{})
		defer e.Close()
		checkFetch(t, e, o)
		if got := o.opened(); !slices.Equal(got, []int64{0, 8 * mib}) {
			t.Errorf("opens at %v, want the second at 8 MiB", got)
		}
	})
}

func TestCloseBeforeOriginAnswers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o := newOrigin(t, 15, 10)
		e := New(newStore(t), Options{})
		done := make(chan error)
		go func() {
			_, err := e.Blob(t.Context(), o.want, func(ctx context.Context, _ int64) (*Stream, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})
			done <- err
		}()
		synctest.Wait()
		go e.Close()
		if err := <-done; oci.CodeOf(err) != oci.Unavailable {
			t.Errorf("Blob ended with %v, want Unavailable", err)
		}
		e.Close()
	})
}

// Close and Blob race: no fill is left running after Close has returned.
func TestCloseRace(t *testing.T) {
	o, s := newOrigin(t, 6, 1000), newStore(t)
	for range 200 {
		e := New(s, Options{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if b, err := e.Fill(t.Context(), o.want, o.open); err == nil {
					b.Close()
				}
			})
		}
		e.Close()
		if n := e.Filling(); n != 0 {
			t.Fatalf("%d fills under way after Close", n)
		}
		wg.Wait()
	}
}

func TestNoGoroutinesLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	for i := range byte(5) {
		e := New(newStore(t), Options{})
		checkFetch(t, e, newOrigin(t, i, 200_000))
		lingers := newOrigin(t, 99, mib)
		lingers.hold(1000)
		openBlob(t, e, lingers).Close()
		e.Close()
	}
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > before {
		buf := make([]byte, 64<<10)
		t.Errorf("%d goroutines, %d before:\n%s", n, before, buf[:runtime.Stack(buf, true)])
	}
}
