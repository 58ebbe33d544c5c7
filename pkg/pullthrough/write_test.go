package pullthrough

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// checkRange fails the test unless the n bytes from off come and are right.
func checkRange(t *testing.T, b *oci.Blob, o *origin, off, n int64) {
	t.Helper()
	got, err := read(t.Context(), b, off, n)
	if err != nil || !bytes.Equal(got, o.data[off:off+n]) {
		t.Errorf("%d bytes from %d: got %d, %v", n, off, len(got), err)
	}
}

func TestFarAhead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 40, 12*ChunkBytes), newStore(t)
		e := New(s, Options{})
		defer e.Close()
		o.holdOnly(span{mib, 2 * mib}) // the main writer is stuck
		b := openBlob(t, e, o)
		defer b.Close()
		checkRange(t, b, o, 10*ChunkBytes+100, mib)
		if got := o.opened(); !slices.Equal(got, []int64{0, 10 * ChunkBytes}) {
			t.Errorf("opens at %v, want the range's chunk fetched for itself", got)
		}
		o.free()
		checkRange(t, b, o, 0, b.Size)
		if got := o.opened(); len(got) != 3 {
			t.Errorf("opens at %v, want one more, behind what was there", got)
		}
		o.checkOnce()
	})
}

// A range that the main writer reaches in time costs no stream of its own.
func TestRangeIsDue(t *testing.T) {
	const size, reached, off = 60 * mib, 20 * mib, 50 * mib
	for _, tt := range []struct {
		name  string
		after time.Duration // that the main writer took to come to reached
		opens []int64
	}{
		{"in 1.5 s at 20 MiB/s", time.Second, []int64{0}},
		{"in 30 s at 1 MiB/s", 20 * time.Second, []int64{0, 48 * mib}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				o, s := newOrigin(t, 41, size), newStore(t)
				e := New(s, Options{})
				defer e.Close()
				o.holdOnly(span{reached, reached + mib})
				b := openBlob(t, e, o)
				defer b.Close()
				time.Sleep(tt.after)
				done := make(chan struct{})
				go func() {
					defer close(done)
					checkRange(t, b, o, off, mib)
				}()
				synctest.Wait()
				if got := o.opened(); !slices.Equal(got, tt.opens) {
					t.Errorf("opens at %v, want %v", got, tt.opens)
				}
				o.free()
				<-done
				checkRange(t, b, o, 0, size)
				o.checkOnce()
			})
		})
	}
}

// A range that waits because it seemed due is fetched when it no longer is.
func TestRangeNoLongerDue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 42, 60*mib), newStore(t)
		e := New(s, Options{})
		defer e.Close()
		o.holdOnly(span{20 * mib, 40 * mib})
		b := openBlob(t, e, o)
		defer b.Close()
		time.Sleep(time.Second)
		done := make(chan struct{})
		go func() {
			defer close(done)
			checkRange(t, b, o, 50*mib, mib)
		}()
		synctest.Wait()
		if got := o.opened(); len(got) != 1 {
			t.Fatalf("opens at %v, want the range to wait", got)
		}
		time.Sleep(time.Minute)
		o.holdOnly(span{20*mib + 1, 40 * mib}) // a byte a minute
		<-done
		if got := o.opened(); !slices.Equal(got, []int64{0, 48 * mib}) {
			t.Errorf("opens at %v", got)
		}
		o.free()
		checkRange(t, b, o, 0, b.Size)
		o.checkOnce()
	})
}

// A writer ahead fetches the chunks of its range and stops.
func TestAheadStopsAtRange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 43, 20*ChunkBytes), newStore(t)
		e := New(s, Options{})
		defer e.Close()
		o.holdOnly(span{mib, 2 * mib})
		b := openBlob(t, e, o)
		defer b.Close()
		r, err := b.Section(t.Context(), 12*ChunkBytes+1, ChunkBytes) // and is not read
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if want := int64(mib + 2*ChunkBytes); o.sent() != want {
			t.Errorf("%d bytes were fetched, want the main writer's and two chunks: %d", o.sent(), want)
		}
		r.Close()
		o.free()
		checkRange(t, b, o, 0, b.Size)
		o.checkOnce()
	})
}

func TestAheadBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 44, 20*ChunkBytes), newStore(t)
		e := New(s, Options{})
		defer e.Close()
		o.hold(mib)
		b := openBlob(t, e, o)
		defer b.Close()
		var wg sync.WaitGroup
		for i := range int64(9) {
			wg.Go(func() { checkRange(t, b, o, (10+i)*ChunkBytes, 3) })
		}
		synctest.Wait()
		o.free()
		wg.Wait()
		checkRange(t, b, o, 0, b.Size)
		if o.most > 1+maxAhead {
			t.Errorf("%d streams at once, want at most %d", o.most, 1+maxAhead)
		}
		o.checkOnce()
	})
}

