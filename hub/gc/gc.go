// Package gc removes, while the hub goes on, what nobody needs any more: what
// is too long in the trash, blobs that nothing names, objects that no row
// speaks of. What is needed, and when it may go, the transactions of hub/meta
// decide; here is the order of things, and the pace: garbage collection is to
// be noticed by nobody.
//
// Any number of replicas may do so at once. What ends half-way goes on later.
package gc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
)

// Objects is where the bytes are, a [blob.Store].
type Objects interface {
	Delete(ctx context.Context, keys ...string) error
	DeleteWhole(ctx context.Context, keys ...string) error
	Abort(ctx context.Context, keys ...string) error
	Walk(ctx context.Context, prefix string, fn func(blob.Object) error) error
}

// Options of a collector; the zero value works. How long things are kept is
// the rows' [meta.GC].
type Options struct {
	// Every is how often is looked for something to do; 0 is a minute.
	Every time.Duration
	// UntaggedAfter is how long a manifest stays that nothing holds, after its
	// last push or pull; 0 is for ever. It is at least [meta.GC.Delay], since a
	// push brings an index's manifests before the index.
	UntaggedAfter time.Duration
	// Share is the part of the time that is spent on it while there is something
	// to do, more than 0 and up to 1; 0 is 0.15: pushes to SQLite, which has one
	// writer, become slower by about as much.
	Share float64
	// Alone says that no other process uses rows and objects: leases are not
	// needed.
	Alone bool
	// AllOrphans deletes objects that no row speaks of even where most are such:
	// see [ErrStrange].
	AllOrphans bool
	// Progress hears what is being done and with how many so far, often and on
	// the goroutine that does it; nil drops it.
	Progress func(doing string, n int64)
	// Metrics is where they are registered; nil for nowhere.
	Metrics prometheus.Registerer
	// Log hears of each pass that did something; nil drops it.
	Log *slog.Logger
}

// GC is a collector. Its methods may be called concurrently; one pass at a time
// is made.
type GC struct {
	rows    *meta.Store
	objects Objects
	o       Options
	metrics *metrics

	turn  chan struct{} // one pass at a time
	woken chan bool     // true: for a whole pass

	mu    sync.Mutex
	since time.Time // when the pass that runs began; zero while none does
	last  Pass

	// The rest belongs to who has the turn.
	backoff     time.Duration // after deletions that failed
	deleteAfter time.Time
	wholeAfter  time.Time // when to ask again whether a whole pass is due
}

