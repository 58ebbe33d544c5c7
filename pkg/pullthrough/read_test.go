package pullthrough

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

var seedFlag = flag.Uint64("seed", 0, "seed of TestRandomReaders; 0 takes a new one")

// dice are random numbers that several goroutines may draw.
type dice struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (d *dice) below(n int64) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.Int64N(n)
}

// doze sleeps up to most of the bubble's time.
func (d *dice) doze(most time.Duration) { time.Sleep(time.Duration(d.below(int64(most)))) }

// one in n times it is true.
func (d *dice) one(n int64) bool { return d.below(n) == 0 }

// Readers come and go at random with random ranges, while the blob arrives in
// random pieces by streams that break at random.
func TestRandomReaders(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("to run this again: -run TestRandomReaders -seed %d", seed)
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	d := &dice{r: rand.New(rand.NewPCG(seed, 0))}
	for range rounds {
		for _, fault := range []error{nil, errors.New("the origin has had enough")} {
			bubble(t, func(t *testing.T) { randomReaders(t, d, fault) })
		}
	}
}

// randomReaders is one fill. With fault, the origin refuses all streams from
// some time on, and sections may fail.
func randomReaders(t *testing.T, d *dice, fault error) {
	size := d.below(6*ChunkBytes) + 1
	if d.one(4) {
		size = d.below(3 * HoldBackBytes)
	}
	o, s := newOrigin(t, byte(d.below(256)), size), newStore(t)
	o.piece = func() int { return 1 + int(d.below(2*bufferBytes)) }
	o.pace = func() { d.doze(20 * time.Millisecond) } // 6 MiB/s or so
	for off := d.below(mib); off < size; off += earnBytes + d.below(3*mib) {
		o.breakAt(off, io.ErrUnexpectedEOF, 1+int(d.below(maxResumes-1)))
	}
	e := New(s, Options{FarAhead: time.Duration(1 + d.below(int64(time.Second)))})
	defer e.Close()

	var wg sync.WaitGroup
	for range 1 + d.below(6) {
		wg.Go(func() {
			d.doze(4 * time.Second)
			b, err := e.Blob(t.Context(), o.want, o.open)
			if err != nil {
				if fault == nil {
					t.Errorf("Blob: %v", err)
				}
				return
			}
			defer b.Close()
			for range 1 + d.below(4) {
				off := d.below(size + 1)
				n := d.below(size - off + 1)
				if d.one(3) {
					n = size - off
				}
				if d.one(3) {
					abandon(t, d, b, o, off, n)
					continue
				}
				got, err := read(t.Context(), b, off, n)
				if err != nil && fault == nil {
					t.Errorf("%d bytes from %d of %d: %v", n, off, size, err)
				}
				if !bytes.Equal(got, o.data[off:off+int64(len(got))]) {
					t.Errorf("%d bytes from %d of %d are wrong", n, off, size)
				}
				d.doze(time.Second)
			}
		})
	}
	if fault != nil {
		d.doze(6 * time.Second)
		o.mu.Lock()
		o.refuse = fault
		o.mu.Unlock()
	}
	wg.Wait()
	if fault == nil {
		checkFetch(t, e, o)
	}
	e.Close()
	o.checkClosed()
	switch {
	case fault == nil:
		o.checkOnce()
		if !s.holds(o.want.Digest) {
			t.Error("not stored")
		}
	default: // what was stored or kept is right
		o.mu.Lock()
		o.refuse, o.breaks = nil, nil
		o.mu.Unlock()
		e := New(s, Options{})
		defer e.Close()
		checkFetch(t, e, o)
	}
}

// abandon begins a section and goes away in the midst of it, in one of two
// ways.
func abandon(t *testing.T, d *dice, b *oci.Blob, o *origin, off, n int64) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if d.one(2) {
		stop := time.AfterFunc(time.Duration(d.below(int64(time.Second))), cancel)
		defer stop.Stop()
	}
	r, err := b.Section(ctx, off, n)
	if err != nil {
		return
	}
	defer r.Close()
	got := make([]byte, d.below(n+1))
	k, _ := io.ReadFull(r, got)
	if !bytes.Equal(got[:k], o.data[off:off+int64(k)]) {
		t.Errorf("%d bytes from %d are wrong", k, off)
	}
}

// The last HoldBackBytes wait for the rest; all before them do not.
func TestHoldBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const size = 5 * mib
		o, s := newOrigin(t, 60, size), newStore(t)
		e := New(s, Options{})
		defer e.Close()
		o.hold(size - 1)
		b := openBlob(t, e, o)
		defer b.Close()
		r, err := b.Section(t.Context(), 0, size)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got := make([]byte, size)
		if _, err := io.ReadFull(r, got[:size-HoldBackBytes]); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := io.ReadFull(r, got[size-HoldBackBytes:])
			done <- err
		}()
		synctest.Wait()
		select {
		case err := <-done:
			t.Errorf("the end came before it was proven: %v", err)
		default:
			o.free()
			if err := <-done; err != nil || !bytes.Equal(got, o.data) {
				t.Errorf("the end: %v", err)
			}
		}
		if n, err := r.Read(got); n != 0 || err != io.EOF {
			t.Errorf("at the end: %d, %v", n, err)
		}
	})
}

// A file that is cut under its readers is not taken for a whole body.
func TestFileCutShort(t *testing.T) {
	for _, off := range []int64{0, 1} { // both ways of [read]
		bubble(t, func(t *testing.T) {
			o, s := newOrigin(t, 61, 5*mib), newStore(t)
			e := New(s, Options{Linger: -1})
			defer e.Close()
			o.hold(4 * mib)
			b := openBlob(t, e, o)
			defer b.Close()
			synctest.Wait()
			if err := os.Truncate(filepath.Join(s.dir, o.want.Digest.Encoded()), mib); err != nil {
				t.Fatal(err)
			}
			got, err := read(t.Context(), b, off, 2*mib)
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("got %d bytes and %v, want io.ErrUnexpectedEOF", len(got), err)
			}
		})
	}
}

// A section's context and its Close end a reading that could go on.
func TestSectionEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 62, 5*mib), newStore(t)
		e := New(s, Options{Linger: -1})
		defer e.Close()
		o.hold(4 * mib)
		b := openBlob(t, e, o)
		defer b.Close()
		ctx, cancel := context.WithCancelCause(t.Context())
		r, err := b.Section(ctx, 0, b.Size)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		gone := errors.New("the client has gone")
		cancel(gone)
		if n, err := r.Read(make([]byte, 10)); !errors.Is(err, gone) {
			t.Errorf("Read: %d, %v", n, err)
		}
		r2, err := b.Section(t.Context(), 0, b.Size)
		if err != nil {
			t.Fatal(err)
		}
		r2.Close()
		if n, err := r2.Read(make([]byte, 10)); err == nil {
			t.Errorf("Read of a closed section: %d bytes", n)
		}
	})
}
