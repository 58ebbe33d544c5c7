package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

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

// Stat implements [oci.Puller]. A push that asks so leaves out what is there,
// which then stays until its manifest has come.
func (r *Registry) Stat(ctx context.Context, repo string, d oci.Digest) (oci.BlobInfo, error) {
	b, err := r.blob(ctx, repo, d)
	if err == nil {
		err = absent(r.meta.RenewBlob(ctx, b), oci.BlobUnknown)
	}
	if err != nil {
		return oci.BlobInfo{}, err
	}
	return info(b), nil
}

// Blob implements [oci.Puller].
func (r *Registry) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	b, err := r.blob(ctx, repo, d)
	if err != nil {
		return nil, err
	}
	if r.redirect != nil && r.redirect(ctx, b.Place) {
		r.meta.Touch(b.ID)
		return &oci.Blob{
			BlobInfo: info(b),
			Content:  &lateContent{open: func(ctx context.Context) (oci.Content, error) { return r.open(ctx, repo, b) }},
			Redirect: func(ctx context.Context) (string, error) { return r.blobs.URL(ctx, b.StorageKey, r.redirectFor) },
		}, nil
	}
	c, err := r.open(ctx, repo, b)
	if err != nil {
		return nil, err
	}
	r.meta.Touch(b.ID)
	return &oci.Blob{BlobInfo: info(b), Content: c}, nil
}

// open opens the bytes of a blob whose row was just read.
func (r *Registry) open(ctx context.Context, repo string, b meta.GrantedBlob) (oci.Content, error) {
	for {
		c, err := r.blobs.Open(ctx, b.StorageKey, b.SizeBytes)
		if err == nil {
			return c, nil
		}
		err = fmt.Errorf("open blob %s: %w", b.Digest, err)
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		// Deleted since the row was read? Then that is not there any more, or has
		// the key of the same bytes stored anew.
		tried := b.StorageKey
		var gone error
		if b, gone = r.blob(ctx, repo, b.Digest); gone != nil {
			return nil, gone
		}
		if b.StorageKey == tried {
			return nil, err
		}
	}
}

// lateContent opens a blob's bytes when they are read, and not only when they
// are fetched from elsewhere.
type lateContent struct {
	open func(context.Context) (oci.Content, error)

	mu     sync.Mutex
	opened oci.Content // nil until then
}

// Section implements [oci.Content].
func (c *lateContent) Section(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	c.mu.Lock()
	if c.opened == nil {
		opened, err := c.open(ctx)
		if err != nil {
			c.mu.Unlock()
			return nil, err
		}
		c.opened = opened
	}
	opened := c.opened
	c.mu.Unlock()
	return opened.Section(ctx, off, n)
}

// Close implements [oci.Content].
func (c *lateContent) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opened == nil {
		return nil
	}
	return c.opened.Close()
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
