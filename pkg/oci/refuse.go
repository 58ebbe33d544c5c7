package oci

import (
	"context"
	"io"
)

// RefuseAll refuses every operation as unsupported. A gate or a read-only
// registry embeds it, so that a method added to [Registry] later is refused
// there and not let through.
type RefuseAll struct{}

var _ Registry = RefuseAll{}

func refuse() error { return &Error{Code: Unsupported} }

func (RefuseAll) Resolve(context.Context, string, Reference) (Manifest, error) {
	return Manifest{}, refuse()
}
func (RefuseAll) Manifest(context.Context, string, Reference) (Manifest, error) {
	return Manifest{}, refuse()
}
func (RefuseAll) Stat(context.Context, string, Digest) (BlobInfo, error) {
	return BlobInfo{}, refuse()
}
func (RefuseAll) Blob(context.Context, string, Digest) (*Blob, error) { return nil, refuse() }
func (RefuseAll) Tags(context.Context, string, int, string) ([]string, bool, error) {
	return nil, false, refuse()
}
func (RefuseAll) Repositories(context.Context, int, string) ([]string, bool, error) {
	return nil, false, refuse()
}
func (RefuseAll) Referrers(context.Context, string, Digest, string) ([]Descriptor, error) {
	return nil, refuse()
}
func (RefuseAll) PutManifest(context.Context, string, Reference, string, []byte) (Descriptor, error) {
	return Descriptor{}, refuse()
}
func (RefuseAll) DeleteManifest(context.Context, string, Reference) error { return refuse() }
func (RefuseAll) DeleteBlob(context.Context, string, Digest) error        { return refuse() }
func (RefuseAll) Mount(context.Context, string, string, Digest) (bool, error) {
	return false, refuse()
}
func (RefuseAll) StartUpload(context.Context, string, string) (Upload, error) {
	return Upload{}, refuse()
}
func (RefuseAll) UploadStatus(context.Context, string, string) (Upload, error) {
	return Upload{}, refuse()
}
func (RefuseAll) AppendUpload(context.Context, string, string, int64, io.Reader, int64) (Upload, error) {
	return Upload{}, refuse()
}
func (RefuseAll) FinishUpload(context.Context, string, string, Digest, int64, io.Reader, int64) (Descriptor, error) {
	return Descriptor{}, refuse()
}
func (RefuseAll) CancelUpload(context.Context, string, string) error { return refuse() }
