package gc

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

const (
	// claimFor is how long the blobs of a batch are one replica's to delete. A
	// batch that takes longer is deleted by two, which does no harm.
	claimFor = 5 * time.Minute
	// Deletions that failed are tried again after a while, which grows.
	firstBackoff = time.Minute
	lastBackoff  = time.Hour
)

// delete removes the bytes of some doomed blobs, and then their rows: whatever
// ends it between, the rows still know of the bytes. What cannot be deleted now
// is left for later: left says why, when it does not keep the others from
// going. more says that there is likely to be more.
func (g *GC) delete(ctx context.Context, p *Pass) (more bool, left, err error) {
	claimed, err := g.rows.ClaimDoomed(ctx, deleteBatch, g.rows.Now().Add(max(claimFor, g.backoff)))
	if err != nil || len(claimed) == 0 {
		return false, nil, err
	}
	keys := make([]string, len(claimed))
	for i, b := range claimed {
		keys[i] = b.StorageKey
	}
	deleted, failed := erase(ctx, g.objects.DeleteWhole, keys) // no row speaks of bytes that are not whole
	gone := slices.DeleteFunc(claimed, func(b meta.Blob) bool { return !deleted[b.StorageKey] })
	if err := g.rows.DropBlobs(ctx, gone...); err != nil {
		return false, nil, errors.Join(failed, err)
	}
	for _, b := range gone {
		p.Deleted++
		p.DeletedBytes += b.SizeBytes
	}
	if len(gone) == 0 {
		return false, nil, failed
	}
	return len(keys) == deleteBatch, failed, nil
}

// deleted says how deleting went. What was left, left, is left alone for a
// while; and so is everything after an error, err.
func (g *GC) deleted(left, err error, some bool) {
	switch {
	case left != nil || err != nil:
		g.backoff = min(max(2*g.backoff, firstBackoff), lastBackoff)
		if err != nil {
			g.deleteAfter = g.rows.Now().Add(g.backoff)
		}
	case some:
		g.backoff = 0
	}
}

// erase deletes objects and says which are gone. When not all can be deleted in
// one go, it finds out which by deleting them one by one, but not for long where
// it is the storage that is at fault, and not the keys.
func erase(ctx context.Context, del func(ctx context.Context, keys ...string) error, keys []string) (gone map[string]bool, err error) {
	gone = make(map[string]bool, len(keys))
	if err = del(ctx, keys...); err == nil {
		for _, key := range keys {
			gone[key] = true
		}
		return gone, nil
	}
	for faults, down := 0, 0; len(keys) > 0 && faults < 20 && down < 3 && ctx.Err() == nil; keys = keys[1:] {
		switch e := del(ctx, keys[0]); {
		case e == nil:
			gone[keys[0]] = true
			faults, down = 0, 0
		case oci.CodeOf(e) == oci.Unavailable:
			faults++
			down++
		default:
			faults++
		}
	}
	return gone, err
}
