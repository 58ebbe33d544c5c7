package pullthrough

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// sizes are those at which something begins or ends.
var sizes = []int64{
	0, 1, HoldBackBytes - 1, HoldBackBytes, HoldBackBytes + 1, bufferBytes + 1,
	ChunkBytes - 1, ChunkBytes, ChunkBytes + 1, 2*ChunkBytes + HoldBackBytes, 2*ChunkBytes + HoldBackBytes/2,
}

// bothWays runs f with a store that keeps and with one that is full.
func bothWays(t *testing.T, f func(t *testing.T, s *dirStore)) {
	for _, full := range []bool{false, true} {
		name := map[bool]string{false: "kept", true: "passed through"}[full]
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newStore(t)
				s.full = full
				f(t, s)
			})
		})
	}
}

func TestSizes(t *testing.T) {
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			bothWays(t, func(t *testing.T, s *dirStore) {
				o := newOrigin(t, 20, size)
				e := New(s, Options{})
				checkFetch(t, e, o)
				unsized := oci.Descriptor{Digest: o.want.Digest, Size: -1}
				if got, err := fetch(t.Context(), e, unsized, o.open); err != nil || !bytes.Equal(got, o.data) {
					t.Errorf("without knowing the size: %v", err)
				}
				e.Close()
				if s.holds(o.want.Digest) == s.full {
					t.Errorf("stored: %v, store full: %v", s.holds(o.want.Digest), s.full)
				}
				o.checkClosed()
				if !s.full {
					o.checkOnce()
				}
			})
		})
	}
}

// checkRefused reads the blob of a bad origin whole and in ranges that cover
// its end, and fails the test when one of them is complete. Then it must come
// from a good origin.
func checkRefused(t *testing.T, s *dirStore, bad, good *origin, want oci.Descriptor) {
	t.Helper()
	e := New(s, Options{})
	defer e.Close()
	for _, back := range []int64{good.want.Size, 1, HoldBackBytes, HoldBackBytes + 1, ChunkBytes} {
		b, err := e.Blob(t.Context(), want, bad.open)
		if err != nil {
			checkOurs(t, err)
			continue
		}
		back = min(back, b.Size)
		got, err := read(t.Context(), b, b.Size-back, back)
		checkOurs(t, err)
		if int64(len(got)) >= back && back > 0 {
			t.Errorf("a range got all of its %d bytes up to the end", back)
		}
		if len(got) > 0 && int64(len(got)) > back-HoldBackBytes {
			t.Errorf("a range of %d bytes up to the end got %d: the last %d are held back", back, len(got), HoldBackBytes)
		}
		b.Close()
	}
	e.Close()
	if s.holds(want.Digest) {
		t.Error("a wrong blob was stored")
	}
	bad.checkClosed()
	e = New(s, Options{})
	defer e.Close()
	checkFetch(t, e, good)
	e.Close()
	if !s.full && !s.holds(want.Digest) {
		t.Error("the right blob was not stored afterwards")
	}
	good.checkClosed()
}

// checkOurs fails the test unless err is what a client gets of an origin that
// is at fault.
func checkOurs(t *testing.T, err error) {
	t.Helper()
	if oci.CodeOf(err) != oci.Unavailable {
		t.Errorf("error %v, want one that is Unavailable", err)
	}
}

func TestWrongByte(t *testing.T) {
	for _, size := range sizes[1:] {
		at := map[int64]bool{0: true, size / 2: true, size - 1: true, max(0, size-HoldBackBytes): true, max(0, size-HoldBackBytes-1): true}
		for off := range at {
			t.Run(fmt.Sprintf("%d of %d", off, size), func(t *testing.T) {
				bothWays(t, func(t *testing.T, s *dirStore) {
					good := newOrigin(t, 21, size)
					bad := newOrigin(t, 21, size)
					bad.data[off] ^= 1
					checkRefused(t, s, bad, good, good.want)
				})
			})
		}
	}
}

func TestWrongLength(t *testing.T) {
	const size = ChunkBytes + 3*HoldBackBytes
	for _, tt := range []struct {
		name       string
		sends, say int64
		asked      int64 // want.Size
	}{
		{"body shorter than said", size - 1, size, size},
		{"body much shorter than said", HoldBackBytes, size, size},
		{"no body", 0, size, size},
		{"body shorter than said, size not known", size - 1, size, -1},
		{"origin says and sends less", size - 1, size - 1, size},
		{"origin says less, sends all", size, size - 1, size},
		{"origin says less, sends all, size not known", size, size - 1, -1},
		{"origin says and sends more", size + 1, size + 1, size},
		{"origin says and sends more, size not known", size + 1, size + 1, -1},
		{"origin says more, sends all, size not known", size, size + 1, -1},
		{"origin does not say", size, -1, -1},
		{"origin does not say, size known", size, -1, size},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, s *dirStore) {
				good := newOrigin(t, 22, size)
				bad := newOrigin(t, 22, size)
				bad.data = append(bad.data, 'x')[:tt.sends]
				bad.size = tt.say
				want := good.want
				want.Size = tt.asked
				checkRefused(t, s, bad, good, want)
			})
		})
	}
}

