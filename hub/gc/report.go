package gc

import (
	"context"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Report is what there is to collect.
type Report struct {
	meta.Garbage
	Times meta.GC

	Untagged int64 // manifests that would go to the trash, see [Look]

	Orphans, OrphanBytes int64 // objects of no row that would be deleted, see [Look]
	// Strange is [ErrStrange] where these are so many that they would not be.
	Strange error
}

// Look is what [GC.DryRun] is to look at besides what is due: what a pass does
// once a day. Its zero value is nothing of that.
type Look struct {
	Untagged bool // all manifests, a batch at a time
	Objects  bool // all objects of the storage
	// Found hears of each thing that would go in a pass now; nil of none.
	Found func(Found) error
}

// Found is one thing that would go. What is not known of it is zero.
type Found struct {
	Kind      string     `json:"kind"` // "blob", "manifest" or "object"
	Repo      string     `json:"repository,omitempty"`
	Digest    oci.Digest `json:"digest,omitempty"`
	Key       string     `json:"key,omitempty"` // of an object in the storage
	SizeBytes int64      `json:"sizeBytes"`
}

// DryRun says what there is to collect, and changes nothing.
func (g *GC) DryRun(ctx context.Context, look Look) (r Report, err error) {
	r.Times = g.rows.GC()
	if r.Garbage, err = g.rows.Garbage(ctx); err != nil {
		return r, err
	}
	if look.Found == nil {
		look.Found = func(Found) error { return nil }
	} else if err := g.expired(ctx, look); err != nil {
		return r, err
	}
	if look.Untagged && g.o.UntaggedAfter > 0 {
		if err := g.loose(ctx, &r, look); err != nil {
			return r, err
		}
	}
	if look.Objects {
		err = g.lost(ctx, &r, look)
	}
	return r, err
}

func (g *GC) expired(ctx context.Context, look Look) error {
	for last := int64(0); ; {
		all, err := g.rows.ExpiredBlobs(ctx, last, verifyBatch)
		if err != nil || len(all) == 0 {
			return err
		}
		for _, b := range all {
			if err := look.Found(Found{Kind: "blob", Digest: b.Digest, Key: b.StorageKey, SizeBytes: b.SizeBytes}); err != nil {
				return err
			}
		}
		last = all[len(all)-1].ID
	}
}

func (g *GC) loose(ctx context.Context, r *Report, look Look) error {
	before, last, seen := g.rows.Now().Add(-g.o.UntaggedAfter), int64(0), int64(0)
	for {
		all, next, err := g.rows.Untagged(ctx, before, last, untaggedBatch)
		if err != nil {
			return err
		}
		for _, m := range all {
			r.Untagged++
			if err := look.Found(Found{Kind: "manifest", Repo: m.Repo, Digest: m.Digest, SizeBytes: m.SizeBytes}); err != nil {
				return err
			}
		}
		if last = next; next == 0 {
			return nil
		}
		seen += untaggedBatch
		g.o.Progress("looking for untagged manifests", seen)
	}
}

func (g *GC) lost(ctx context.Context, r *Report, look Look) error {
	l, err := g.findOrphans(ctx)
	if err != nil {
		return err
	}
	r.Strange = l.strange()
	for _, o := range l.orphans {
		r.Orphans++
		r.OrphanBytes += o.SizeBytes
		if err := look.Found(Found{Kind: "object", Key: o.Key, SizeBytes: o.SizeBytes}); err != nil {
			return err
		}
	}
	return nil
}
