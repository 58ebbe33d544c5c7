package pullthrough

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// read reads a section the way a connection is served. A section that ends
// short without an error is an error here.
func read(ctx context.Context, b *oci.Blob, off, n int64) ([]byte, error) {
	s, err := b.Section(ctx, off, n)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	buf := bytes.NewBuffer(make([]byte, 0, n+bytes.MinRead)) // grown step by step it is slow under -race
	if off%2 == 0 {
		_, err = io.Copy(buf, s) // by WriteTo
	} else {
		_, err = io.Copy(buf, struct{ io.Reader }{s})
	}
	if err == nil && int64(buf.Len()) != n {
		err = fmt.Errorf("section of %d bytes ended at %d without an error", n, buf.Len())
	}
	return buf.Bytes(), err
}

// fetch opens a blob and reads it whole.
func fetch(ctx context.Context, e *Engine, want oci.Descriptor, src Source) ([]byte, error) {
	b, err := e.Blob(ctx, want, src)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return read(ctx, b, 0, b.Size)
}

// checkFetch fails the test unless the blob comes whole and right.
func checkFetch(t *testing.T, e *Engine, o *origin) {
	t.Helper()
	got, err := fetch(t.Context(), e, o.want, o.open)
	if err != nil {
		t.Fatalf("fetch of %d bytes: %v", o.want.Size, err)
	}
	if !bytes.Equal(got, o.data) {
		t.Fatalf("fetch of %d bytes gave others", o.want.Size)
	}
}

// openBlob opens the origin's blob and must not fail.
func openBlob(t *testing.T, e *Engine, o *origin) *oci.Blob {
	t.Helper()
	b, err := e.Blob(t.Context(), o.want, o.open)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// openFiles is the number of files this process has open.
func openFiles(t *testing.T) int {
	t.Helper()
	dir, err := os.Open("/proc/self/fd") // by Open: the runtime's poller has its files from then on
	if err != nil {
		t.Skip("no /proc to count open files in")
	}
	defer dir.Close()
	fds, err := dir.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// bubble runs f where time stands until all wait. It fails when goroutines or
// open files are left over.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	before := openFiles(t)
	synctest.Test(t, f)
	if after := openFiles(t); after > before {
		t.Errorf("%d files are open, %d were before", after, before)
	}
}

const mib = 1 << 20

func TestFillOnceForMany(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 1, 10*mib+123), newStore(t)
		e := New(s, Options{})
		defer e.Close()
		o.hold(0)
		var wg sync.WaitGroup
		var mu sync.Mutex
		sources := make(map[oci.Source]int)
		for range 50 {
			wg.Go(func() {
				b, err := e.Blob(t.Context(), o.want, o.open)
				if err != nil {
					t.Error(err)
					return
				}
				defer b.Close()
				mu.Lock()
				sources[b.Source]++
				mu.Unlock()
				got, err := read(t.Context(), b, 0, b.Size)
				if err != nil || !bytes.Equal(got, o.data) {
					t.Errorf("reader got %d bytes, right: %v, err: %v", len(got), bytes.Equal(got, o.data), err)
				}
			})
		}
		synctest.Wait() // all wait for the first byte
		if n := e.Filling(); n != 1 {
			t.Errorf("%d fills under way, want 1", n)
		}
		o.free()
		wg.Wait()
		synctest.Wait()
		if got := o.opened(); !slices.Equal(got, []int64{0}) {
			t.Errorf("the origin was opened at %v, want once at 0", got)
		}
		o.checkOnce()
		o.checkClosed()
		if sources[oci.FromUpstream] != 1 || sources[oci.FromFill] != 49 {
			t.Errorf("sources %v, want 1 upstream and 49 fill", sources)
		}
		if !s.holds(o.want.Digest) || e.Filling() != 0 {
			t.Errorf("stored: %v, fills under way: %d", s.holds(o.want.Digest), e.Filling())
		}
		b := openBlob(t, e, o)
		defer b.Close()
		if b.Source != oci.FromCache {
			t.Errorf("source is %q afterwards, want cache", b.Source)
		}
	})
}

