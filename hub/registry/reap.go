package registry

import (
	"context"
	"errors"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
)

// reapBatch is how many rows are looked at in one go.
const reapBatch = 500

// Reap deletes uploads that have stood still for too long. It is to run now
// and then, at each replica or at one. What fails is tried again by the next
// call; an error at one upload does not keep the others.
func (r *Registry) Reap(ctx context.Context) error {
	before := r.now().Add(-r.ttl)
	errs := []error{r.meta.ReleaseStuck(ctx)}
	for {
		stale, err := r.meta.StaleUploads(ctx, before, reapBatch)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		removed := 0
		for _, id := range stale {
			ok, err := r.reapUpload(ctx, id, before)
			if ok {
				removed++
			}
			errs = append(errs, err)
		}
		// A batch of which none could be removed would come again.
		if len(stale) < reapBatch || removed == 0 {
			return errors.Join(errs...)
		}
	}
}

// reapUpload removes an upload, unless a request is at it, it went on meanwhile,
// or another replica was faster.
func (r *Registry) reapUpload(ctx context.Context, id string, before time.Time) (bool, error) {
	u, err := r.meta.HoldStaleUpload(ctx, id, before)
	if errors.Is(err, meta.ErrNotFound) || errors.Is(err, meta.ErrHeld) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer r.release(ctx, id)
	err = r.remove(ctx, u)
	return err == nil, err
}