// A writer ahead that has ended makes room for another.
func TestAheadOneAfterAnother(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 52, (10+2*maxAhead)*ChunkBytes), newStore(t)
		e := New(s, Options{Linger: -1})
		defer e.Close()
		o.holdOnly(span{mib, 2 * mib})
		b := openBlob(t, e, o)
		defer b.Close()
		for i := range int64(2*maxAhead - 1) {
			checkRange(t, b, o, (10+i)*ChunkBytes, ChunkBytes)
		}
		if n := len(o.opened()); n != 1+2*maxAhead-1 {
			t.Errorf("%d opens, want one for each range and the main writer's", n)
		}
	})
}

// Close does not wait for a reader that holds on to its section.
func TestCloseDuringAhead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const off = 10 * ChunkBytes
		o, s := newOrigin(t, 53, 12*ChunkBytes), newStore(t)
		e := New(s, Options{})
		o.holdOnly(span{mib, 2 * mib}, span{off + mib, 1 << 62})
		b := openBlob(t, e, o)
		defer b.Close()
		r, err := b.Section(t.Context(), off, ChunkBytes)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		e.Close()
		o.checkClosed()
		if _, err := io.Copy(io.Discard, r); oci.CodeOf(err) != oci.Unavailable {
			t.Errorf("the section ended with %v, want Unavailable", err)
		}
	})
}

// The end of a blob is not served before all of it is there: a range that
// lies in it costs no stream of its own.
func TestNoAheadForHeldBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 45, 12*ChunkBytes), newStore(t)
		e := New(s, Options{})
		defer e.Close()
		o.hold(mib)
		b := openBlob(t, e, o)
		defer b.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			checkRange(t, b, o, b.Size-1000, 1000)
		}()
		synctest.Wait()
		o.free()
		<-done
		if got := o.opened(); len(got) != 1 {
			t.Errorf("opens at %v, want one", got)
		}
	})
}

// Two readers share a writer ahead; when the one it was begun for leaves, the
// other goes on where it was.
func TestAheadOutlivesItsReader(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const off = 10 * ChunkBytes
		o, s := newOrigin(t, 46, 12*ChunkBytes), newStore(t)
		e := New(s, Options{})
		defer e.Close()
		main := span{mib, 2 * mib}
		o.holdOnly(main, span{off + mib, off + 2*mib})
		b := openBlob(t, e, o)
		defer b.Close()
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error)
		go func() {
			_, err := read(ctx, b, off, 3*mib)
			first <- err
		}()
		synctest.Wait()
		second := make(chan struct{})
		go func() {
			defer close(second)
			checkRange(t, b, o, off, 3*mib)
		}()
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("first reader: %v", err)
		}
		synctest.Wait()
		o.holdOnly(main)
		<-second
		if got := o.opened(); !slices.Equal(got, []int64{0, off, off + mib}) {
			t.Errorf("opens at %v, want the second to go on at %d", got, off+mib)
		}
		o.free()
		checkRange(t, b, o, 0, b.Size)
		o.checkOnce()
	})
}

// What a writer ahead left half done is not written again by another: readers
// and verifier have had it, and must see wrong bytes in it.
func TestHalfChunkIsNotReplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const off = 10 * ChunkBytes
		good, bad := newOrigin(t, 47, 12*ChunkBytes), newOrigin(t, 47, 12*ChunkBytes)
		bad.data[off+5] ^= 1
		good.holdOnly(span{mib, 2 * mib})
		bad.hold(off + mib)
		src := func(ctx context.Context, at int64) (*Stream, error) {
			if at == off {
				return bad.open(ctx, at)
			}
			return good.open(ctx, at)
		}
		s := newStore(t)
		e := New(s, Options{})
		defer e.Close()
		b, err := e.Blob(t.Context(), good.want, src)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := read(t.Context(), b, off, mib); err != nil || !bytes.Equal(got, bad.data[off:off+mib]) {
			t.Fatalf("the bad range: %v", err)
		}
		synctest.Wait()
		good.free()
		got, err := read(t.Context(), b, off, 2*ChunkBytes)
		if err == nil {
			t.Errorf("wrong bytes up to the end: complete, as sent: %v", bytes.Equal(got, good.data[off:]))
		}
		b.Close()
		synctest.Wait()
		if s.holds(good.want.Digest) {
			t.Error("stored, though a reader had other bytes")
		}
		checkFetch(t, e, good)
	})
}