// What an origin sends past the length it has given is not looked at.
func TestTrailingBytes(t *testing.T) {
	bothWays(t, func(t *testing.T, s *dirStore) {
		o := newOrigin(t, 23, ChunkBytes+1)
		right := bytes.Clone(o.data)
		o.data = append(o.data, "and more"...)
		e := New(s, Options{})
		defer e.Close()
		got, err := fetch(t.Context(), e, o.want, o.open)
		if err != nil || !bytes.Equal(got, right) {
			t.Errorf("got %d bytes: %v", len(got), err)
		}
	})
}

// An empty section needs no proof of a blob that has bytes.
func TestEmptySection(t *testing.T) {
	bothWays(t, func(t *testing.T, s *dirStore) {
		o := newOrigin(t, 24, 100)
		o.peer = true
		o.hold(0)
		e := New(s, Options{Linger: -1})
		defer e.Close()
		b := openBlob(t, e, o)
		defer b.Close()
		if got, err := read(t.Context(), b, 50, 0); err != nil || len(got) != 0 {
			t.Errorf("empty section: %q, %v", got, err)
		}
	})
}

// A wrong chunk that was kept is found with the rest, and thrown away with it.
func TestWrongKeptChunk(t *testing.T) {
	bubble(t, func(t *testing.T) {
		good, bad := newOrigin(t, 25, 3*ChunkBytes), newOrigin(t, 25, 3*ChunkBytes)
		bad.data[5] ^= 1
		bad.breakAt(ChunkBytes, io.ErrUnexpectedEOF, maxResumes)
		s := newStore(t)
		e := New(s, Options{})
		defer e.Close()
		if _, err := fetch(t.Context(), e, good.want, bad.open); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("broken origin: %v", err)
		}
		if _, err := fetch(t.Context(), e, good.want, good.open); err == nil {
			t.Error("a wrong kept chunk was served")
		}
		if got := good.opened(); len(got) != 1 || got[0] != ChunkBytes {
			t.Errorf("opens at %v, want one behind the kept chunk", got)
		}
		checkFetch(t, e, good)
		if got := good.opened(); len(got) != 2 || got[1] != 0 {
			t.Errorf("opens at %v, want a last one at 0", got)
		}
	})
}

// A partial whose size an origin once made up must not stand in the way for
// ever.
func TestWrongKeptSize(t *testing.T) {
	bubble(t, func(t *testing.T) {
		good, bad := newOrigin(t, 26, 2*ChunkBytes), newOrigin(t, 26, 2*ChunkBytes)
		bad.size = 100 * ChunkBytes
		bad.breakAt(ChunkBytes, io.ErrUnexpectedEOF, maxResumes)
		s := newStore(t)
		e := New(s, Options{})
		defer e.Close()
		unsized := oci.Descriptor{Digest: good.want.Digest, Size: -1}
		for i, src := range []Source{bad.open, good.open} {
			if _, err := fetch(t.Context(), e, unsized, src); err == nil {
				t.Fatalf("fetch %d came whole", i)
			}
		}
		if got, err := fetch(t.Context(), e, unsized, good.open); err != nil || !bytes.Equal(got, good.data) {
			t.Errorf("third fetch: %v", err)
		}
	})
}

// A manifest that gives a blob another size does not cost what is kept of it.
func TestKeptSurvivesWrongManifest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 27, 3*ChunkBytes), newStore(t)
		o.breakAt(2*ChunkBytes, io.ErrUnexpectedEOF, maxResumes)
		e := New(s, Options{})
		defer e.Close()
		if _, err := fetch(t.Context(), e, o.want, o.open); err == nil {
			t.Fatal("a broken fetch came whole")
		}
		wrong := o.want
		wrong.Size--
		if _, err := fetch(t.Context(), e, wrong, o.open); oci.CodeOf(err) != oci.Unavailable {
			t.Errorf("with another size: %v, want Unavailable", err)
		}
		checkFetch(t, e, o)
		o.checkOnce()
	})
}
