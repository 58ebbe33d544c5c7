package pullthrough

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestResumeAtBreak(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 70, 3*ChunkBytes), newStore(t)
		o.breakAt(5*mib+3, io.ErrUnexpectedEOF, 1)
		o.breakAt(9*mib, errors.New("connection reset"), maxResumes-1)
		e := New(s, Options{})
		defer e.Close()
		checkFetch(t, e, o)
		want := []int64{0, 5*mib + 3, 9 * mib, 9 * mib}
		if got := o.opened(); !slices.Equal(got, want) {
			t.Errorf("opens at %v, want %v", got, want)
		}
		o.checkOnce()
	})
}

func TestNoProgress(t *testing.T) {
	for _, broken := range []error{io.EOF, io.ErrUnexpectedEOF} {
		t.Run(fmt.Sprint(broken), func(t *testing.T) {
			bothWays(t, func(t *testing.T, s *dirStore) {
				o := newOrigin(t, 71, 3*ChunkBytes)
				o.breakAt(5*mib, broken, 100)
				e := New(s, Options{})
				defer e.Close()
				got, err := fetch(t.Context(), e, o.want, o.open)
				if !errors.Is(err, io.ErrUnexpectedEOF) || oci.CodeOf(err) != oci.Unavailable {
					t.Errorf("error %v, want Unavailable with io.ErrUnexpectedEOF in it", err)
				}
				if !bytes.Equal(got, o.data[:len(got)]) {
					t.Errorf("%d bytes came, not those sent", len(got))
				}
				if n := len(o.opened()); n != maxResumes {
					t.Errorf("%d opens, want %d", n, maxResumes)
				}
			})
		})
	}
}

// A source that refuses to go on is not asked again by this fill.
func TestResumeRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 72, 3*ChunkBytes), newStore(t)
		o.hold(5 * mib)
		e := New(s, Options{})
		defer e.Close()
		done := make(chan error)
		go func() {
			_, err := fetch(t.Context(), e, o.want, o.open)
			done <- err
		}()
		synctest.Wait()
		o.mu.Lock()
		o.refuse = oci.Errorf(oci.Denied, "no longer yours")
		o.mu.Unlock()
		o.breakAt(5*mib, io.ErrUnexpectedEOF, 1)
		o.free()
		if err := <-done; oci.CodeOf(err) != oci.Denied {
			t.Errorf("error %v, want the origin's", err)
		}
		if n := len(o.opened()); n != 2 {
			t.Errorf("%d opens, want 2", n)
		}
	})
}

// A source that breaks after each few bytes makes progress, and is given up.
func TestTinyProgress(t *testing.T) {
	o := newOrigin(t, 73, ChunkBytes)
	o.piece = func() int { return 100 }
	for off := int64(100); off < o.want.Size; off += 100 {
		o.breaks = append(o.breaks, breakAt{off, io.ErrUnexpectedEOF, 1})
	}
	e := New(newStore(t), Options{})
	defer e.Close()
	if _, err := fetch(t.Context(), e, o.want, o.open); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v", err)
	}
	if n := len(o.opened()); n > maxOpens+1 {
		t.Errorf("%d opens for %d bytes", n, o.sent())
	}
}

// One stall is got over; a second one in a row ends the fill.
func TestStallOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 74, ChunkBytes), newStore(t)
		o.breakAt(mib, fmt.Errorf("read: %w", oci.ErrStalled), 1)
		o.breakAt(2*mib, oci.ErrStalled, 1)
		e := New(s, Options{})
		defer e.Close()
		checkFetch(t, e, o)
	})
}

func TestStallPenalty(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 75, 3*ChunkBytes), newStore(t)
		o.hold(0)
		o.breakAt(5*mib, fmt.Errorf("read: %w", oci.ErrStalled), 2)
		e := New(s, Options{})
		defer e.Close()
		// A reader comes back the moment it is cut.
		type retry struct{ first, second error }
		retries := make(chan retry)
		for range 20 {
			go func() {
				_, first := fetch(t.Context(), e, o.want, o.open)
				_, second := e.Blob(t.Context(), o.want, o.open)
				retries <- retry{first, second}
			}()
		}
		synctest.Wait()
		o.free()
		for range 20 {
			r := <-retries
			if !errors.Is(r.first, oci.ErrStalled) || oci.CodeOf(r.first) != oci.Unavailable {
				t.Errorf("the stalled body ended with %v", r.first)
			}
			if oci.CodeOf(r.second) != oci.Unavailable {
				t.Errorf("the retry got %v, want Unavailable", r.second)
			}
		}
		if got := o.opened(); !slices.Equal(got, []int64{0, 5 * mib}) {
			t.Errorf("opens at %v: the origin was asked within the penalty", got)
		}
		time.Sleep(9900 * time.Millisecond)
		_, err := e.Blob(t.Context(), o.want, o.open)
		var refused *oci.Error
		if !errors.As(err, &refused) || refused.Code != oci.Unavailable || refused.RetryAfter != 100*time.Millisecond {
			t.Errorf("0.1 s before its end: %#v", err)
		}
		other := newOrigin(t, 76, 10)
		checkFetch(t, e, other) // the penalty is the blob's alone
		time.Sleep(100 * time.Millisecond)
		checkFetch(t, e, o)
		if got := o.opened(); !slices.Equal(got, []int64{0, 5 * mib, ChunkBytes}) {
			t.Errorf("opens at %v, want the kept chunk spared", got)
		}
	})
}

func TestNoStallPenalty(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 77, ChunkBytes), newStore(t)
		o.breakAt(mib, oci.ErrStalled, 2)
		e := New(s, Options{StallPenalty: -1})
		defer e.Close()
		if _, err := fetch(t.Context(), e, o.want, o.open); !errors.Is(err, oci.ErrStalled) {
			t.Fatalf("the stalled body ended with %v", err)
		}
		checkFetch(t, e, o)
	})
}

// An origin that answers the second time with a blob of another size is not
// taken for the same.
func TestResumeOtherSize(t *testing.T) {
	bothWays(t, func(t *testing.T, s *dirStore) {
		o := newOrigin(t, 78, 2*ChunkBytes)
		other := newOrigin(t, 79, ChunkBytes+mib)
		o.breakAt(ChunkBytes, io.ErrUnexpectedEOF, 1)
		src := func(ctx context.Context, off int64) (*Stream, error) {
			if off > 0 {
				return other.open(ctx, off)
			}
			return o.open(ctx, off)
		}
		e := New(s, Options{})
		defer e.Close()
		if _, err := fetch(t.Context(), e, o.want, src); oci.CodeOf(err) != oci.Unavailable {
			t.Errorf("error %v, want Unavailable", err)
		}
		e.Close()
		other.checkClosed()
		o.checkClosed()
	})
}
