package pullthrough

import (
	"context"
	"fmt"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// saveEveryBytes is how much a crash may cost to fetch again.
const saveEveryBytes = 64 << 20

// writer writes consecutive chunks, from pos up to the chunk that end lies in.
// One that left did so amid a chunk: whoever takes that over goes on at its
// pos. No byte of the file is written twice, else what readers and verifier
// have had of it need not be what stays.
type writer struct {
	pos, end int64
	left     bool
}

// writeAll is the main writer: whatever chunk is missing and nobody writes,
// from the front. stream is already open at 0, or nil.
func (f *fill) writeAll(stream *Stream) error {
	defer func() {
		if stream != nil {
			stream.Body.Close()
		}
	}()
	w := &writer{end: f.want.Size}
	f.mu.Lock()
	f.main = w
	f.mu.Unlock()
	for {
		chunk, wait, err := f.claim(w)
		switch {
		case err != nil:
			return err
		case wait != nil: // others write the rest
			select {
			case <-wait:
			case <-f.ctx.Done():
				return context.Cause(f.ctx)
			}
		case chunk < 0:
			return nil
		default:
			s := stream
			stream = nil
			if s != nil && w.pos != 0 {
				s.Body.Close()
				s = nil
			}
			if err := f.write(f.ctx, w, s); err != nil {
				return err
			}
		}
	}
}

// claim gives w the first chunk that is missing and unclaimed. chunk is -1
// when none is missing; wait is set when all that are missing are claimed.
func (f *fill) claim(w *writer) (chunk int, wait <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return 0, nil, f.err
	}
	n := ChunkCount(f.want.Size)
	if f.nhave == n {
		return -1, nil, nil
	}
	for i := range n {
		if pos, ok := f.free(i); ok {
			f.claims[i], w.pos = w, pos
			return i, nil, nil
		}
	}
	return 0, f.change, nil
}

// free says whether a chunk waits for a writer, and from where. f.mu is held.
func (f *fill) free(chunk int) (pos int64, ok bool) {
	switch w := f.claims[chunk]; {
	case f.have.Has(chunk):
		return 0, false
	case w == nil:
		return int64(chunk) * ChunkBytes, true
	default:
		return w.pos, w.left
	}
}

// write fills the chunk w has claimed and the ones after it, up to one that
// is there or another's. ctx ends it at the next read; after an error the
// chunk it was at is still claimed.
func (f *fill) write(ctx context.Context, w *writer, s *Stream) error {
	r := &resumer{ctx: ctx, src: f.src, stream: s, pos: w.pos, size: f.want.Size}
	defer r.close()
	buf := buffers.Get().(*[bufferBytes]byte)
	defer buffers.Put(buf)
	for {
		end := min((w.pos/ChunkBytes+1)*ChunkBytes, f.want.Size)
		n, err := r.Read(buf[:min(bufferBytes, end-w.pos)])
		if n > 0 {
			if _, err := f.part.File().WriteAt(buf[:n], w.pos); err != nil {
				return &oci.Error{Code: oci.NoSpace, Message: "the blob could not be kept while it arrived", Err: fmt.Errorf("write at %d: %w", w.pos, err)}
			}
			if more := f.wrote(w, n, r); !more {
				return nil
			}
			continue
		}
		if err != nil {
			return err
		}
	}
}

// wrote records n bytes; more is false when w's run is over.
func (f *fill) wrote(w *writer, n int, r *resumer) (more bool) {
	f.mu.Lock()
	chunk := int(w.pos / ChunkBytes)
	w.pos += int64(n)
	if w == f.main {
		if f.came == 0 {
			f.started = time.Now()
		}
		before := f.came
		f.came += int64(n)
		f.origin = r.stream.Origin
		if before/saveEveryBytes != f.came/saveEveryBytes && !f.saving {
			f.saving = true // one at a time: an older set never replaces a newer
			f.tasks.Go(func() {
				f.save()
				f.mu.Lock()
				defer f.mu.Unlock()
				f.saving = false
			})
		}
	}
	more = true
	if w.pos == min(int64(chunk+1)*ChunkBytes, f.want.Size) {
		delete(f.claims, chunk)
		f.have.Add(chunk)
		f.nhave++
		next := chunk + 1
		if int64(next)*ChunkBytes >= w.end || f.have.Has(next) || f.claims[next] != nil || f.ended {
			more = false
		} else {
			f.claims[next] = w
		}
	}
	f.wake()
	f.mu.Unlock()
	return more
}

// release lets another go on where w ended. f.mu is held.
func (f *fill) release(w *writer) {
	chunk := int(w.pos / ChunkBytes)
	if w.pos == int64(chunk)*ChunkBytes {
		delete(f.claims, chunk)
	} else {
		w.left = true
	}
}

// goAhead starts a writer at off, for a reader that waits there and wants to
// end, when the main writer is not due there soon. The writer ends with ctx, at
// a chunk that is there, or at another writer. f.mu is held.
func (f *fill) goAhead(ctx context.Context, off, end int64) {
	if f.ended || f.noAhead || f.main == nil || f.ahead >= maxAhead || f.soon(off) {
		return
	}
	if off >= f.want.Size-HoldBackBytes { // not served before all the rest is there
		return
	}
	chunk := int(off / ChunkBytes)
	pos, ok := f.free(chunk)
	if !ok {
		return
	}
	w := &writer{pos: pos, end: end}
	f.claims[chunk] = w
	f.ahead++
	f.tasks.Go(func() {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(f.ctx, cancel)()
		err := f.write(ctx, w, nil)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.ahead--
		if err != nil {
			f.release(w)
		}
		if err != nil && ctx.Err() == nil {
			f.noAhead = true
			f.e.o.Log.Debug("range ahead of a fill failed", "digest", f.want.Digest, "err", err)
		}
		f.wake()
	})
}

// soon says whether the main writer will reach off within the time a range may
// wait, at the rate it has had. What it has passed by it comes to last. f.mu is
// held.
func (f *fill) soon(off int64) bool {
	gap := off - f.main.pos
	if gap <= ChunkBytes {
		return gap >= 0
	}
	elapsed := time.Since(f.started)
	if f.came == 0 || elapsed < 50*time.Millisecond { // no rate to speak of yet
		return gap <= 8*ChunkBytes
	}
	rate := float64(f.came) / elapsed.Seconds()
	return float64(gap) <= rate*f.e.o.FarAhead.Seconds()
}