func TestFirstCallerLeaves(t *testing.T) {
	for _, when := range []string{"waiting for the origin", "waiting for bytes", "by Close"} {
		t.Run(when, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				o, s := newOrigin(t, 2, 9*mib), newStore(t)
				e := New(s, Options{Linger: -1})
				defer e.Close()
				o.hold(5 * mib)
				answer := make(chan struct{})
				src := func(ctx context.Context, off int64) (*Stream, error) {
					select {
					case <-answer:
						return o.open(ctx, off)
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				first := make(chan error, 1)
				go func() {
					b, err := e.Blob(ctx, o.want, src)
					if err != nil {
						first <- err
						return
					}
					if when == "by Close" {
						if got, err := read(ctx, b, 0, mib); err != nil || !bytes.Equal(got, o.data[:mib]) {
							t.Errorf("first MiB: %v", err)
						}
						first <- b.Close()
						return
					}
					_, err = read(ctx, b, 0, b.Size)
					b.Close()
					first <- err
				}()
				synctest.Wait()
				second := make(chan error, 1)
				go func() {
					got, err := fetch(t.Context(), e, o.want, src)
					if err == nil && !bytes.Equal(got, o.data) {
						err = errors.New("wrong bytes")
					}
					second <- err
				}()
				synctest.Wait()
				want := error(nil)
				switch when {
				case "waiting for the origin":
					want = context.Canceled
					cancel()
					synctest.Wait()
					close(answer)
				case "waiting for bytes":
					want = context.Canceled
					close(answer)
					synctest.Wait()
					cancel()
				default:
					close(answer)
				}
				if err := <-first; !errors.Is(err, want) {
					t.Errorf("first caller: %v, want %v", err, want)
				}
				cancel()
				o.free()
				if err := <-second; err != nil {
					t.Errorf("second caller: %v", err)
				}
				if got := o.opened(); len(got) != 1 {
					t.Errorf("opens at %v, want one", got)
				}
			})
		})
	}
}

func TestLinger(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 3, 11*mib), newStore(t)
		e := New(s, Options{})
		defer e.Close()
		o.hold(2 * ChunkBytes)
		b := openBlob(t, e, o)
		if got, err := read(t.Context(), b, 0, 2*ChunkBytes); err != nil || !bytes.Equal(got, o.data[:2*ChunkBytes]) {
			t.Fatalf("what has arrived: %v", err)
		}
		b.Close()
		b.Close() // once is enough, twice no harm

		time.Sleep(29 * time.Second) // the bubble's time
		b = openBlob(t, e, o)
		if b.Source != oci.FromFill || len(o.opened()) != 1 {
			t.Errorf("back within the linger time: source %q, opens %v", b.Source, o.opened())
		}
		time.Sleep(time.Hour) // a reader is there: no linger time runs
		if e.Filling() != 1 {
			t.Fatal("the fill ended under its reader")
		}
		b.Close()
		time.Sleep(29 * time.Second)
		if e.Filling() != 1 {
			t.Error("the fill ended before its linger time")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if e.Filling() != 0 {
			t.Error("the fill goes on past its linger time")
		}
		o.checkClosed()
		if n := count(s.keeps(o.want.Digest)); n != 2 {
			t.Errorf("%d chunks kept, want 2", n)
		}

		o.free()
		checkFetch(t, e, o)
		if got := o.opened(); !slices.Equal(got, []int64{0, 2 * ChunkBytes}) {
			t.Errorf("opens at %v, want the second after the two kept chunks", got)
		}
		o.checkOnce()
		synctest.Wait()
		if !s.holds(o.want.Digest) {
			t.Error("not stored")
		}
	})
}

