package hub

import (
	"context"
	"errors"
	"strings"

	"github.com/breakwater-oci/breakwater/hub/gate"
	"github.com/breakwater-oci/breakwater/hub/identity"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/rbac"
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
	case err == nil:
		return place(r.Place, proxied), nil
	case !errors.Is(err, meta.ErrNotFound):
		return "", err
	case proxied:
		return "", nil
	}
	project, err := s.rows.Project(ctx, meta.ProjectName(repo))
	if errors.Is(err, meta.ErrNotFound) {
		return oci.Private, nil
	}
	return place(meta.Place{Kind: project.Kind, Public: project.Public}, false), err
}

// Visibilities implements [gate.Sight]. A repository without a row is private:
// they are of a list, and it has gone since.
func (s sight) Visibilities(ctx context.Context, repos []string) ([]oci.Visibility, error) {
	places, err := s.rows.Places(ctx, repos)
	if err != nil {
		return nil, err
	}
	all := make([]oci.Visibility, len(repos))
	for i, repo := range repos {
		p, proxied := s.proxies[meta.ProjectName(repo)]
		row, ok := places[repo]
		switch {
		case !ok, proxied && !p.Public:
			all[i] = oci.Private
		case proxied && p.Username == "":
			all[i] = oci.Public
		default:
			all[i] = place(row, proxied)
		}
	}
	return all, nil
}

// place is who may see a repository by its row. One that was fetched by a proxy
// which is not configured any more is private: its project's flag was for who
// asks that proxy, and never said that the upstream shows it to anyone.
func place(row meta.Place, proxied bool) oci.Visibility {
	switch {
	case proxied:
		return row.Visibility
	case row.Kind == meta.Local && row.Public:
		return oci.Public
	}
	return oci.Private
}

// Holders implements [gate.Holders].
func (s sight) Holders(ctx context.Context, repo string, d oci.Digest, n int) ([]string, error) {
	return s.rows.ReposWithBlob(ctx, d, meta.ProjectName(repo), n)
}

// mayPull says whether the caller may pull an image, refused by a policy or not.
// Of a proxied repository of which it is not known yet who may see it, pulls
// shows that.
func (s sight) mayPull(rules rbac.Rules, pulls *gate.Access) func(ctx context.Context, repo string, ref oci.Reference) (bool, error) {
	return func(ctx context.Context, repo string, ref oci.Reference) (bool, error) {
		c := oci.CallerFrom(ctx)
		if rules.Can(c, rbac.Project{}, repo, rbac.Pull) {
			return true, nil
		}
		v, err := s.Visibility(ctx, repo)
		if err != nil || !rules.Can(c, rbac.Project{Public: true}, repo, rbac.Pull) {
			return false, err
		}
		if v != "" {
			return v == oci.Public, nil
		}
		_, err = pulls.Resolve(ctx, repo, ref)
		switch oci.CodeOf(err) {
		case "":
			return true, nil
		case oci.ManifestUnknown, oci.NameUnknown, oci.Unauthorized, oci.Denied:
			return false, nil
		}
		return false, err
	}
}

// isNode says that an account can be a node's: a robot, or who may pull
// everything.
func isNode(c oci.Caller) bool {
	return strings.HasPrefix(c.Name, identity.RobotPrefix) || rbac.Rules{}.Can(c, rbac.Project{}, "", rbac.Pull)
}

// mayPush says whether the caller may push to a repository, by rights of its own:
// the token in use may have been made for less, since a client that signs looks
// before it writes. Nobody pushes to what is proxied.
func (n names) mayPush(ctx context.Context, repo string) bool {
	c := oci.CallerFrom(ctx)
	c.Scopes = nil
	return !n.proxied(repo) && rbac.Rules{}.Can(c, rbac.Project{}, repo, rbac.Push)
}
