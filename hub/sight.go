package hub

import (
	"context"
	"errors"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// sight tells hub/gate who may see a repository, from the rows.
type sight struct {
	rows    *meta.Store
	proxies map[string]Proxy // by path
}

// Proxied implements [gate.Sight].
func (s sight) Proxied(repo string) bool {
	_, ok := s.proxies[meta.ProjectName(repo)]
	return ok
}

// Visibility implements [gate.Sight]. A proxy without an account's credentials
// reads only what anyone may; with them a probe decides, for each repository.
func (s sight) Visibility(ctx context.Context, repo string) (oci.Visibility, error) {
	p, proxied := s.proxies[meta.ProjectName(repo)]
	switch {
	case proxied && !p.Public:
		return oci.Private, nil
	case proxied && p.Username == "":
		return oci.Public, nil
	}
	r, err := s.rows.Repo(ctx, repo)
	switch {
	case err == nil && proxied:
		return r.Visibility, nil
	case err == nil:
		return local(r.Public), nil
	case !errors.Is(err, meta.ErrNotFound):
		return "", err
	case proxied:
		return "", nil
	}
	project, err := s.rows.Project(ctx, meta.ProjectName(repo))
	if errors.Is(err, meta.ErrNotFound) {
		return oci.Private, nil
	}
	return local(project.Public), err
}

// Holders implements [gate.Holders].
func (s sight) Holders(ctx context.Context, repo string, d oci.Digest, n int) ([]string, error) {
	return s.rows.ReposWithBlob(ctx, d, meta.ProjectName(repo), n)
}

func local(public bool) oci.Visibility {
	if public {
		return oci.Public
	}
	return oci.Private
}
