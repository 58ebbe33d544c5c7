package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Resolve implements [oci.Puller].
func (r *Registry) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	var m meta.Manifest
	var err error
	if ref.IsDigest() {
		m, err = r.meta.StatManifest(ctx, repo, ref.Digest)
	} else {
		m, err = r.meta.StatTag(ctx, repo, ref.Tag)
	}
	return manifest(m, ref, err)
}

// Manifest implements [oci.Puller].
func (r *Registry) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	var m meta.Manifest
	var err error
	if ref.IsDigest() {
		m, err = r.meta.ManifestByDigest(ctx, repo, ref.Digest)
	} else {
		m, err = r.meta.ManifestByTag(ctx, repo, ref.Tag)
	}
	out, err := manifest(m, ref, err)
	if err == nil {
		r.meta.Pulled(m.RepoID, m.ID)
	}
	return out, err
}

func manifest(m meta.Manifest, ref oci.Reference, err error) (oci.Manifest, error) {
	switch {
	case err == nil && m.Kind != meta.Local:
		err = meta.ErrNotFound
	case err == nil && m.ID == 0:
		err = broken("no manifest for tag", ref)
	}
	if err != nil {
		return oci.Manifest{}, absent(err, oci.ManifestUnknown)
	}
	return oci.Manifest{Descriptor: m.Descriptor(), Answer: answer(m.Place), Bytes: m.Body}, nil
}

// Stat implements [oci.Puller].
func (r *Registry) Stat(ctx context.Context, repo string, d oci.Digest) (oci.BlobInfo, error) {
	b, err := r.blob(ctx, repo, d)
	if err != nil {
		return oci.BlobInfo{}, err
	}
	return info(b), nil
}

// Blob implements [oci.Puller].
func (r *Registry) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	for tried := ""; ; {
		b, err := r.blob(ctx, repo, d)
		if err != nil {
			return nil, err
		}
		f, err := r.blobs.Open(b.StorageKey)
		if errors.Is(err, fs.ErrNotExist) && b.StorageKey != tried {
			// Deleted since the row was read? Then that is not there any more, or
			// has the key of the same bytes stored anew.
			tried = b.StorageKey
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open blob %s: %w", d, err)
		}
		fi, err := f.Stat()
		if err == nil && fi.Size() != b.SizeBytes {
			err = broken("wrong size of", b.StorageKey)
		}
		if err != nil {
			f.Close()
			return nil, err
		}
		r.meta.Touch(b.ID)
		return &oci.Blob{BlobInfo: info(b), Content: oci.FileContent(f)}, nil
	}
}

// blob returns the row of a blob whose bytes are here.
func (r *Registry) blob(ctx context.Context, repo string, d oci.Digest) (meta.GrantedBlob, error) {
	b, err := r.meta.RepoBlob(ctx, repo, d)
	if err == nil && (b.Kind != meta.Local || b.ID == 0) {
		err = meta.ErrNotFound
	}
	return b, absent(err, oci.BlobUnknown)
}

func info(b meta.GrantedBlob) oci.BlobInfo {
	return oci.BlobInfo{Descriptor: oci.Descriptor{MediaType: octets, Digest: b.Digest, Size: b.SizeBytes}, Answer: answer(b.Place)}
}

// octets is what a blob is when one does not know.
const octets = "application/octet-stream"
