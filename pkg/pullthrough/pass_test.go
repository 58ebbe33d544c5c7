package pullthrough

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func fullStore(t *testing.T) *dirStore {
	s := newStore(t)
	s.full = true
	return s
}

func TestPassThroughMany(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o := newOrigin(t, 30, ChunkBytes+5)
		e := New(fullStore(t), Options{})
		defer e.Close()
		o.hold(0)
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				got, err := fetch(t.Context(), e, o.want, o.open)
				if err != nil || !bytes.Equal(got, o.data) {
					t.Errorf("got %d bytes: %v", len(got), err)
				}
			})
		}
		synctest.Wait()
		o.free()
		wg.Wait()
		synctest.Wait()
		if n := len(o.opened()); n != 5 {
			t.Errorf("%d opens for 5 readers", n)
		}
		o.checkClosed()
	})
}

// A stream that nobody came to read is closed when its readers have left.
func TestPassThroughUnread(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o := newOrigin(t, 31, ChunkBytes)
		e := New(fullStore(t), Options{})
		defer e.Close()
		openBlob(t, e, o).Close()
		synctest.Wait()
		o.checkClosed()
	})
}

func TestPassThroughRange(t *testing.T) {
	for _, verified := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			o := newOrigin(t, 32, ChunkBytes)
			o.peer = verified
			e := New(fullStore(t), Options{})
			defer e.Close()
			b := openBlob(t, e, o)
			defer b.Close()
			for _, r := range []span{{0, 10}, {100, 2000}, {1, ChunkBytes}, {ChunkBytes - 5, ChunkBytes}} {
				got, err := read(t.Context(), b, r.off, r.end-r.off)
				switch {
				case verified && (err != nil || !bytes.Equal(got, o.data[r.off:r.end])):
					t.Errorf("range %v of a verified origin: %d bytes, %v", r, len(got), err)
				case !verified && oci.CodeOf(err) != oci.Unavailable:
					t.Errorf("range %v of an origin that verifies nothing: %v", r, err)
				}
			}
			if n := len(o.opened()); !verified && n != 1 {
				t.Errorf("%d opens: a range that is refused costs none", n)
			}
			if got, err := read(t.Context(), b, 0, b.Size); err != nil || !bytes.Equal(got, o.data) {
				t.Errorf("the whole: %v", err)
			}
			o.checkClosed()
		})
	}
}

// A range begun at a peer that verifies does not go on at an origin that does
// not.
func TestPassThroughLosesItsPeer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		peer, other := newOrigin(t, 33, ChunkBytes), newOrigin(t, 33, ChunkBytes)
		peer.peer = true
		peer.breakAt(mib, io.ErrUnexpectedEOF, 1)
		other.data[2*mib] ^= 1
		src := func(ctx context.Context, off int64) (*Stream, error) {
			if off >= mib {
				return other.open(ctx, off)
			}
			return peer.open(ctx, off)
		}
		e := New(fullStore(t), Options{})
		defer e.Close()
		b, err := e.Blob(t.Context(), peer.want, src)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		got, err := read(t.Context(), b, 1000, 3*mib)
		if err == nil {
			t.Errorf("a range of which a part is unverified came whole")
		}
		if !bytes.Equal(got, peer.data[1000:mib]) {
			t.Errorf("got %d bytes, want those up to the break", len(got))
		}
		b.Close()
		peer.checkClosed()
		other.checkClosed()
	})
}

func TestPassThroughResumes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o := newOrigin(t, 34, ChunkBytes)
		o.breakAt(mib, io.ErrUnexpectedEOF, 1)
		o.breakAt(ChunkBytes-10, io.ErrUnexpectedEOF, 2)
		e := New(fullStore(t), Options{})
		defer e.Close()
		checkFetch(t, e, o)
		if got := o.opened(); len(got) != 4 {
			t.Errorf("opens at %v", got)
		}
	})
}

// The reader's context ends its reading, also of the stream it took over.
func TestPassThroughCanceled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o := newOrigin(t, 35, ChunkBytes)
		o.hold(mib)
		e := New(fullStore(t), Options{})
		defer e.Close()
		b := openBlob(t, e, o)
		defer b.Close()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := read(ctx, b, 0, b.Size)
			done <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("read ended with %v", err)
		}
		if n := len(o.opened()); n != 1 {
			t.Errorf("%d opens: one was made for a reader who had left", n)
		}
	})
}

// An error before the first byte can still become a status.
func TestPassThroughFirstByte(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, size := range []int64{10, ChunkBytes} {
			o := newOrigin(t, 36, size)
			o.breakAt(0, io.ErrUnexpectedEOF, maxResumes)
			e := New(fullStore(t), Options{})
			defer e.Close()
			b := openBlob(t, e, o)
			defer b.Close()
			if r, err := b.Section(t.Context(), 0, size); err == nil {
				r.Close()
				t.Errorf("Section of %d bytes succeeded without a byte in hand", size)
			}
			o.checkClosed()
		}
	})
}
