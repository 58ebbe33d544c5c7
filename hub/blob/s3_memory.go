package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// slabBytes is what memory for parts is handed out by.
const slabBytes = 256 << 10

type slab [slabBytes]byte

// memory is what all parts share. They take it slab by slab, as their bytes
// come, so that a push of a small blob whose size nobody told takes little.
//
// Nobody can be starved by clients that send slowly, or have stopped to, and
// so hold for hours what they have sent: a part that finds no memory waits
// only while others are on their way to the bucket, whose memory soon comes
// back (that wait is what slows down clients that are faster than the bucket),
// in turn, and no longer than memoryWait. Then it moves into a file, which
// gives back what it held. So no one waits for another for ever, and two can
// never wait for each other.
//
// A quarter is kept for states of uploads, with what fills no part: they are in
// memory while they go to the database or come from it, for which no client is
// waited for. So who wants to save or read one waits for its turn.
type memory struct {
	slabs  *semaphore.Weighted
	states *semaphore.Weighted
	most   int64 // that states can have
	free   sync.Pool
	flying atomic.Int64 // slabs on their way to the bucket
	used   atomic.Int64 // bytes
	peak   atomic.Int64
}

const memoryWait = time.Second

func newMemory(budgetBytes int64) *memory {
	all := budgetBytes / slabBytes
	most := max(1, all/4)
	return &memory{
		slabs:  semaphore.NewWeighted(max(1, all-most)),
		states: semaphore.NewWeighted(most),
		most:   most,
		free:   sync.Pool{New: func() any { return new(slab) }},
	}
}

// take returns a slab, or nil when there is none.
func (m *memory) take(ctx context.Context) *slab {
	if !m.slabs.TryAcquire(1) {
		if m.flying.Load() == 0 {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, memoryWait)
		defer cancel()
		if m.slabs.Acquire(ctx, 1) != nil {
			return nil
		}
	}
	m.use(1)
	b, _ := m.free.Get().(*slab)
	return b
}

// use counts n slabs.
func (m *memory) use(n int64) {
	used := m.used.Add(n * slabBytes)
	for p := m.peak.Load(); p < used && !m.peak.CompareAndSwap(p, used); p = m.peak.Load() {
	}
}

// Reserve implements [Store]. One that is larger than all there is for states has
// all of that, and is alone.
func (s *S3) Reserve(ctx context.Context, n int64) (free func(), err error) {
	m := s.memory
	n = roundUp(n, slabBytes) / slabBytes
	from := m.states
	switch {
	case n <= m.most && from.TryAcquire(n):
	case m.slabs.TryAcquire(n): // which parts do not need now
		from = m.slabs
	default:
		n = min(n, m.most)
		if err := from.Acquire(ctx, n); err != nil {
			return nil, &oci.Error{Code: oci.Unavailable, RetryAfter: unavailableFor, Err: fmt.Errorf("s3: wait for memory: %w", context.Cause(ctx))}
		}
	}
	m.use(n)
	return func() {
		m.used.Add(-n * slabBytes)
		from.Release(n)
	}, nil
}

func (m *memory) give(slabs []*slab) {
	for _, b := range slabs {
		m.free.Put(b)
	}
	m.used.Add(-int64(len(slabs)) * slabBytes)
	m.slabs.Release(int64(len(slabs)))
}

// part is bytes on their way to the bucket, in memory or in a file.
type part struct {
	size   int64
	slabs  []*slab
	file   *os.File
	flying int64 // slabs that count as on their way
}

// write appends p.
func (s *S3) writePart(ctx context.Context, t *part, p []byte) error {
	for len(p) > 0 && t.file == nil {
		at := int(t.size % slabBytes)
		if at == 0 {
			b := s.memory.take(ctx)
			if b == nil {
				if err := s.spill(t); err != nil {
					return err
				}
				break
			}
			t.slabs = append(t.slabs, b)
		}
		n := copy(t.slabs[len(t.slabs)-1][at:], p)
		t.size += int64(n)
		p = p[n:]
	}
	if len(p) == 0 {
		return nil
	}
	n, err := t.file.Write(p)
	t.size += int64(n)
	return Fault(err)
}

// spill moves a part into a file.
func (s *S3) spill(t *part) error {
	f, err := tempFile(s.cfg.SpoolDir)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, t.reader()); err != nil {
		return errors.Join(Fault(err), f.Close())
	}
	s.memory.give(t.slabs)
	t.slabs, t.file = nil, f
	s.spilled.Add(1)
	return nil
}

// fly says that the part is complete and on its way.
func (s *S3) fly(t *part) {
	n := int64(len(t.slabs))
	s.memory.flying.Add(n - t.flying)
	t.flying = n
}

// free gives back what the part takes, and makes it an empty one.
func (s *S3) free(t *part) error {
	s.memory.flying.Add(-t.flying)
	s.memory.give(t.slabs)
	var err error
	if t.file != nil {
		err = t.file.Close()
	}
	*t = part{}
	return err
}

// reader reads the part from its start.
func (t *part) reader() io.ReadSeeker {
	if t.file != nil {
		return io.NewSectionReader(t.file, 0, t.size)
	}
	return io.NewSectionReader(slabs(t.slabs), 0, t.size)
}

// slabs are one stretch of bytes.
type slabs []*slab

// ReadAt implements [io.ReaderAt].
func (s slabs) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		i := (off + int64(n)) / slabBytes
		if i >= int64(len(s)) {
			return n, io.EOF
		}
		n += copy(p[n:], s[i][(off+int64(n))%slabBytes:])
	}
	return n, nil
}
