package pullthrough

import (
	"context"
	"io"
	"os"
	"sync"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// wait returns the end of what can be read from pos without a gap, at most
// end, once there is at least a byte. held is for readers: the end of the blob
// is not theirs before it is proven, and what they wait for may be fetched
// ahead, as long as ctx lasts.
func (f *fill) wait(ctx context.Context, pos, end int64, held bool) (int64, error) {
	for {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		f.mu.Lock()
		limit := end
		if held && !f.verified {
			limit = min(end, f.want.Size-HoldBackBytes)
		}
		upto, err, change := f.available(pos, limit), f.err, f.change
		if held && upto <= pos {
			f.goAhead(ctx, pos, end)
		}
		f.mu.Unlock()
		if err != nil {
			return 0, err
		}
		if upto > pos {
			return upto, nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// available is the end of the bytes on disk from pos, at most limit. f.mu is
// held.
func (f *fill) available(pos, limit int64) int64 {
	for pos < limit {
		chunk := int(pos / ChunkBytes)
		if f.have.Has(chunk) {
			pos = min(int64(chunk+1)*ChunkBytes, limit)
			continue
		}
		if w := f.claims[chunk]; w != nil && w.pos > pos {
			return min(w.pos, limit)
		}
		return pos
	}
	return pos
}

// growing is the content of a blob whose fill was running when it was opened.
type growing struct {
	fill *fill
	once sync.Once
}

// Section implements [oci.Content].
func (g *growing) Section(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	if err := g.first(ctx, off, n); err != nil {
		cancel()
		return nil, err
	}
	file, err := oci.Reopen(g.fill.file)
	if err == nil {
		_, err = file.Seek(off, io.SeekStart)
	}
	if err != nil {
		cancel()
		if file != nil {
			file.Close()
		}
		return nil, err
	}
	return &section{ctx: ctx, cancel: cancel, fill: g.fill, file: file, pos: off, end: off + n}, nil
}

// first waits for the first byte at off; of an empty blob, for its proof.
func (g *growing) first(ctx context.Context, off, n int64) error {
	switch {
	case n > 0:
		_, err := g.fill.wait(ctx, off, off+n, true)
		return err
	case g.fill.want.Size > 0:
		return nil
	}
	return g.fill.proven(ctx)
}

// proven waits until the digest is.
func (f *fill) proven(ctx context.Context) error {
	for {
		f.mu.Lock()
		verified, err, change := f.verified, f.err, f.change
		f.mu.Unlock()
		if verified || err != nil {
			return err
		}
		select {
		case <-change:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Close implements [oci.Content].
func (g *growing) Close() error {
	g.once.Do(g.fill.leave)
	return nil
}

// section reads along with a fill. Its file offset is always at pos.
type section struct {
	ctx      context.Context
	cancel   context.CancelFunc
	fill     *fill
	file     *os.File
	pos, end int64
}

func (s *section) Read(p []byte) (int, error) {
	if s.pos == s.end {
		return 0, io.EOF
	}
	upto, err := s.fill.wait(s.ctx, s.pos, s.end, true)
	if err != nil {
		return 0, err
	}
	n, err := s.file.Read(p[:min(int64(len(p)), upto-s.pos)])
	s.pos += int64(n)
	return n, cutShort(err)
}

// WriteTo hands the file itself to w, piece by piece as it grows: a connection
// takes each by sendfile.
func (s *section) WriteTo(w io.Writer) (written int64, err error) {
	for s.pos < s.end {
		upto, err := s.fill.wait(s.ctx, s.pos, s.end, true)
		if err != nil {
			return written, err
		}
		n, err := io.CopyN(w, s.file, upto-s.pos)
		s.pos += n
		written += n
		if err != nil {
			return written, cutShort(err)
		}
	}
	return written, nil
}

// cutShort keeps a file that ends too early from looking like a whole body.
func cutShort(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (s *section) Close() error {
	s.cancel()
	return s.file.Close()
}
