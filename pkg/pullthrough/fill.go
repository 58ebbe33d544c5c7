package pullthrough

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// bufferBytes is the memory of one fetch or one verification.
const bufferBytes = 128 << 10

var buffers = sync.Pool{New: func() any { return new([bufferBytes]byte) }}

// fill is one blob being fetched. The main writer goes from the front to the
// back over what is missing; a writer ahead of it serves a range that would
// otherwise wait too long; the verifier follows from the front through the
// page cache. Readers wait on change.
type fill struct {
	e      *Engine
	want   oci.Descriptor // Size < 0 until known
	src    Source
	ctx    context.Context
	cancel context.CancelFunc

	prev  *fill         // of the same digest, ending: its partial is put away first
	ready chan struct{} // closed when the origin has answered: the next fields are set
	held  bool          // the store has it after all
	pass  bool          // no room: passed through, not kept
	peer  bool          // pass: the origin verifies what it sends
	part  Partial
	file  *os.File // the readers' handle; outlives part until they have left

	mu       sync.Mutex
	stream   *Stream // pass: what was opened, for whoever wants the start first
	origin   oci.Source
	readers  int
	ended    bool          // no more readers may join
	over     bool          // nothing but readers has a use for file
	change   chan struct{} // closed and replaced at each progress
	have     Chunks
	nhave    int
	claims   map[int]*writer // of chunks begun, not complete
	main     *writer
	ahead    int       // writers ahead of main
	noAhead  bool      // one failed: what main cannot get, no other tries
	started  time.Time // of main's first byte
	came     int64     // bytes of this fill's main writer, for its rate
	saving   bool
	verified bool
	err      error // final
	linger   *time.Timer
	tasks    sync.WaitGroup // that use part
	finished chan struct{}  // closed when part is put away
}

func newFill(e *Engine, want oci.Descriptor, src Source, prev *fill) *fill {
	ctx, cancel := context.WithCancel(e.ctx)
	return &fill{
		e: e, want: want, src: src, ctx: ctx, cancel: cancel, readers: 1, prev: prev,
		ready: make(chan struct{}), change: make(chan struct{}), finished: make(chan struct{}),
		claims: make(map[int]*writer),
	}
}

// enter adds a reader unless the fill has ended.
func (f *fill) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return false
	}
	f.readers++
	if f.linger != nil {
		f.linger.Stop()
		f.linger = nil
	}
	return true
}

// leave takes a reader away; the last one starts the linger time.
func (f *fill) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers--
	switch {
	case f.readers > 0:
	case f.over:
		f.letGo()
	case f.ended, f.verified: // winding up: end lets go
	case f.e.o.Linger < 0, f.e.draining.Load():
		f.ended = true // nobody joins what is being cancelled
		f.cancel()
	default:
		var t *time.Timer
		t = time.AfterFunc(f.e.o.Linger, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.linger == t && !f.verified { // else someone came back as it went off
				f.ended = true
				f.cancel()
			}
		})
		f.linger = t
	}
}

// answered waits for the origin's answer; a reader whose ctx ends meanwhile has
// left.
func (f *fill) answered(ctx context.Context) error {
	select {
	case <-f.ready:
		return nil
	case <-ctx.Done():
		f.leave()
		return context.Cause(ctx)
	}
}

// onlyIts says that the fill failed by what holds for its own source and size:
// another reader's may be another.
func (f *fill) onlyIts() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return oci.IsAbsent(f.err) || errors.Is(f.err, errSize)
}

// drain ends the fill if nobody reads it.
func (f *fill) drain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers == 0 && !f.ended && !f.verified {
		f.ended = true
		f.cancel()
	}
}

// letGo frees what only readers needed. f.mu is held, nobody reads and nobody
// will.
func (f *fill) letGo() {
	f.cancel()
	if f.stream != nil {
		f.stream.Body.Close()
		f.stream = nil
	}
	if f.file != nil {
		f.file.Close()
	}
}

// run is the fill's life.
func (f *fill) run() {
	defer f.e.forget(f) // not before: the next fill waits for this one's partial
	defer close(f.finished)
	if f.prev != nil {
		<-f.prev.finished
		f.prev = nil
	}
	keep, err := f.fetch()
	f.end(err)
	if f.part == nil {
		return
	}
	f.cancel()
	if err := f.part.Close(keep); err != nil {
		f.e.o.Log.Warn("partial blob not put away", "digest", f.want.Digest, "err", err)
	}
}

