package pullthrough

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

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
