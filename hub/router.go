package hub

import (
	"context"
	"io"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/proxy"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// router is the hub's whole registry: a repository whose first segment is a
// proxy's path is that proxy's, every other one is local.
type router struct {
	oci.RefuseAll
	local   oci.Registry
	proxies map[string]*proxy.Proxy // by path
	names   map[string]string       // registry name → path
	rows    *meta.Store
}

var _ oci.Registry = (*router)(nil)

// name maps a request to a repository's name here. ns is the registry that
// containerd took us for; short names of Docker Hub become whole.
func (r *router) name(ns, repo string) (string, error) {
	if ns == "" {
		registry, rest, err := oci.SplitUpstream(repo)
		if err == nil && registry == r.names[oci.DockerHub] {
			return registry + "/" + oci.LongName(oci.DockerHub, rest), nil
		}
		return repo, nil
	}
	registry := oci.CanonicalRegistry(ns)
	path, ok := r.names[registry]
	if !ok {
		return "", oci.Errorf(oci.NameUnknown, "registry %q is not proxied by this hub", ns)
	}
	name := path + "/" + oci.LongName(registry, repo)
	return name, oci.CheckName(name)
}

func (r *router) pick(repo string) oci.Registry {
	if p, ok := r.proxies[meta.ProjectName(repo)]; ok {
		return p
	}
	return r.local
}

func (r *router) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	return r.pick(repo).Resolve(ctx, repo, ref)
}

func (r *router) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	return r.pick(repo).Manifest(ctx, repo, ref)
}

func (r *router) Stat(ctx context.Context, repo string, d oci.Digest) (oci.BlobInfo, error) {
	return r.pick(repo).Stat(ctx, repo, d)
}

func (r *router) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	return r.pick(repo).Blob(ctx, repo, d)
}

func (r *router) Tags(ctx context.Context, repo string, n int, last string) ([]string, bool, error) {
	return r.pick(repo).Tags(ctx, repo, n, last)
}

// Repositories lists what is stored, local or fetched, in one order.
func (r *router) Repositories(ctx context.Context, n int, last string) ([]string, bool, error) {
	if n <= 0 {
		n = 100
	}
	return r.rows.Repositories(ctx, meta.RepoFilter{}, n, last)
}

func (r *router) Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	return r.pick(repo).Referrers(ctx, repo, d, artifactType)
}

func (r *router) PutManifest(ctx context.Context, repo string, ref oci.Reference, mediaType string, body []byte) (oci.Descriptor, error) {
	return r.pick(repo).PutManifest(ctx, repo, ref, mediaType, body)
}

func (r *router) DeleteManifest(ctx context.Context, repo string, ref oci.Reference) error {
	return r.pick(repo).DeleteManifest(ctx, repo, ref)
}

func (r *router) DeleteBlob(ctx context.Context, repo string, d oci.Digest) error {
	return r.pick(repo).DeleteBlob(ctx, repo, d)
}

// Mount mounts from local repositories only: a proxy's blob may be one that
// this hub's users must not keep.
func (r *router) Mount(ctx context.Context, repo, from string, d oci.Digest) (bool, error) {
	if _, ok := r.proxies[meta.ProjectName(from)]; ok {
		return false, nil
	}
	return r.pick(repo).Mount(ctx, repo, from, d)
}

func (r *router) StartUpload(ctx context.Context, repo, alg string) (oci.Upload, error) {
	return r.pick(repo).StartUpload(ctx, repo, alg)
}

func (r *router) UploadStatus(ctx context.Context, repo, id string) (oci.Upload, error) {
	return r.pick(repo).UploadStatus(ctx, repo, id)
}

func (r *router) AppendUpload(ctx context.Context, repo, id string, off int64, body io.Reader, size int64) (oci.Upload, error) {
	return r.pick(repo).AppendUpload(ctx, repo, id, off, body, size)
}

func (r *router) FinishUpload(ctx context.Context, repo, id string, d oci.Digest, off int64, body io.Reader, size int64) (oci.Descriptor, error) {
	return r.pick(repo).FinishUpload(ctx, repo, id, d, off, body, size)
}

func (r *router) CancelUpload(ctx context.Context, repo, id string) error {
	return r.pick(repo).CancelUpload(ctx, repo, id)
}