// end makes err (nil for success) final and wakes everyone.
func (f *fill) end(err error) {
	if err != nil {
		f.fail(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.linger != nil {
		f.linger.Stop()
	}
	f.ended, f.over = true, true
	f.wake()
	f.settle()
	if f.readers == 0 {
		f.letGo()
	}
}

// settle closes ready once.
func (f *fill) settle() {
	select {
	case <-f.ready:
	default:
		close(f.ready)
	}
}

// wake tells all who wait that something changed. f.mu is held.
func (f *fill) wake() {
	close(f.change)
	f.change = make(chan struct{})
}

// fetch brings the blob in, verified and committed. keep says that what is
// there is of use to a later fill.
func (f *fill) fetch() (keep bool, err error) {
	// Another fill may have ended between our caller's look and this one.
	if b, err := f.e.store.Open(f.ctx, f.want.Digest); err == nil {
		b.Close()
		f.held = true
		return false, nil
	}
	stream, err := f.begin()
	if err != nil || f.pass || f.held {
		return false, err
	}
	verdict := make(chan error, 1)
	go func() { verdict <- f.verify() }()
	if err := f.writeAll(stream); err != nil {
		f.fail(err)
		f.cancel()
		if unverified := <-verdict; unverified != nil {
			f.e.o.Log.Debug("fill ended unverified", "digest", f.want.Digest, "err", unverified)
		}
		f.tasks.Wait() // ended: none begins any more
		f.save()
		return oci.CodeOf(err) != oci.NoSpace && !errors.Is(err, errSize), err
	}
	if err := <-verdict; err != nil {
		f.e.o.Log.Warn("blob could not be verified", "digest", f.want.Digest, "source", f.origin, "err", err)
		f.fail(err)
		f.tasks.Wait()
		return false, err
	}
	f.mu.Lock()
	f.verified = true
	f.wake()
	f.mu.Unlock()
	// The readers have all they need; only the store still waits for the disk.
	f.tasks.Wait() // nothing is missing: none begins any more
	if err := f.part.Commit(context.WithoutCancel(f.ctx)); err != nil {
		f.e.o.Log.Warn("blob served but not kept", "digest", f.want.Digest, "err", err)
	}
	return false, nil
}

// fail makes err final for readers and verifier while the fill winds up; the
// first one counts. The penalty is there before a reader can come back.
func (f *fill) fail(err error) {
	if errors.Is(err, context.Canceled) {
		err = &oci.Error{Code: oci.Unavailable, Message: "the fetch was ended", Err: err}
	}
	f.e.penalize(f.want.Digest, err)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
	f.ended = true
	f.wake()
}

// begin asks the origin and makes room. It returns the stream that the main
// writer begins with, nil when it opens its own.
func (f *fill) begin() (*Stream, error) {
	kept, rerr := f.e.store.Resume(f.ctx, f.want.Digest)
	if rerr == nil && (f.want.Size < 0 || kept.SizeBytes() == f.want.Size) {
		return nil, f.adopt(kept)
	}
	s, err := f.src(f.ctx, 0)
	if rerr == nil { // a manifest's word alone does not cost what is kept
		kept.Close(err != nil || s.SizeBytes != f.want.Size)
	}
	if err != nil {
		return nil, err
	}
	if s.Stored {
		s.Body.Close()
		f.held = true
		return nil, nil
	}
	if f.want.Size >= 0 && s.SizeBytes != f.want.Size {
		s.Body.Close()
		return nil, errWrongSize(f.want.Size, s.SizeBytes)
	}
	if s.SizeBytes < 0 {
		s.Body.Close()
		return nil, oci.Errorf(oci.Unavailable, "the origin does not say how long %s is", f.want.Digest)
	}
	f.want.Size = s.SizeBytes
	f.mu.Lock()
	f.origin = s.Origin
	f.mu.Unlock()
	part, err := f.e.store.Begin(f.ctx, f.want.Digest, s.SizeBytes)
	if err != nil {
		f.e.o.Log.Debug("blob passed through, not kept", "digest", f.want.Digest, "bytes", s.SizeBytes, "err", err)
		f.pass, f.peer = true, s.Verified
		f.mu.Lock()
		f.stream = s
		f.mu.Unlock()
		return nil, nil
	}
	if err := f.adopt(part); err != nil {
		s.Body.Close()
		return nil, err
	}
	return s, nil
}

// adopt makes the partial the fill's and opens the doors.
func (f *fill) adopt(part Partial) error {
	file, err := oci.Reopen(part.File())
	if err != nil {
		part.Close(false)
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.part, f.file, f.want.Size = part, file, part.SizeBytes()
	f.have = NewChunks(f.want.Size)
	for i := range ChunkCount(f.want.Size) {
		if part.Chunks().Has(i) {
			f.have.Add(i)
			f.nhave++
		}
	}
	if f.origin == "" {
		f.origin = oci.FromCache // resumed: the main writer will say
	}
	f.settle()
	return nil
}

// open is what a reader gets once the origin has answered; want and src are
// the reader's own.
func (f *fill) open(ctx context.Context, want oci.Descriptor, src Source, first bool) (*oci.Blob, error) {
	info := oci.BlobInfo{Descriptor: oci.Descriptor{Digest: f.want.Digest, Size: f.want.Size}}
	f.mu.Lock()
	err, verified := f.err, f.verified
	info.Source = f.origin
	f.mu.Unlock()
	switch {
	case f.held:
		f.leave()
		b, err := f.e.store.Open(ctx, want.Digest)
		if oci.CodeOf(err) == oci.BlobUnknown { // evicted since
			return f.e.Fill(ctx, want, src)
		}
		return b, err
	case f.part == nil && !f.pass:
		f.leave()
		return nil, err
	case want.Size >= 0 && want.Size != f.want.Size:
		f.leave()
		return nil, errWrongSize(want.Size, f.want.Size)
	case f.pass:
		return &oci.Blob{BlobInfo: info, Content: &passThrough{fill: f}}, nil
	}
	if !first {
		info.Source = oci.FromFill
		if verified {
			info.Source = oci.FromCache // only the disk is still being waited for
		}
	}
	return &oci.Blob{BlobInfo: info, Content: &growing{fill: f}}, nil
}

func (f *fill) save() {
	f.mu.Lock()
	have := append(Chunks(nil), f.have...)
	f.mu.Unlock()
	if err := f.part.Save(have); err != nil {
		f.e.o.Log.Warn("chunks of a fill not kept", "digest", f.want.Digest, "err", err)
	}
}
