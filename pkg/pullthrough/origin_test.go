package pullthrough

import (
	"cmp"
	"context"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// origin is a blob at its source. It counts what it is asked for, can be held
// at an offset, and breaks where it is told to.
type origin struct {
	t    testing.TB
	data []byte // what it sends
	size int64  // what it says
	want oci.Descriptor

	pace  func()     // before each Read; nil: at once
	piece func() int // most bytes of one Read; nil: as many as fit
	peer  bool       // its streams are verified
	from  oci.Source

	mu      sync.Mutex
	held    []span        // not sent yet
	moved   chan struct{} // closed and replaced when held changes
	breaks  []breakAt
	refuse  error   // instead of a stream
	opens   []int64 // offset of each
	given   []span  // what was sent, in order
	streams int     // open now
	most    int     // that were open at once
}

// span is the bytes from off up to end.
type span struct{ off, end int64 }

// breakAt ends a stream with err before the byte at off, times times.
type breakAt struct {
	off   int64
	err   error
	times int
}

// newOrigin serves size random bytes, the same for the same seed.
func newOrigin(t testing.TB, seed byte, size int64) *origin {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	return &origin{
		t: t, data: data, size: size, moved: make(chan struct{}), from: oci.FromUpstream,
		want: oci.Descriptor{Digest: oci.FromBytes(data), Size: size},
	}
}

// hold keeps back the bytes from off on, and lets those before it out.
func (o *origin) hold(off int64) { o.holdOnly(span{off, 1 << 62}) }

// free lets everything out.
func (o *origin) free() { o.holdOnly() }

// holdOnly keeps back the bytes of spans and no others.
func (o *origin) holdOnly(spans ...span) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.held = spans
	close(o.moved)
	o.moved = make(chan struct{})
}

func (o *origin) breakAt(off int64, err error, times int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.breaks = append(o.breaks, breakAt{off, err, times})
}

// open is the origin's [Source].
func (o *origin) open(ctx context.Context, off int64) (*Stream, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.opens = append(o.opens, off)
	if o.refuse != nil {
		return nil, o.refuse
	}
	o.streams++
	o.most = max(o.most, o.streams)
	return &Stream{Body: &body{o: o, ctx: ctx, pos: off}, SizeBytes: o.size, Origin: o.from, Verified: o.peer}, nil
}

// opened is the offsets of all opens so far.
func (o *origin) opened() []int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.opens)
}

// checkClosed fails the test when a stream is open still.
func (o *origin) checkClosed() {
	o.t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.streams != 0 {
		o.t.Errorf("%d streams of the origin are open still", o.streams)
	}
}

// sent is how many bytes went out in all.
func (o *origin) sent() (n int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.given {
		n += s.end - s.off
	}
	return n
}

// checkOnce fails the test unless each byte of the blob but those of skip went
// out exactly once.
func (o *origin) checkOnce(skip ...span) {
	o.t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	all := append(slices.Clone(o.given), skip...)
	slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.off, b.off) })
	pos := int64(0)
	for _, s := range all {
		switch {
		case s.off < pos:
			o.t.Errorf("bytes %d to %d were fetched twice", s.off, min(pos, s.end))
		case s.off > pos:
			o.t.Errorf("bytes %d to %d were never fetched", pos, s.off)
		}
		pos = max(pos, s.end)
	}
	if pos != int64(len(o.data)) {
		o.t.Errorf("bytes from %d to %d were never fetched", pos, len(o.data))
	}
}

// body is one stream of an origin.
type body struct {
	o      *origin
	ctx    context.Context
	pos    int64
	closed bool
}

func (b *body) Read(p []byte) (int, error) {
	if b.o.pace != nil {
		b.o.pace()
	}
	for {
		n, wait, err := b.read(p)
		if wait == nil {
			return n, err
		}
		select {
		case <-wait:
		case <-b.ctx.Done():
			return 0, b.ctx.Err()
		}
	}
}

// read gives what may go out now; wait is set when that is nothing yet.
func (b *body) read(p []byte) (n int, wait <-chan struct{}, err error) {
	o := b.o
	o.mu.Lock()
	defer o.mu.Unlock()
	if b.ctx.Err() != nil {
		return 0, nil, b.ctx.Err()
	}
	if b.pos >= int64(len(o.data)) {
		return 0, nil, io.EOF
	}
	end := min(int64(len(o.data)), b.pos+int64(len(p)))
	for _, h := range o.held {
		if b.pos < h.end {
			end = min(end, max(b.pos, h.off))
		}
	}
	if o.piece != nil {
		end = min(end, b.pos+int64(o.piece()))
	}
	for i := range o.breaks {
		k := &o.breaks[i]
		switch {
		case k.times == 0 || k.off < b.pos || k.off > end:
		case k.off == b.pos:
			k.times--
			return 0, nil, k.err
		default:
			end = min(end, k.off)
		}
	}
	if end <= b.pos {
		return 0, o.moved, nil
	}
	n = copy(p, o.data[b.pos:end])
	o.given = append(o.given, span{b.pos, end})
	b.pos = end
	return n, nil, nil
}

func (b *body) Close() error {
	b.o.mu.Lock()
	defer b.o.mu.Unlock()
	if b.closed {
		b.o.t.Error("a stream was closed twice")
	}
	b.closed = true
	b.o.streams--
	return nil
}
