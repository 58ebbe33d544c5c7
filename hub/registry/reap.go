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
// and then. What fails is tried again by the next call; an error at one upload
// does not keep the others.
func (r *Registry) Reap(ctx context.Context) error {
	before := r.now().Add(-r.ttl)
	var errs []error
	for {
		stale, err := r.meta.StaleUploads(ctx, before, reapBatch)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		removed := 0
		for _, u := range stale {
			ok, err := r.reapUpload(ctx, u.ID, before)
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

// reapUpload removes an upload, unless it went on meanwhile.
func (r *Registry) reapUpload(ctx context.Context, id string, before time.Time) (bool, error) {
	release, free := r.tryHold(id)
	if !free {
		return false, nil
	}
	defer release()
	u, err := r.meta.UploadByID(ctx, id)
	if errors.Is(err, meta.ErrNotFound) {
		return true, nil
	}
	if err != nil || !u.UpdatedAt.Before(before) {
		return false, err
	}
	err = r.remove(ctx, u)
	return err == nil, err
}
