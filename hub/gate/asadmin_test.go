package gate

import (
	"context"
	"io"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// asAdmin asks a registry in an admin's name.
type asAdmin struct{ oci.Registry }

func as(ctx context.Context) context.Context { return oci.WithCaller(ctx, admin) }

func (r asAdmin) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	return r.Registry.Resolve(as(ctx), repo, ref)
}
func (r asAdmin) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	return r.Registry.Manifest(as(ctx), repo, ref)
}
func (r asAdmin) Stat(ctx context.Context, repo string, d oci.Digest) (oci.BlobInfo, error) {
	return r.Registry.Stat(as(ctx), repo, d)
}
func (r asAdmin) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	return r.Registry.Blob(as(ctx), repo, d)
}
func (r asAdmin) Tags(ctx context.Context, repo string, n int, last string) ([]string, bool, error) {
	return r.Registry.Tags(as(ctx), repo, n, last)
}
func (r asAdmin) Repositories(ctx context.Context, n int, last string) ([]string, bool, error) {
	return r.Registry.Repositories(as(ctx), n, last)
}
func (r asAdmin) Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	return r.Registry.Referrers(as(ctx), repo, d, artifactType)
}
func (r asAdmin) PutManifest(ctx context.Context, repo string, ref oci.Reference, mediaType string, body []byte) (oci.Descriptor, error) {
	return r.Registry.PutManifest(as(ctx), repo, ref, mediaType, body)
}
func (r asAdmin) DeleteManifest(ctx context.Context, repo string, ref oci.Reference) error {
	return r.Registry.DeleteManifest(as(ctx), repo, ref)
}
func (r asAdmin) DeleteBlob(ctx context.Context, repo string, d oci.Digest) error {
	return r.Registry.DeleteBlob(as(ctx), repo, d)
}
func (r asAdmin) Mount(ctx context.Context, repo, from string, d oci.Digest) (bool, error) {
	return r.Registry.Mount(as(ctx), repo, from, d)
}
func (r asAdmin) StartUpload(ctx context.Context, repo, alg string) (oci.Upload, error) {
	return r.Registry.StartUpload(as(ctx), repo, alg)
}
func (r asAdmin) UploadStatus(ctx context.Context, repo, id string) (oci.Upload, error) {
	return r.Registry.UploadStatus(as(ctx), repo, id)
}
func (r asAdmin) AppendUpload(ctx context.Context, repo, id string, off int64, body io.Reader, size int64) (oci.Upload, error) {
	return r.Registry.AppendUpload(as(ctx), repo, id, off, body, size)
}
func (r asAdmin) FinishUpload(ctx context.Context, repo, id string, d oci.Digest, off int64, body io.Reader, size int64) (oci.Descriptor, error) {
	return r.Registry.FinishUpload(as(ctx), repo, id, d, off, body, size)
}
func (r asAdmin) CancelUpload(ctx context.Context, repo, id string) error {
	return r.Registry.CancelUpload(as(ctx), repo, id)
}
