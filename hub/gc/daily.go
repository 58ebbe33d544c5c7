package gc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

const (
	dailyLease = "gc"
	dailyFact  = "gc.whole"
	dailyEvery = 24 * time.Hour
	// askEvery is how often is asked whether another replica has done it.
	askEvery = 10 * time.Minute

	// orphanAge is how old an object is that should have a row by now.
	orphanAge = time.Hour
	// maxOrphans is how many are remembered: the rest is found the next time.
	maxOrphans = 20_000
	// fewOrphans are never strange.
	fewOrphans = 100
)

// ErrStrange says that the database knows nothing of most objects: it is likely
// to be the wrong one, or an old one, and what it does not know is not deleted.
var ErrStrange = errors.New("the database knows nothing of most of the storage's objects; if it is the right one, `breakwater-hub gc --all-orphans` deletes them")

// hasten has no review wait for longer than is configured: it may have been
// more when it was put off.
func (g *GC) hasten(ctx context.Context) error {
	_, err := g.rows.HastenReviews(ctx)
	return err
}

// daily does what one replica does for all once a day.
func (g *GC) daily(ctx context.Context, p *Pass, now bool) error {
	if !now && g.rows.Now().Before(g.wholeAfter) {
		return nil
	}
	if !g.o.Alone {
		switch l, err := g.rows.TakeLease(ctx, dailyLease); {
		case err != nil:
			return err
		case !l.Mine: // it does it, or it holds us back for a minute at most
			g.wholeAfter = g.rows.Now().Add(askEvery)
			return nil
		}
		defer func() {
			if err := g.rows.DropLease(context.WithoutCancel(ctx), dailyLease); err != nil {
				g.o.Log.Warn("a lease was not given back", "err", err)
			}
		}()
	}
	due, err := g.due(ctx)
	if err != nil {
		return err
	}
	g.wholeAfter = g.rows.Now().Add(askEvery)
	if !due && !now {
		return nil
	}
	p.Whole = true
	err = errors.Join(g.hasten(ctx), g.untagged(ctx, p), g.verify(ctx, p))
	left, lost := g.orphans(ctx, p)
	if err = errors.Join(err, lost); err == nil {
		// What was left is for tomorrow: it would be no other in ten minutes, and it
		// takes a list of all objects to come to it again.
		err = g.rows.SetFact(ctx, dailyFact, g.rows.Now().UTC().Format(time.RFC3339))
	}
	return errors.Join(err, left)
}

