package analyze

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// maxWindowBytes is the most that a zstd frame may have us keep: what
// `zstd --long` makes. The format itself would allow terabytes.
const maxWindowBytes = 128 << 20

// limits are the job's for one layer; zero is none.
type limits struct {
	bytes int64
	files int
	time  time.Duration // the layer's to heed, not the guard's
}

// guard is a layer's unpacked tar. It reads as the layer does until a limit is
// passed or something does not fit; then it calls fail with a
// [scanproto.Failed] and ends with that error. It is right to end in io.EOF
// only when the stored bytes had their digest and their size, and the unpacked
// ones their diff ID: until then nothing that was found may be kept.
//
// One goroutine uses it.
type guard struct {
	desc   oci.Descriptor
	diffID oci.Digest
	lim    limits
	fail   context.CancelCauseFunc

	stored  *stored
	plain   io.Reader // stored, decompressed
	close   func()    // of plain, where that holds something
	sum     hash.Hash
	n       int64
	err     error          // what Read ended with
	entries *io.PipeWriter // a second reader of the same tar, see countEntries
	counted chan struct{}  // closed when that has ended
	refused error          // how, then
	once    sync.Once
	whole   func() // called once when all was as it should be
}

// newGuard takes body over. whole is called when the layer was read to a right end.
func newGuard(body io.ReadCloser, desc oci.Descriptor, diffID oci.Digest, lim limits, fail context.CancelCauseFunc, whole func()) (*guard, error) {
	g := &guard{
		desc: desc, diffID: diffID, lim: lim, fail: fail, whole: whole,
		stored: &stored{body: body, left: desc.Size, sum: sha256.New()},
		sum:    sha256.New(), counted: make(chan struct{}),
	}
	if err := g.decompress(); err != nil {
		_ = body.Close()
		return nil, g.refuse(err)
	}
	r, w := io.Pipe()
	g.entries = w
	go func() {
		err := countEntries(r, lim)
		if err != nil {
			fail(g.failed(err)) // at once: the reader may be busy with what was found wrong
		}
		_ = r.CloseWithError(err)
		g.refused = err
		close(g.counted)
	}()
	return g, nil
}

// decompress picks the decompressor by the first bytes, as containerd does: the
// media type is often wrong.
func (g *guard) decompress() error {
	br := bufio.NewReaderSize(g.stored, 64<<10)
	magic, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if err != nil {
			return err
		}
		g.plain = z
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), // a frame, or a skippable one
		len(magic) == 4 && magic[0]&0xf0 == 0x50 && magic[1] == 0x2a && magic[2] == 0x4d && magic[3] == 0x18:
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindowBytes))
		if err != nil {
			return err
		}
		g.plain, g.close = z, z.Close
	default:
		g.plain = br
	}
	return nil
}

