package registry

import (
	"context"
	"errors"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// PutManifest implements [oci.Pusher]. All blobs and manifests that it names
// must be in the repository, but its subject, which may come later: else the
// error's Detail lists each that is missing, a []oci.Descriptor.
func (r *Registry) PutManifest(ctx context.Context, repo string, ref oci.Reference, mediaType string, body []byte) (oci.Descriptor, error) {
	return r.putManifest(ctx, repo, ref, mediaType, body, false)
}

func (r *Registry) putManifest(ctx context.Context, repo string, ref oci.Reference, mediaType string, body []byte, attached bool) (oci.Descriptor, error) {
	if err := r.pushable(repo); err != nil {
		return oci.Descriptor{}, err
	}
	if len(body) > oci.MaxManifestBytes {
		return oci.Descriptor{}, oci.Errorf(oci.ManifestTooLarge, "the manifest has %d bytes, at most %d are allowed", len(body), oci.MaxManifestBytes)
	}
	d := oci.FromBytes(body)
	if ref.IsDigest() {
		d = ref.Digest.Algorithm().FromBytes(body)
		if d != ref.Digest {
			return oci.Descriptor{}, oci.Errorf(oci.DigestInvalid, "the manifest's digest is %s", d)
		}
	}
	links, err := oci.ParseManifest(mediaType, body)
	if err != nil {
		return oci.Descriptor{}, err
	}
	err = r.meta.PutManifest(ctx, meta.NewManifest{Repo: repo, Digest: d, Body: body, Links: links, Tag: ref.Tag, Attached: attached})
	var missing *meta.MissingError
	if errors.As(err, &missing) {
		return oci.Descriptor{}, &oci.Error{Code: oci.ManifestBlobUnknown, Detail: missing.Missing, Err: err}
	}
	if err != nil {
		return oci.Descriptor{}, refused(err, repo)
	}
	return oci.Descriptor{MediaType: links.MediaType, Digest: d, Size: int64(len(body))}, nil
}

// DeleteManifest implements [oci.Pusher].
func (r *Registry) DeleteManifest(ctx context.Context, repo string, ref oci.Reference) error {
	if err := r.deletable(ctx, repo); err != nil {
		return err
	}
	var err error
	if ref.IsDigest() {
		err = r.meta.DeleteManifest(ctx, repo, ref.Digest, oci.CallerFrom(ctx).Name)
	} else {
		err = r.meta.DeleteTag(ctx, repo, ref.Tag, oci.CallerFrom(ctx).Name)
	}
	return absent(err, oci.ManifestUnknown)
}

// DeleteBlob implements [oci.Pusher]. A blob that one of the repository's
// manifests names is not deleted: that would break the image.
func (r *Registry) DeleteBlob(ctx context.Context, repo string, d oci.Digest) error {
	if err := r.deletable(ctx, repo); err != nil {
		return err
	}
	err := r.meta.DeleteGrant(ctx, repo, d)
	var inUse *meta.InUseError
	if errors.As(err, &inUse) {
		return &oci.Error{Code: oci.Unsupported, Message: "the blob belongs to manifest " + inUse.By.String() + ", which is to be deleted first", Err: err}
	}
	return absent(err, oci.BlobUnknown)
}

func (r *Registry) deletable(ctx context.Context, repo string) error {
	if err := r.pushable(repo); err != nil {
		return err
	}
	_, err := r.existing(ctx, repo)
	return err
}

// Mount implements [oci.Pusher]. from may be a proxy's repository.
func (r *Registry) Mount(ctx context.Context, repo, from string, d oci.Digest) (bool, error) {
	if err := r.pushable(repo); err != nil {
		return false, err
	}
	err := r.meta.Mount(ctx, repo, from, d)
	if errors.Is(err, meta.ErrNotFound) {
		return false, nil
	}
	return err == nil, refused(err, repo)
}