// New returns a collector of what is in rows and objects.
func New(rows *meta.Store, objects Objects, o Options) *GC {
	if o.Every == 0 {
		o.Every = time.Minute
	}
	if o.Share <= 0 || o.Share > 1 {
		o.Share = 0.15
	}
	if o.UntaggedAfter > 0 {
		o.UntaggedAfter = max(o.UntaggedAfter, rows.GC().Delay)
	}
	if o.Progress == nil {
		o.Progress = func(string, int64) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &GC{
		rows: rows, objects: objects, o: o, metrics: newMetrics(o.Metrics),
		turn: make(chan struct{}, 1), woken: make(chan bool, 1),
	}
}

// Pass is one pass and what it did.
type Pass struct {
	StartedAt, EndedAt time.Time
	// Whole says that what is done once a day was done too: that rows were
	// verified and objects looked for that no row speaks of.
	Whole bool

	Purged                        int   // rows of the trash
	Untagged                      int   // manifests moved to the trash
	Quarantined, QuarantinedBytes int64 // blobs
	Deleted, DeletedBytes         int64 // blobs
	Verified                      int64 // blobs that would have been forgotten: a fault
	Orphans, OrphanBytes          int64 // objects deleted that no row spoke of
	Err                           error // why it could not do all

	more bool // it ended before all was done
}

func (p *Pass) did() bool {
	return p.Purged > 0 || p.Untagged > 0 || p.Quarantined > 0 || p.Deleted > 0 || p.Verified > 0 || p.Orphans > 0
}

// State is what the collector is at.
type State struct {
	Running bool
	Since   time.Time // when the pass that runs began
	Last    Pass      // the last that ended; its zero value before that
}

// State says what the collector is at.
func (g *GC) State() State {
	g.mu.Lock()
	defer g.mu.Unlock()
	return State{Running: !g.since.IsZero(), Since: g.since, Last: g.last}
}

// Wake has [GC.Run] make a pass now; whole says that it is to do as well what
// is done once a day.
func (g *GC) Wake(whole bool) {
	select {
	case g.woken <- whole:
	case was := <-g.woken: // one that was not heard yet
		select {
		case g.woken <- whole || was:
		default:
		}
	}
}

// Run makes passes until ctx ends.
func (g *GC) Run(ctx context.Context) error {
	if err := g.hasten(ctx); err != nil && ctx.Err() == nil {
		g.o.Log.Error("reviews are not brought forward", "err", err)
	}
	tick := time.NewTimer(0)
	for {
		whole := false
		select {
		case <-ctx.Done():
			return nil
		case whole = <-g.woken:
		case <-tick.C:
		}
		p := g.once(ctx, whole, g.o.Every)
		if p.Err != nil && ctx.Err() == nil {
			g.o.Log.Error("garbage is not collected", "err", p.Err)
		}
		if p.more {
			tick.Reset(0)
		} else {
			tick.Reset(g.o.Every)
		}
	}
}

// Once makes a pass, after one under way. whole has it do as well what is done
// once a day, even if it was done today.
func (g *GC) Once(ctx context.Context, whole bool) Pass { return g.once(ctx, whole, 0) }

// once is Once that goes on to the next pass when one takes longer than limit;
// 0 is for as long as there is something to do.
func (g *GC) once(ctx context.Context, whole bool, limit time.Duration) Pass {
	select {
	case g.turn <- struct{}{}:
	case <-ctx.Done():
		return Pass{Err: ctx.Err()}
	}
	defer func() { <-g.turn }()
	p := Pass{StartedAt: g.rows.Now()}
	g.set(func() { g.since = p.StartedAt })
	p.Err = g.pass(ctx, &p, whole, limit)
	p.EndedAt = g.rows.Now()
	g.set(func() { g.since, g.last = time.Time{}, p })
	g.metrics.pass(p)
	if p.did() {
		g.o.Log.Info("garbage collected", "blobs", p.Deleted, "bytes", p.DeletedBytes, "quarantined", p.Quarantined,
			"purged", p.Purged, "untagged", p.Untagged, "orphans", p.Orphans, "forgotten", p.Verified, "dur", p.EndedAt.Sub(p.StartedAt))
	}
	return p
}

func (g *GC) set(fn func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	fn()
}

// pass does one thing after the other: what one finds, the next may remove. An
// error at one does not keep it from the others.
func (g *GC) pass(ctx context.Context, p *Pass, whole bool, limit time.Duration) error {
	var errs []error
	for _, do := range []struct {
		what string
		fn   func(context.Context, *Pass) error
	}{
		{"purge trash", g.purge},
		{"whole pass", func(ctx context.Context, p *Pass) error { return g.daily(ctx, p, whole) }},
		{"sweep blobs", func(ctx context.Context, p *Pass) error { return g.sweep(ctx, p, limit) }},
	} {
		if err := do.fn(ctx, p); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", do.what, err))
		}
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	due, err := g.rows.GarbageDue(ctx)
	g.metrics.due.Set(float64(due))
	return errors.Join(append(errs, err)...)
}

// How much is done in one go: little enough that whoever waits for it does not
// notice.
const (
	purgeBatch    = 50
	reviewBatch   = 50
	deleteBatch   = 100
	untaggedBatch = 200
	verifyBatch   = 200
	orphanBatch   = 500
)

func (g *GC) purge(ctx context.Context, p *Pass) error {
	before := g.rows.Now().Add(-g.rows.GC().TrashFor)
	return g.batches(ctx, func() (bool, error) {
		n, err := g.rows.PurgeTrash(ctx, before, purgeBatch)
		p.Purged += n
		g.o.Progress("emptying the trash", int64(p.Purged))
		return n == purgeBatch, err
	})
}

// sweep reviews what is due and deletes what is doomed, in turn: pushes may make
// more of the one all the time.
func (g *GC) sweep(ctx context.Context, p *Pass, limit time.Duration) error {
	began := time.Now()
	var reviewing, deleting, left error // left: why some were not deleted, and others were
	deletes := !g.rows.Now().Before(g.deleteAfter)
	before := p.Deleted
	err := g.batches(ctx, func() (more bool, err error) {
		if reviewing == nil {
			more, reviewing = g.review(ctx, p)
		}
		if deletes && deleting == nil {
			again, some, err := g.delete(ctx, p)
			left, deleting = cmp.Or(left, some), err
			more = more || again
		}
		g.o.Progress("deleting blobs", p.Deleted)
		p.more = more && limit > 0 && time.Since(began) > limit
		return more && !p.more, nil
	})
	if deletes && ctx.Err() == nil {
		g.deleted(left, deleting, p.Deleted > before)
	}
	return errors.Join(err, reviewing, deleting, left)
}

// review says whether there is likely to be more.
func (g *GC) review(ctx context.Context, p *Pass) (more bool, err error) {
	r, err := g.rows.ReviewBlobs(ctx, reviewBatch)
	p.Quarantined += int64(r.Quarantined)
	p.QuarantinedBytes += r.QuarantinedBytes
	return r.Blobs == reviewBatch, err
}

// batches calls fn until it has no more to do, and rests between: for so much
// longer than fn took as makes up its share of the time.
func (g *GC) batches(ctx context.Context, fn func() (more bool, err error)) error {
	for {
		began := time.Now()
		more, err := fn()
		if err != nil || !more {
			return err
		}
		rest := time.NewTimer(time.Duration(float64(time.Since(began)) * (1/g.o.Share - 1)))
		select {
		case <-ctx.Done():
			rest.Stop()
			return ctx.Err()
		case <-rest.C:
		}
	}
}
