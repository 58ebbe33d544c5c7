package pullthrough

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

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
	var buf bytes.Buffer
	if off%2 == 0 {
		_, err = io.Copy(&buf, s) // by WriteTo
	} else {
		_, err = io.Copy(&buf, struct{ io.Reader }{s})
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
	for i := range 20 {
		o, s := newOrigin(t, byte(i), 6*mib), newStore(t)
		e := New(s, Options{})
		checkFetch(t, e, o)
		o2 := newOrigin(t, 99, 6*mib)
		o2.hold(mib)
		openBlob(t, e, o2).Close()
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

// The readers have their blob when the store fails to keep it.
func TestCommitFails(t *testing.T) {
	o, s := newOrigin(t, 10, 5*mib), newStore(t)
	s.commit = func(context.Context) error { return errors.New("disk fault") }
	e := New(s, Options{})
	checkFetch(t, e, o)
	e.Close()
	if s.holds(o.want.Digest) || s.keeps(o.want.Digest) != nil {
		t.Error("something was kept")
	}
}

// A commit that takes long does not hold up those who come meanwhile.
func TestReadersDuringCommit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 11, 5*mib), newStore(t)
		disk := make(chan struct{})
		s.commit = func(ctx context.Context) error { <-disk; return ctx.Err() }
		e := New(s, Options{Linger: -1})
		checkFetch(t, e, o)
		b := openBlob(t, e, o)
		if b.Source != oci.FromCache {
			t.Errorf("source is %q of a blob that is all here", b.Source)
		}
		checkRange(t, b, o, 0, b.Size)
		b.Close()
		synctest.Wait()
		go e.Close()
		synctest.Wait()
		close(disk)
		e.Close()
		if len(o.opened()) != 1 || !s.holds(o.want.Digest) {
			t.Error("a verified blob was not stored")
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

func TestDiskFull(t *testing.T) {
	for _, tt := range []struct {
		name string
		open func(path string) (*os.File, error)
	}{
		{"read-only file", func(path string) (*os.File, error) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return nil, err
			}
			return os.Open(path)
		}},
		{"/dev/full", func(string) (*os.File, error) { return os.OpenFile("/dev/full", os.O_RDWR, 0) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				o, s := newOrigin(t, 14, 9*mib), newStore(t)
				s.openFile = func(path string) *os.File {
					f, err := tt.open(path)
					if err != nil {
						t.Skip(err)
					}
					return f
				}
				e := New(s, Options{})
				o.hold(0)
				errs := make(chan error)
				for range 5 {
					go func() {
						_, err := fetch(t.Context(), e, o.want, o.open)
						errs <- err
					}()
				}
				synctest.Wait()
				o.free()
				for range 5 {
					if err := <-errs; oci.CodeOf(err) != oci.NoSpace {
						t.Errorf("reader ended with %v, want NoSpace", err)
					}
				}
				e.Close()
				if s.keeps(o.want.Digest) != nil || s.holds(o.want.Digest) {
					t.Error("something was kept on a full disk")
				}
				o.checkClosed()
			})
		})
	}
}

// On a full disk what an earlier fill left is given up too.
func TestDiskFullAtResume(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 16, 3*ChunkBytes), newStore(t)
		o.breakAt(2*ChunkBytes, io.ErrUnexpectedEOF, maxResumes)
		e := New(s, Options{})
		defer e.Close()
		if _, err := fetch(t.Context(), e, o.want, o.open); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := count(s.keeps(o.want.Digest)); n != 2 {
			t.Fatalf("%d chunks kept, want 2", n)
		}
		s.openFile = func(path string) *os.File {
			f, err := os.Open(path) // cannot be written to
			if err != nil {
				t.Error(err)
			}
			return f
		}
		if _, err := fetch(t.Context(), e, o.want, o.open); oci.CodeOf(err) != oci.NoSpace {
			t.Errorf("error %v, want NoSpace", err)
		}
		synctest.Wait()
		if s.keeps(o.want.Digest) != nil {
			t.Error("chunks are kept on a full disk")
		}
		s.openFile = nil
		checkFetch(t, e, o)
	})
}

// endless is a source of a blob of any size without memory of its own.
type endless struct {
	block [mib]byte
	want  oci.Descriptor
}

func newEndless(size int64) *endless {
	s := &endless{}
	rand.NewChaCha8([32]byte{1}).Read(s.block[:])
	h := sha256.New()
	for pos := int64(0); pos < size; pos += mib {
		h.Write(s.block[:min(mib, size-pos)])
	}
	s.want = oci.Descriptor{Digest: digest.NewDigest(digest.SHA256, h), Size: size}
	return s
}

func (s *endless) open(_ context.Context, off int64) (*Stream, error) {
	return &Stream{Body: &endlessBody{s, off}, SizeBytes: s.want.Size, Origin: oci.FromUpstream}, nil
}

type endlessBody struct {
	s   *endless
	pos int64
}

func (b *endlessBody) Read(p []byte) (int, error) {
	if b.pos == b.s.want.Size {
		return 0, io.EOF
	}
	at := b.pos % mib
	n := copy(p[:min(int64(len(p)), b.s.want.Size-b.pos)], b.s.block[at:])
	b.pos += int64(n)
	return n, nil
}

func (b *endlessBody) Close() error { return nil }

// drain reads a blob whole with n readers at once.
func drain(tb testing.TB, e *Engine, s *endless, n int) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			b, err := e.Blob(tb.Context(), s.want, s.open)
			if err != nil {
				tb.Error(err)
				return
			}
			defer b.Close()
			r, err := b.Section(tb.Context(), 0, b.Size)
			if err != nil {
				tb.Error(err)
				return
			}
			defer r.Close()
			if got, err := io.Copy(io.Discard, r); err != nil || got != s.want.Size {
				tb.Errorf("read %d of %d bytes: %v", got, s.want.Size, err)
			}
		})
	}
	wg.Wait()
}

func TestMemory(t *testing.T) {
	src := newEndless(256 * mib)
	e := New(newStore(t), Options{})
	defer e.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	drain(t, e, src, 8)
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 16*mib {
		t.Errorf("a fill of 256 MiB with 8 readers allocated %d KiB, want less than 16 MiB", got>>10)
	}
}

func BenchmarkFill(b *testing.B) {
	for _, readers := range []int{1, 8} {
		b.Run(fmt.Sprintf("readers=%d", readers), func(b *testing.B) {
			src := newEndless(64 * mib)
			b.SetBytes(src.want.Size)
			b.ReportAllocs()
			for b.Loop() {
				s := newStore(b)
				e := New(s, Options{})
				drain(b, e, src, readers)
				e.Close()
				s.evict(src.want.Digest)
			}
		})
	}
}