// When a writer ahead fails its reader waits for the main writer, and the
// origin is not asked over and over.
func TestAheadFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 48, 12*ChunkBytes), newStore(t)
		var mu sync.Mutex
		asked := 0
		src := func(ctx context.Context, off int64) (*Stream, error) {
			mu.Lock()
			defer mu.Unlock()
			if off > 0 {
				asked++
				return nil, oci.Errorf(oci.Unavailable, "no ranges today")
			}
			return o.open(ctx, off)
		}
		e := New(s, Options{})
		defer e.Close()
		o.hold(mib)
		b, err := e.Blob(t.Context(), o.want, src)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			checkRange(t, b, o, 10*ChunkBytes, mib)
		}()
		synctest.Wait()
		o.free()
		<-done
		if asked != 1 {
			t.Errorf("the origin was asked for a range %d times, want once", asked)
		}
	})
}

// A chunk that the main writer has passed by, because another was at it, is
// fetched for whoever waits for it.
func TestChunkLeftBehind(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const off = 10 * ChunkBytes
		o, s := newOrigin(t, 49, 15*ChunkBytes), newStore(t)
		e := New(s, Options{})
		defer e.Close()
		ahead, far := span{off + mib, off + 2*mib}, span{off + ChunkBytes + mib, 1 << 62}
		o.holdOnly(span{mib, 2 * mib}, ahead, far)
		b := openBlob(t, e, o)
		defer b.Close()
		r, err := b.Section(t.Context(), off, ChunkBytes)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		o.holdOnly(ahead, far) // the main writer goes round the chunk
		synctest.Wait()
		r.Close()
		synctest.Wait()
		o.holdOnly(far)
		checkRange(t, b, o, 0, off+ChunkBytes)
		want := []int64{0, off, off + ChunkBytes, off + mib}
		if got := o.opened(); !slices.Equal(got, want) {
			t.Errorf("opens at %v, want %v", got, want)
		}
		o.free()
		checkRange(t, b, o, 0, b.Size)
		o.checkOnce()
	})
}

// containerd's parallel fetch: open-ended ranges, each closed after its chunk.
func TestOpenEndedRanges(t *testing.T) {
	const part, workers = 16 * mib, 3
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 50, 6*part), newStore(t)
		o.piece = func() int { return 64 << 10 }
		o.pace = func() { time.Sleep(8 * time.Millisecond) } // 8 MiB/s
		e := New(s, Options{Linger: time.Second, FarAhead: 100 * time.Millisecond})
		defer e.Close()
		parts := make(chan int64)
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for off := range parts {
					b, err := e.Blob(t.Context(), o.want, o.open)
					if err != nil {
						t.Error(err)
						continue
					}
					r, err := b.Section(t.Context(), off, b.Size-off)
					if err != nil {
						t.Error(err)
						b.Close()
						continue
					}
					got := make([]byte, min(part, b.Size-off))
					if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, o.data[off:off+int64(len(got))]) {
						t.Errorf("part at %d: %v", off, err)
					}
					r.Close()
					b.Close()
				}
			})
		}
		begun := time.Now()
		for off := int64(0); off < o.want.Size; off += part {
			parts <- off
		}
		close(parts)
		wg.Wait()
		took := time.Since(begun)
		e.Close()
		if !s.holds(o.want.Digest) || s.begun != 1 || s.resumed != 0 {
			t.Errorf("stored: %v, fills begun %d and resumed %d; want one that runs through", s.holds(o.want.Digest), s.begun, s.resumed)
		}
		o.checkOnce()
		o.checkClosed()
		if n := len(o.opened()); n < 3 || n > 1+2*6 {
			t.Errorf("%d opens, want some ahead and at most two for each part", n)
		}
		if alone := time.Duration(o.want.Size/(64<<10)) * 8 * time.Millisecond; took > alone*2/3 {
			t.Errorf("took %v; one stream alone takes %v", took, alone)
		}
	})
}

// Chunks are saved while a long fill runs, and never while it commits.
func TestSavesOnTheWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 51, 3*saveEveryBytes+5), newStore(t)
		saves := 0
		slow := make(chan struct{})
		s.saved = func(oci.Digest) { saves++; <-slow }
		e := New(s, Options{})
		defer e.Close()
		checkFetch(t, e, o)
		synctest.Wait()
		if saves != 1 || s.holds(o.want.Digest) {
			t.Errorf("%d saves at once, stored: %v; want one, and the commit after it", saves, s.holds(o.want.Digest))
		}
		close(slow)
		e.Close()
		if !s.holds(o.want.Digest) {
			t.Error("not stored")
		}
	})
}
