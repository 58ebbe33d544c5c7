package gc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
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
	if err := errors.Join(g.hasten(ctx), g.untagged(ctx, p), g.verify(ctx, p), g.orphans(ctx, p)); err != nil {
		return err
	}
	return g.rows.SetFact(ctx, dailyFact, g.rows.Now().UTC().Format(time.RFC3339))
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
// undo a row.
func (g *GC) orphans(ctx context.Context, p *Pass) error {
	old := time.Now().Add(-orphanAge) // by the storage's clock, not the rows'
	var batch, orphans []blob.Object
	var seen int64
	look := func() error {
		found, err := g.unknown(ctx, batch)
		orphans = append(orphans, found[:min(len(found), maxOrphans-len(orphans))]...)
		batch = batch[:0]
		return err
	}
	err := g.objects.Walk(ctx, "b/", func(o blob.Object) error {
		if seen++; o.At.After(old) {
			return nil
		}
		if batch = append(batch, o); len(batch) < orphanBatch {
			return nil
		}
		return look()
	})
	if err == nil {
		err = look()
	}
	if err != nil {
		return err
	}
	if n := int64(len(orphans)); n > fewOrphans && n > seen/2 && !g.o.AllOrphans {
		return fmt.Errorf("%w (%d of %d)", ErrStrange, n, seen)
	}
	return g.deleteOrphans(ctx, p, orphans)
}

func (g *GC) deleteOrphans(ctx context.Context, p *Pass, orphans []blob.Object) error {
	return g.batches(ctx, func() (bool, error) {
		// Once more: by now a hub that stood still may have brought its row.
		now, err := g.unknown(ctx, orphans[:min(len(orphans), deleteBatch)])
		if err != nil {
			return false, err
		}
		orphans = orphans[min(len(orphans), deleteBatch):]
		keys := make([]string, len(now))
		for i, o := range now {
			keys[i] = o.Key
		}
		if len(keys) > 0 {
			if err := g.objects.Delete(ctx, keys...); err != nil {
				return false, err
			}
		}
		for _, o := range now {
			p.Orphans++
			p.OrphanBytes += o.SizeBytes
		}
		return len(orphans) > 0, nil
	})
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
