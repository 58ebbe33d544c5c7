package pullthrough

import (
	"bufio"
	"context"
	"hash"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// passThrough is the content of a blob that could not be kept: each reader has
// a stream of its own.
type passThrough struct {
	fill *fill
	once sync.Once
}

// Section implements [oci.Content]. A whole blob is verified here. A part of
// one cannot be: it is given only from a peer that verifies it.
func (p *passThrough) Section(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	f := p.fill
	whole := off == 0 && n == f.want.Size
	if !whole && !f.peer {
		return nil, errUnproven()
	}
	r := &resumer{ctx: ctx, src: f.src, pos: off, size: f.want.Size, proven: !whole}
	if off == 0 {
		if r.stream = f.takeStream(); r.stream != nil {
			context.AfterFunc(ctx, f.cancel) // it was opened with the fill's context
		}
	}
	var content io.Reader = &limited{resumer: r, end: off + n}
	if whole {
		content = newVerifying(r, f.want)
	}
	b := bufio.NewReader(content)
	if _, err := b.Peek(1); err != nil && err != io.EOF {
		r.close()
		return nil, err
	}
	return &passed{Reader: b, resumer: r}, nil
}

// passed is a reader's own stream. Its reader is no io.WriterTo: the caller's
// buffer is larger than bufio's.
type passed struct {
	io.Reader
	resumer *resumer
}

func (p *passed) Close() error {
	p.resumer.close()
	return nil
}

// takeStream gives the stream that is open at 0 to the first who wants it.
func (f *fill) takeStream() *Stream {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stream
	f.stream = nil
	return s
}

// Close implements [oci.Content].
func (p *passThrough) Close() error {
	p.once.Do(p.fill.leave)
	return nil
}

// limited is the part of a stream up to end.
type limited struct {
	*resumer
	end int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.pos >= l.end {
		return 0, io.EOF
	}
	return l.resumer.Read(p[:min(int64(len(p)), l.end-l.pos)])
}

// verifying gives a blob's bytes and holds its end back until the digest is
// proven: at most HoldBackBytes of memory.
type verifying struct {
	r    *resumer
	want oci.Descriptor
	hash hash.Hash
	tail []byte // proven, still to be given
	done bool
}

func newVerifying(r *resumer, want oci.Descriptor) *verifying {
	return &verifying{r: r, want: want, hash: want.Digest.Algorithm().Hash()}
}

func (v *verifying) Read(p []byte) (int, error) {
	if free := v.want.Size - HoldBackBytes - v.r.pos; free > 0 {
		n, err := v.r.Read(p[:min(int64(len(p)), free)])
		v.hash.Write(p[:n])
		return n, err
	}
	if !v.done {
		tail, err := io.ReadAll(v.r)
		if err != nil {
			return 0, err
		}
		v.hash.Write(tail)
		if got := digest.NewDigest(v.want.Digest.Algorithm(), v.hash); got != v.want.Digest {
			return 0, errWrongDigest(v.want.Digest, got)
		}
		v.tail, v.done = tail, true
	}
	if len(v.tail) == 0 {
		return 0, io.EOF
	}
	n := copy(p, v.tail)
	v.tail = v.tail[n:]
	return n, nil
}
