package pullthrough

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Options tune an [Engine]; the zero value works.
type Options struct {
	// Linger is how long a fill goes on after its last reader left: a client
	// that fetches in parallel ranges comes back. Default 30 s; negative: none.
	Linger time.Duration
	// FarAhead is how long a range may wait for the running fill to reach it
	// before its chunks are fetched for themselves. Default 2 s.
	FarAhead time.Duration
	// StallPenalty is how long a blob whose body stalled is refused, so that
	// the client goes on elsewhere. Default 10 s; negative: not at all.
	StallPenalty time.Duration
	Log          *slog.Logger
}

// maxAhead is how many ranges of one fill are fetched ahead of it at once.
const maxAhead = 4

// maxStalled is how many stalled blobs are remembered.
const maxStalled = 1024

// Engine fetches each blob once however many ask for it. Its methods may be
// called concurrently. Memory is a pooled buffer for each running fetch and
// each verification; a blob is never held.
type Engine struct {
	store   Store
	o       Options
	stalled *lru.Cache[oci.Digest, stall]

	ctx  context.Context // of all fills: ended by Close
	stop context.CancelFunc
	wg   sync.WaitGroup

	draining atomic.Bool

	mu    sync.Mutex
	fills map[oci.Digest]*fill
}

// New returns an engine that fills store.
func New(store Store, o Options) *Engine {
	if o.Linger == 0 {
		o.Linger = 30 * time.Second
	}
	if o.FarAhead == 0 {
		o.FarAhead = 2 * time.Second
	}
	if o.StallPenalty == 0 {
		o.StallPenalty = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancel(context.Background())
	stalled, _ := lru.New[oci.Digest, stall](maxStalled) // fails for a size below one only
	return &Engine{
		store: store, o: o, ctx: ctx, stop: stop,
		stalled: stalled, fills: make(map[oci.Digest]*fill),
	}
}

// Drain ends the fills that nobody reads, and from now on each as its last
// reader leaves: nobody will come back.
func (e *Engine) Drain() {
	e.draining.Store(true)
	e.mu.Lock()
	fills := slices.Collect(maps.Values(e.fills))
	e.mu.Unlock()
	for _, f := range fills {
		f.drain()
	}
}

// Close ends all fills, keeping the chunks they have, and waits for them.
func (e *Engine) Close() {
	e.mu.Lock() // no fill begins between the two
	e.stop()
	e.mu.Unlock()
	e.wg.Wait()
}

// Filling is the number of fills under way, those that wind up included.
func (e *Engine) Filling() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.fills)
}

// Blob opens want.Digest: from the store, along with a fill that runs, or by a
// fill begun now from src. want.Size is checked against what src says unless
// it is negative. It returns once the origin has answered; whoever has the
// blob may leave at any time, the fill goes on for the others.
//
// The caller has made sure that the asker may see the blob.
func (e *Engine) Blob(ctx context.Context, want oci.Descriptor, src Source) (*oci.Blob, error) {
	b, err := e.store.Open(ctx, want.Digest)
	if err == nil || oci.CodeOf(err) != oci.BlobUnknown {
		return b, err
	}
	return e.Fill(ctx, want, src)
}

// Fill is [Engine.Blob] for a caller that has asked the store already.
func (e *Engine) Fill(ctx context.Context, want oci.Descriptor, src Source) (*oci.Blob, error) {
	if err := e.refused(want.Digest); err != nil {
		return nil, err
	}
	for tries := 1; ; tries++ {
		f, first, err := e.join(want, src)
		if err != nil {
			return nil, err
		}
		if err := f.answered(ctx); err != nil {
			return nil, err
		}
		b, err := f.open(ctx, want, src, first)
		if err == nil || first || !f.onlyIts() || tries == maxJoins {
			return b, err
		}
	}
}

// maxJoins is how often a caller joins a fill that proves to be refused.
const maxJoins = 8

// ErrNoFill is returned by [Engine.Join] when there is nothing to join.
var ErrNoFill = errors.New("the blob is not being fetched")

// Join opens a blob that is being fetched and kept now, else [ErrNoFill]. It
// returns once the origin has answered; what that refused is its error.
func (e *Engine) Join(ctx context.Context, d oci.Digest) (*oci.Blob, error) {
	e.mu.Lock()
	f := e.fills[d]
	joined := f != nil && f.enter()
	e.mu.Unlock()
	if !joined {
		return nil, ErrNoFill
	}
	if err := f.answered(ctx); err != nil {
		return nil, err
	}
	if f.held || f.pass {
		f.leave()
		return nil, ErrNoFill
	}
	return f.open(ctx, oci.Descriptor{Digest: d, Size: -1}, nil, false)
}

// join makes the caller a reader of the digest's fill, beginning it if need be.
func (e *Engine) join(want oci.Descriptor, src Source) (f *fill, first bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() != nil {
		return nil, false, oci.Errorf(oci.Unavailable, "shutting down")
	}
	prev := e.fills[want.Digest]
	if prev != nil && prev.enter() {
		return prev, false, nil
	}
	f = newFill(e, want, src, prev)
	e.fills[want.Digest] = f
	e.wg.Go(f.run)
	return f, true, nil
}

// forget takes a fill out of the map: later callers begin anew or find the
// blob in the store.
func (e *Engine) forget(f *fill) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fills[f.want.Digest] == f {
		delete(e.fills, f.want.Digest)
	}
}

// stall is why a blob is refused, and until when.
type stall struct {
	until time.Time
	err   error
}

// penalize makes the next asks for a stalled blob fail at once.
func (e *Engine) penalize(d oci.Digest, err error) {
	if errors.Is(err, oci.ErrStalled) {
		e.stalled.Add(d, stall{time.Now().Add(e.o.StallPenalty), err})
	}
}

// refused is the error of a blob whose penalty lasts, else nil.
func (e *Engine) refused(d oci.Digest) error {
	s, ok := e.stalled.Get(d)
	if !ok {
		return nil
	}
	left := time.Until(s.until)
	if left <= 0 {
		return nil
	}
	return &oci.Error{Code: oci.Unavailable, Message: "the blob stopped arriving a moment ago; try elsewhere or later", RetryAfter: left, Err: s.err}
}
