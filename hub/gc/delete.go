package gc

import (
	"context"
	"errors"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
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
// is left for later. more says that there is likely to be more.
func (g *GC) delete(ctx context.Context, p *Pass) (more bool, err error) {
	claimed, err := g.rows.ClaimDoomed(ctx, deleteBatch, g.rows.Now().Add(max(claimFor, g.backoff)))
	if err != nil || len(claimed) == 0 {
		return false, err
	}
	gone, failed := g.deleteObjects(ctx, claimed)
	if err := g.rows.DropBlobs(ctx, gone...); err != nil {
		return false, errors.Join(failed, err)
	}
	for _, b := range gone {
		p.Deleted++
		p.DeletedBytes += b.SizeBytes
	}
	return len(claimed) == deleteBatch, failed
}

// deleted says how deleting went: what failed is left alone for a while.
func (g *GC) deleted(err error, some bool) {
	switch {
	case err != nil:
		g.backoff = min(max(2*g.backoff, firstBackoff), lastBackoff)
		g.deleteAfter = g.rows.Now().Add(g.backoff)
	case some:
		g.backoff = 0
	}
}

// deleteObjects says whose bytes are gone. When not all can be deleted in one
// go, it finds out which by deleting them one by one, but not for long where
// the storage as a whole is at fault.
func (g *GC) deleteObjects(ctx context.Context, blobs []meta.Blob) (gone []meta.Blob, err error) {
	keys := make([]string, len(blobs))
	for i, b := range blobs {
		keys[i] = b.StorageKey
	}
	if err = g.objects.Delete(ctx, keys...); err == nil {
		return blobs, nil
	}
	faults := 0
	for _, b := range blobs {
		if e := g.objects.Delete(ctx, b.StorageKey); e == nil {
			gone = append(gone, b)
		} else if faults++; faults == 3 {
			break
		}
	}
	return gone, err
}
