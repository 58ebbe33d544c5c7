package registry

import (
	"context"
	"errors"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Attaching is a registry as the hub itself writes to it. What has a subject and
// is put through it is the hub's own: deleted through it, it is gone, where what
// users push goes to the trash.
type Attaching struct{ *Registry }

var _ oci.Registry = Attaching{}

// PutManifest implements [oci.Pusher], see [Registry.PutManifest].
func (r Attaching) PutManifest(ctx context.Context, repo string, ref oci.Reference, mediaType string, body []byte) (oci.Descriptor, error) {
	return r.putManifest(ctx, repo, ref, mediaType, body, true)
}

// DeleteManifest implements [oci.Pusher]. What is a user's, too, goes to the
// trash.
func (r Attaching) DeleteManifest(ctx context.Context, repo string, ref oci.Reference) error {
	if err := r.deletable(ctx, repo); err != nil {
		return err
	}
	if ref.IsDigest() {
		removed, err := r.meta.RemoveAttached(ctx, repo, ref.Digest)
		if removed || err != nil && !errors.Is(err, meta.ErrNotFound) {
			return err
		}
	}
	return r.Registry.DeleteManifest(ctx, repo, ref)
}