func (g *guard) Read(p []byte) (int, error) {
	if g.err != nil {
		return 0, g.err
	}
	n, err := g.plain.Read(p)
	if n > 0 {
		g.n += int64(n)
		g.sum.Write(p[:n])
		if g.lim.bytes > 0 && g.n > g.lim.bytes {
			g.err = g.refuse(tooLarge("more than %d bytes when unpacked", g.lim.bytes))
			return 0, g.err
		}
		if _, err := g.entries.Write(p[:n]); err != nil {
			g.err = g.refuse(err)
			return 0, g.err
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		if err := g.finish(); err != nil {
			g.err = g.refuse(err)
			return n, g.err
		}
		g.err = io.EOF
		g.whole()
	default:
		g.err = g.refuse(err)
	}
	return n, g.err
}

// finish checks all that can be checked at the end of the tar.
func (g *guard) finish() error {
	_ = g.entries.Close()
	if <-g.counted; g.refused != nil {
		return g.refused
	}
	// A decompressor may leave bytes unread that are the blob's all the same.
	if _, err := io.Copy(io.Discard, g.stored); err != nil {
		return err
	}
	if d := oci.Digest(fmt.Sprintf("sha256:%x", g.stored.sum.Sum(nil))); d != g.desc.Digest {
		return corrupt("the stored bytes have the digest %s", d)
	}
	if d := oci.Digest(fmt.Sprintf("sha256:%x", g.sum.Sum(nil))); d != g.diffID {
		return corrupt("the unpacked tar has the digest %s, the config says %s", d, g.diffID)
	}
	return nil
}

// Close gives the layer up, or ends it. What the second reader found wrong is
// told before Close returns.
func (g *guard) Close() error {
	g.once.Do(func() {
		_ = g.stored.body.Close()
		if g.err == nil {
			g.entries.CloseWithError(errClosed)
			<-g.counted
		}
		if g.close != nil {
			g.close()
		}
	})
	return nil
}

// refuse makes err the scan's end and returns what it was made to.
func (g *guard) refuse(err error) error {
	if g.entries != nil {
		g.entries.CloseWithError(errClosed)
	}
	f := g.failed(err)
	g.fail(f)
	return f
}

// failed says what err means for the image, and in which layer. An error of
// the socket is found first: what the decompressor makes of it is no news.
func (g *guard) failed(err error) *scanproto.Failed {
	var f *scanproto.Failed
	switch {
	case errors.As(g.stored.fault(), &f), errors.As(err, &f):
	default:
		f = corrupt("%v", err)
	}
	return &scanproto.Failed{Reason: f.Reason, Message: fmt.Sprintf("layer %s: %s", g.desc.Digest, f.Message)}
}

// stored are a layer's bytes as the hub has them, no more of them than the
// descriptor says.
type stored struct {
	body io.ReadCloser
	left int64
	sum  hash.Hash
	err  atomic.Pointer[scanproto.Failed] // what Read ended with, other than io.EOF
}

func (s *stored) Read(p []byte) (int, error) {
	if err := s.fault(); err != nil {
		return 0, err
	}
	n, err := s.body.Read(p)
	s.sum.Write(p[:n])
	s.left -= int64(n)
	switch {
	case s.left < 0:
		n = 0
		s.err.Store(corrupt("longer than its descriptor says"))
	case errors.Is(err, io.EOF) && s.left > 0:
		s.err.Store(corrupt("%d bytes shorter than its descriptor says", s.left))
	case err != nil && !errors.Is(err, io.EOF):
		s.err.Store(&scanproto.Failed{Reason: scanproto.ReasonInternal, Message: "read from the hub: " + err.Error()})
	default:
		return n, err
	}
	return n, s.fault()
}

// fault is what Read ended with; any goroutine may ask.
func (s *stored) fault() error {
	if f := s.err.Load(); f != nil {
		return f
	}
	return nil
}

// countEntries reads a tar beside the analyzers, for its entries alone. The
// analyzers' reader fills the holes of a sparse file with zeros, in memory or
// on disk, so a file's size counts as its header says, not as it is stored.
func countEntries(r io.Reader, lim limits) error {
	var size int64
	tr := tar.NewReader(r)
	for n := 1; ; n++ {
		h, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF):
			_, err = io.Copy(io.Discard, r) // the padding, which the digest covers
			return notClosed(err)
		case err != nil:
			return notClosed(err)
		case lim.files > 0 && n > lim.files:
			return tooLarge("more than %d files", lim.files)
		}
		if lim.bytes > 0 && (h.Size > lim.bytes || size+h.Size > lim.bytes) {
			return tooLarge("files of more than %d bytes", lim.bytes)
		}
		size += max(h.Size, 0)
	}
}

// errClosed is how countEntries learns that nobody reads on.
var errClosed = errors.New("the layer was closed")

func notClosed(err error) error {
	if errors.Is(err, errClosed) {
		return nil
	}
	return err
}

func corrupt(format string, args ...any) *scanproto.Failed {
	return &scanproto.Failed{Reason: scanproto.ReasonCorrupt, Message: fmt.Sprintf(format, args...)}
}

func tooLarge(format string, args ...any) *scanproto.Failed {
	return &scanproto.Failed{Reason: scanproto.ReasonTooLarge, Message: fmt.Sprintf(format, args...)}
}
