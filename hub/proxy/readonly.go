package proxy

import (
	"context"
	"io"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// readOnly denies pushes with the reason, where oci.RefuseAll would only call
// them unsupported.
type readOnly struct{ registry string }

func (r readOnly) denied() error {
	return oci.Errorf(oci.Denied, "this is a proxy of %s: images are pushed to %s itself, or to a project of this hub", r.registry, r.registry)
}

func (r readOnly) PutManifest(context.Context, string, oci.Reference, string, []byte) (oci.Descriptor, error) {
	return oci.Descriptor{}, r.denied()
}
func (r readOnly) DeleteManifest(context.Context, string, oci.Reference) error { return r.denied() }
func (r readOnly) DeleteBlob(context.Context, string, oci.Digest) error        { return r.denied() }
func (r readOnly) Mount(context.Context, string, string, oci.Digest) (bool, error) {
	return false, r.denied()
}
func (r readOnly) StartUpload(context.Context, string, string) (oci.Upload, error) {
	return oci.Upload{}, r.denied()
}
func (r readOnly) UploadStatus(context.Context, string, string) (oci.Upload, error) {
	return oci.Upload{}, r.denied()
}
func (r readOnly) AppendUpload(context.Context, string, string, int64, io.Reader, int64) (oci.Upload, error) {
	return oci.Upload{}, r.denied()
}
func (r readOnly) FinishUpload(context.Context, string, string, oci.Digest, int64, io.Reader, int64) (oci.Descriptor, error) {
	return oci.Descriptor{}, r.denied()
}
func (r readOnly) CancelUpload(context.Context, string, string) error { return r.denied() }

func (r readOnly) Repositories(context.Context, int, string) ([]string, bool, error) {
	return nil, false, &oci.Error{Code: oci.Unsupported}
}