// Each reader that comes back in time begins the linger time anew.
func TestLingerBeginsAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 3, 5*mib), newStore(t)
		e := New(s, Options{Linger: time.Second})
		defer e.Close()
		o.hold(mib)
		for range 20 {
			b := openBlob(t, e, o)
			b.Close()
			time.Sleep(time.Second - 1)
		}
		if got := o.opened(); len(got) != 1 || e.Filling() != 1 {
			t.Errorf("opens %v, fills %d; want one fill throughout", got, e.Filling())
		}
	})
}

func TestNoLinger(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 4, 9*mib), newStore(t)
		e := New(s, Options{Linger: -1})
		defer e.Close()
		o.hold(ChunkBytes)
		b := openBlob(t, e, o)
		synctest.Wait()
		b.Close()
		synctest.Wait()
		if e.Filling() != 0 {
			t.Error("the fill goes on with nobody there")
		}
		o.free()
		checkFetch(t, e, o)
		o.checkOnce()
	})
}

// A digest has one partial at a time, also while the last one is put away.
func TestNextFillWaitsForPartial(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 7, 9*mib), newStore(t)
		release := make(chan struct{})
		s.closing = func(keep bool) {
			if keep {
				<-release
			}
		}
		e := New(s, Options{Linger: -1})
		defer e.Close()
		o.hold(ChunkBytes)
		b := openBlob(t, e, o)
		synctest.Wait()
		b.Close()
		synctest.Wait() // the partial is being put away
		o.free()
		done := make(chan error, 1)
		go func() {
			_, err := fetch(t.Context(), e, o.want, o.open)
			done <- err
		}()
		synctest.Wait()
		if got := o.opened(); len(got) != 1 {
			t.Errorf("opens at %v while the last partial is put away", got)
		}
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := o.opened(); !slices.Equal(got, []int64{0, ChunkBytes}) {
			t.Errorf("opens at %v, want the kept chunk spared", got)
		}
	})
}

func TestFillFindsBlobStored(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 8, 100), newStore(t)
		e := New(s, Options{})
		defer e.Close()
		checkFetch(t, e, o)
		synctest.Wait()
		b, err := e.Fill(t.Context(), o.want, o.open)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if len(o.opened()) != 1 || b.Source != oci.FromCache {
			t.Errorf("opens %v, source %q: the blob was there", o.opened(), b.Source)
		}
		checkRange(t, b, o, 0, b.Size)
	})
}

func TestEvictedWhileOpened(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 9, 100), newStore(t)
		e := New(s, Options{})
		defer e.Close()
		checkFetch(t, e, o)
		synctest.Wait()
		s.opened = func(d oci.Digest) { s.evict(d) } // the fill's look; the reader finds nothing
		b, err := e.Fill(t.Context(), o.want, o.open)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		checkRange(t, b, o, 0, b.Size)
		if n := len(o.opened()); n != 2 {
			t.Errorf("%d opens, want a second one", n)
		}
	})
}

// The origin's refusal reaches all who wait, and the next caller asks anew.
func TestOriginRefuses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 12, 5*mib), newStore(t)
		o.refuse = oci.Errorf(oci.Denied, "not yours")
		e := New(s, Options{})
		defer e.Close()
		for range 3 {
			if _, err := e.Blob(t.Context(), o.want, o.open); oci.CodeOf(err) != oci.Denied {
				t.Errorf("%v, want Denied", err)
			}
		}
		o.refuse = nil
		checkFetch(t, e, o)
	})
}

// Two callers whose manifests disagree about a blob's size share a fill; the
// one who is wrong does not get it.
func TestJoinWithOtherSize(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 13, 5*mib), newStore(t)
		e := New(s, Options{})
		defer e.Close()
		o.hold(mib)
		b := openBlob(t, e, o)
		defer b.Close()
		wrong := o.want
		wrong.Size++
		if _, err := e.Blob(t.Context(), wrong, o.open); oci.CodeOf(err) != oci.Unavailable {
			t.Errorf("Blob with another size: %v, want Unavailable", err)
		}
		o.free()
		checkFetch(t, e, o)
		if n := len(o.opened()); n != 1 {
			t.Errorf("%d opens, want 1", n)
		}
	})
}