// due says whether a day has passed since any replica did it.
func (g *GC) due(ctx context.Context) (bool, error) {
	text, err := g.rows.Fact(ctx, dailyFact)
	if errors.Is(err, meta.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	at, _ := time.Parse(time.RFC3339, text) // what cannot be read is of long ago
	return g.rows.Now().Sub(at) >= dailyEvery, nil
}

func (g *GC) untagged(ctx context.Context, p *Pass) error {
	if g.o.UntaggedAfter <= 0 {
		return nil
	}
	before, last := g.rows.Now().Add(-g.o.UntaggedAfter), int64(0)
	return g.batches(ctx, func() (bool, error) {
		n, next, err := g.rows.TrashUntagged(ctx, before, last, untaggedBatch)
		p.Untagged += n
		g.o.Progress("moving untagged manifests to the trash", int64(p.Untagged))
		last = next
		return next != 0, err
	})
}

func (g *GC) verify(ctx context.Context, p *Pass) error {
	last := int64(0)
	err := g.batches(ctx, func() (bool, error) {
		n, next, err := g.rows.VerifyBlobs(ctx, last, verifyBatch)
		p.Verified += n
		last = next
		return next != 0, err
	})
	if p.Verified > 0 {
		g.o.Log.Error("blobs that nobody needs would have been kept; they are collected now", "blobs", p.Verified)
	}
	return err
}

// orphans deletes objects of which no row speaks. Rows come before objects and
// go after them, so that there should be none; but a crash of the machine may
// undo a row. left says why some stay, when all were looked at; err why not.
func (g *GC) orphans(ctx context.Context, p *Pass) (left, err error) {
	found, err := g.findOrphans(ctx)
	if err != nil {
		return nil, err
	}
	if err := found.strange(); err != nil && !g.o.AllOrphans {
		return err, nil
	}
	left, err = g.deleteOrphans(ctx, p, found.orphans)
	if err == nil {
		err = g.abortStrays(ctx, found.begun)
	}
	return left, err
}

// listed is what a list of all objects shows.
type listed struct {
	seen    int64         // objects
	orphans []blob.Object // those of which no row speaks, up to maxOrphans
	begun   []string      // keys under which something was begun a while ago, up to maxOrphans
}

// strange is [ErrStrange] where most objects are of no row.
func (l *listed) strange() error {
	if n := int64(len(l.orphans)); n > fewOrphans && n > l.seen/2 {
		return fmt.Errorf("%w (%d of %d)", ErrStrange, n, l.seen)
	}
	return nil
}

func (g *GC) findOrphans(ctx context.Context) (l listed, err error) {
	old := time.Now().Add(-orphanAge) // by the storage's clock, not the rows'
	var batch []blob.Object
	look := func() error {
		found, err := g.unknown(ctx, batch)
		l.orphans = append(l.orphans, found[:min(len(found), maxOrphans-len(l.orphans))]...)
		batch = batch[:0]
		return err
	}
	err = g.objects.Walk(ctx, "b/", func(o blob.Object) error {
		if l.seen++; o.At.After(old) {
			return nil
		}
		if o.Begun && len(l.begun) < maxOrphans {
			l.begun = append(l.begun, o.Key)
		}
		if batch = append(batch, o); len(batch) < orphanBatch {
			return nil
		}
		g.o.Progress("looking for objects of no row", l.seen)
		return look()
	})
	if err == nil {
		err = look()
	}
	return l, err
}

// abortStrays ends uploads that were begun, and forgotten in a crash, under keys
// that have become blobs by another.
func (g *GC) abortStrays(ctx context.Context, begun []string) error {
	return g.batches(ctx, func() (bool, error) {
		some := begun[:min(len(begun), deleteBatch)]
		begun = begun[len(some):]
		strays, err := g.rows.Strays(ctx, some)
		if err != nil {
			return false, err
		}
		if len(strays) > 0 {
			if err := g.objects.Abort(ctx, strays...); err != nil {
				return false, err
			}
			g.o.Log.Info("forgotten uploads of blobs ended", "keys", len(strays))
		}
		return len(begun) > 0, nil
	})
}

// deleteOrphans goes on after what cannot be deleted, left, unless nothing can.
func (g *GC) deleteOrphans(ctx context.Context, p *Pass, orphans []blob.Object) (left, err error) {
	barren := 0 // batches in a row of which nothing went
	err = g.batches(ctx, func() (bool, error) {
		// Once more: by now a hub that stood still may have brought its row.
		now, err := g.unknown(ctx, orphans[:min(len(orphans), deleteBatch)])
		if err != nil {
			return false, err
		}
		orphans = orphans[min(len(orphans), deleteBatch):]
		if len(now) == 0 {
			return len(orphans) > 0, nil
		}
		keys := make([]string, len(now))
		for i, o := range now {
			keys[i] = o.Key
		}
		gone, failed := erase(ctx, g.objects.Delete, keys)
		for _, o := range now {
			if gone[o.Key] {
				p.Orphans++
				p.OrphanBytes += o.SizeBytes
			}
		}
		left = cmp.Or(left, failed)
		if barren++; len(gone) > 0 {
			barren = 0
		} else if oci.CodeOf(failed) == oci.Unavailable { // the storage is down
			return false, failed
		}
		g.o.Progress("deleting objects of no row", p.Orphans)
		return len(orphans) > 0 && barren < 3, nil
	})
	if err != nil {
		left = nil // it may be the same
	}
	return left, err
}

// unknown lists those of some objects that no row speaks of.
func (g *GC) unknown(ctx context.Context, objects []blob.Object) ([]blob.Object, error) {
	if len(objects) == 0 {
		return nil, nil
	}
	byKey := make(map[string]blob.Object, len(objects))
	keys := make([]string, 0, len(objects))
	for _, o := range objects {
		byKey[o.Key] = o
		keys = append(keys, o.Key)
	}
	found, err := g.rows.Orphans(ctx, keys)
	all := make([]blob.Object, len(found))
	for i, key := range found {
		all[i] = byKey[key]
	}
	return all, err
}
