package pullthrough

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Whoever joins shares the fill and keeps it alive; without one there is
// nothing to join, nor is one begun.
func TestJoin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 1, 9*mib), newStore(t)
		e := New(s, Options{Linger: -1})
		defer e.Close()
		if _, err := e.Join(t.Context(), o.want.Digest); !errors.Is(err, ErrNoFill) {
			t.Errorf("Join without a fill: %v, want ErrNoFill", err)
		}
		o.hold(5 * mib)
		first := openBlob(t, e, o)
		second, err := e.Join(t.Context(), o.want.Digest)
		if err != nil {
			t.Fatal(err)
		}
		first.Close() // the fill goes on for the other
		synctest.Wait()
		o.free()
		if got, err := read(t.Context(), second, 0, second.Size); err != nil || !bytes.Equal(got, o.data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		second.Close()
		synctest.Wait()
		o.checkOnce()
		if _, err := e.Join(t.Context(), o.want.Digest); !errors.Is(err, ErrNoFill) {
			t.Errorf("Join of what is stored: %v, want ErrNoFill", err)
		}
	})
}

// What is not kept is not to be shared, and what failed says why.
func TestJoinWhatIsNotKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 1, mib), newStore(t)
		s.full = true
		e := New(s, Options{})
		defer e.Close()
		b := openBlob(t, e, o)
		if _, err := e.Join(t.Context(), o.want.Digest); !errors.Is(err, ErrNoFill) {
			t.Errorf("Join of a passed-through blob: %v, want ErrNoFill", err)
		}
		b.Close()
		synctest.Wait()

		asked, answer := make(chan struct{}), make(chan struct{})
		go func() {
			_, _ = e.Blob(t.Context(), o.want, func(context.Context, int64) (*Stream, error) {
				close(asked)
				<-answer
				return nil, oci.Errorf(oci.Denied, "not yours")
			})
		}()
		<-asked
		joined := make(chan error)
		go func() {
			_, err := e.Join(t.Context(), o.want.Digest)
			joined <- err
		}()
		synctest.Wait()
		close(answer)
		if err := <-joined; oci.CodeOf(err) != oci.Denied {
			t.Errorf("Join of a fill that was refused: %v", err)
		}
	})
}

// One reader's refusal is not another's: who joined its fill asks for himself.
func TestRefusedFillDoesNotRefuseOthers(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error // of the first one's source; nil: it expects another size
	}{
		{"absent", oci.Errorf(oci.BlobUnknown, "not in this repository")},
		{"denied", oci.Errorf(oci.Denied, "not yours")},
		{"size", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				o, s := newOrigin(t, 1, mib), newStore(t)
				e := New(s, Options{})
				defer e.Close()
				asked, answer := make(chan struct{}), make(chan struct{})
				first := make(chan error)
				go func() {
					want := o.want
					if tt.err == nil {
						want.Size++
					}
					_, err := e.Blob(t.Context(), want, func(ctx context.Context, off int64) (*Stream, error) {
						close(asked)
						<-answer
						if tt.err != nil {
							return nil, tt.err
						}
						return o.open(ctx, off)
					})
					first <- err
				}()
				<-asked
				second := make(chan error)
				go func() {
					got, err := fetch(t.Context(), e, o.want, o.open)
					if err == nil && !bytes.Equal(got, o.data) {
						err = errors.New("other bytes")
					}
					second <- err
				}()
				synctest.Wait()
				close(answer)
				if err := <-first; err == nil {
					t.Error("the first one got the blob")
				}
				if err := <-second; err != nil {
					t.Errorf("the other one: %v", err)
				}
				synctest.Wait()
				o.checkClosed()
			})
		})
	}
}

// An origin that is away is away for all: nobody asks it again for each who
// waited.
func TestUnavailableIsSharedByAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 1, mib), newStore(t)
		e := New(s, Options{})
		defer e.Close()
		answer := make(chan struct{})
		opens := 0
		src := func(context.Context, int64) (*Stream, error) {
			opens++
			<-answer
			return nil, oci.Errorf(oci.Unavailable, "away")
		}
		errs := make(chan error)
		for range 10 {
			go func() {
				_, err := e.Blob(t.Context(), o.want, src)
				errs <- err
			}()
		}
		synctest.Wait()
		close(answer)
		for range 10 {
			if err := <-errs; oci.CodeOf(err) != oci.Unavailable {
				t.Error(err)
			}
		}
		if opens != 1 {
			t.Errorf("the origin was asked %d times", opens)
		}
	})
}

// A source may find that the store has the blob by now: all are served from
// there, and nothing is written.
func TestStoredMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 1, mib), newStore(t)
		other := New(s, Options{}) // as another process that shares the store
		defer other.Close()
		e := New(s, Options{})
		defer e.Close()
		opens := 0
		got, err := fetch(t.Context(), e, o.want, func(ctx context.Context, off int64) (*Stream, error) {
			if _, err := fetch(ctx, other, o.want, o.open); err != nil {
				return nil, err
			}
			synctest.Wait() // it is committed
			opens++
			st, err := o.open(ctx, off)
			if err == nil {
				st.Stored = true
			}
			return st, err
		})
		if err != nil || !bytes.Equal(got, o.data) || opens != 1 {
			t.Errorf("%d bytes, %v, opened %d times", len(got), err, opens)
		}
		synctest.Wait()
		o.checkOnce()
		o.checkClosed()
	})
}

// Draining ends what nobody reads; what somebody reads goes on until he leaves.
func TestDrain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		read1, idle, s := newOrigin(t, 1, 9*mib), newOrigin(t, 2, 9*mib), newStore(t)
		e := New(s, Options{Linger: time.Hour})
		defer e.Close()
		for _, o := range []*origin{read1, idle} {
			o.hold(5 * mib)
		}
		b := openBlob(t, e, read1)
		openBlob(t, e, idle).Close()
		synctest.Wait()
		if n := e.Filling(); n != 2 {
			t.Fatalf("%d fills linger or run, want 2", n)
		}
		e.Drain()
		synctest.Wait()
		if n := e.Filling(); n != 1 {
			t.Errorf("%d fills after Drain, want the one that is read", n)
		}
		late := newOrigin(t, 3, mib) // a request that was let in before
		late.hold(1)
		c := openBlob(t, e, late)
		b.Close()
		c.Close()
		synctest.Wait()
		if n := e.Filling(); n != 0 {
			t.Errorf("%d fills after their readers left", n)
		}
		if got := read1.opened(); !slices.Equal(got, []int64{0}) {
			t.Errorf("opened at %v", got)
		}
	})
}
