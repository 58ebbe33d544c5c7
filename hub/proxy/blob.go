package proxy

import (
	"context"
	"errors"
	"slices"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// That a manifest names a blob does not show that its repository may read it:
// the blob may be another's, here through that one. A repository's blob is
// served from here once the upstream has confirmed it in this repository, by
// a HEAD (meta.ConfirmRef) or by giving its bytes ([shown]).

// Stat answers the HEAD of a blob.
func (p *Proxy) Stat(ctx context.Context, repo string, d oci.Digest) (oci.BlobInfo, error) {
	name, err := p.name(repo)
	if err != nil {
		return oci.BlobInfo{}, err
	}
	b, err := p.rows.RepoBlob(ctx, repo, d)
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return oci.BlobInfo{}, err
	}
	if err == nil && !b.CheckedAt.IsZero() && b.StorageKey != "" {
		return oci.BlobInfo{Descriptor: oci.Descriptor{Digest: d, Size: b.SizeBytes}, Answer: oci.Answer{Source: oci.FromCache, Visibility: p.seen(b.Visibility)}}, nil
	}
	info, err := p.o.Upstream.Stat(ctx, name, d)
	if err != nil {
		return oci.BlobInfo{}, err
	}
	info.Visibility, err = p.learn(ctx, repo, info.Descriptor)
	return info, err
}

// Blob opens a blob: from storage where this repository has shown that it has
// it, else by fetching it.
func (p *Proxy) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	if _, err := p.name(repo); err != nil {
		return nil, err
	}
	want := oci.Descriptor{Digest: d, Size: -1}
	row, err := p.rows.RepoBlob(ctx, repo, d)
	switch {
	case errors.Is(err, meta.ErrNotFound):
	case err != nil:
		return nil, err
	default:
		if row.CheckedAt.IsZero() { // as a manifest says; else an upstream may have said it that was wrong
			want.Size = row.SizeBytes
		}
		if row.StorageKey != "" && !row.CheckedAt.IsZero() {
			return p.stored(ctx, repo, row)
		}
	}
	o := &origin{blobs: p.blobs, repo: repo, digest: d, upstream: p.upstream(repo, d)}
	b, err := p.blobs.Blob(ctx, want, o.open)
	if err != nil {
		return nil, err
	}
	if b.Visibility, err = p.readable(ctx, repo, d); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// stored opens a blob that is here and that the repository has shown.
func (p *Proxy) stored(ctx context.Context, repo string, row meta.GrantedBlob) (*oci.Blob, error) {
	b, err := p.blobs.store.open(ctx, row.Blob)
	if err != nil {
		p.o.Log.Error("stored blob cannot be read", "repo", repo, "digest", row.Digest, "err", err)
		return nil, err
	}
	b.Visibility = p.seen(row.Visibility)
	if p.o.Redirect != nil && p.o.Redirect(ctx, row.Place) {
		b.Redirect = func(ctx context.Context) (string, error) {
			return p.blobs.store.keys.URL(ctx, row.StorageKey, p.o.RedirectFor)
		}
	}
	return b, nil
}

// readable makes sure that the upstream shows the blob in this repository: it
// may be here, or arriving, through another one.
func (p *Proxy) readable(ctx context.Context, repo string, d oci.Digest) (oci.Visibility, error) {
	row, err := p.rows.RepoBlob(ctx, repo, d)
	fetching := slices.Contains(p.blobs.store.shown.in(d), repo)
	switch {
	case err == nil && (fetching || !row.CheckedAt.IsZero()):
		return p.seen(row.Visibility), nil
	case err != nil && !errors.Is(err, meta.ErrNotFound):
		return "", err
	case fetching: // without a manifest that names it
		r, err := p.rows.Repo(ctx, repo)
		if errors.Is(err, meta.ErrNotFound) {
			err = nil
		}
		return p.seen(r.Visibility), err
	}
	info, err := p.Stat(ctx, repo, d)
	return info.Visibility, err
}

// upstream opens a blob at the registry that the proxy is of.
func (p *Proxy) upstream(repo string, d oci.Digest) pullthrough.Source {
	return func(ctx context.Context, off int64) (*pullthrough.Stream, error) {
		name, err := p.name(repo)
		if err != nil {
			return nil, err
		}
		s, err := p.o.Upstream.Open(ctx, name, d, off)
		if err != nil {
			return nil, err
		}
		p.blobs.store.shown.add(d, repo)
		return &pullthrough.Stream{Body: s.Body, SizeBytes: s.SizeBytes, Origin: oci.FromUpstream}, nil
	}
}

// learn records that the upstream shows a blob in a repository, and says to
// whom, as far as that is known of the repository.
func (p *Proxy) learn(ctx context.Context, repo string, d oci.Descriptor) (oci.Visibility, error) {
	r, err := p.rows.EnsureRepo(ctx, repo, meta.Proxy)
	if err != nil {
		return "", err
	}
	if err := p.rows.Grant(ctx, r.RepoID, d); err != nil {
		return "", err
	}
	return p.seen(r.Visibility), p.rows.ConfirmRef(ctx, r.RepoID, d.Digest)
}
