package mirror

import (
	"context"

	"github.com/breakwater-oci/breakwater/nodeagent/cache"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// Resolve answers a HEAD. A digest that is here and was granted to this
// repository is answered at once; a tag is asked of the hub each time.
func (m *Mirror) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	if ref.IsDigest() {
		if man, err := m.cached(repo, ref.Digest); err == nil {
			return man, nil
		}
	}
	man, err := m.resolver.Resolve(ctx, repo, ref)
	if err != nil {
		return oci.Manifest{}, err
	}
	return man, visible(repo, man.Visibility)
}

// Manifest answers a GET: a tag is resolved first, so that what it points at
// is fetched by digest and only when it is not here.
func (m *Mirror) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	if !ref.IsDigest() {
		r, err := m.Resolve(ctx, repo, ref)
		if err != nil {
			return oci.Manifest{}, err
		}
		man, err := m.Manifest(ctx, repo, oci.Digested(r.Digest))
		if r.Stale {
			man.Stale, man.Age = true, r.Age
		}
		return man, err
	}
	if man, err := m.cached(repo, ref.Digest); err == nil {
		return man, nil
	}
	return m.fetch(ctx, repo, ref.Digest)
}

// cached is a manifest this repository has a grant for.
func (m *Mirror) cached(repo string, d oci.Digest) (oci.Manifest, error) {
	registry, name, err := m.split(repo)
	if err != nil {
		return oci.Manifest{}, err
	}
	g, ok := m.o.Cache.Granted(d, registry, name)
	if !ok || g.Visibility == oci.Private {
		return oci.Manifest{}, &oci.Error{Code: oci.ManifestUnknown}
	}
	man, err := m.o.Cache.Manifest(d)
	if err != nil {
		return oci.Manifest{}, err
	}
	man.Source, man.Visibility = oci.FromCache, g.Visibility
	return man, nil
}

// fetch brings a manifest in, once for all who ask for it at the time.
func (m *Mirror) fetch(ctx context.Context, repo string, d oci.Digest) (oci.Manifest, error) {
	done := m.fetches.DoChan(repo+"@"+d.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer cancel()
		var man oci.Manifest
		err := m.try(ctx, repo, false, func(ctx context.Context, c *ociclient.Client, name string) (err error) {
			man, err = c.Manifest(ctx, name, oci.Digested(d))
			return err
		})
		if err != nil {
			return man, err
		}
		if err := visible(repo, man.Visibility); err != nil {
			return man, err
		}
		m.keep(repo, man)
		return man, nil
	})
	select {
	case res := <-done:
		man, _ := res.Val.(oci.Manifest)
		return man, res.Err
	case <-ctx.Done():
		return oci.Manifest{}, context.Cause(ctx)
	}
}

// keep stores a manifest with its grant. That it could not be kept does not
// fail the pull.
func (m *Mirror) keep(repo string, man oci.Manifest) {
	g, err := m.grant(repo, man.Visibility)
	if err == nil {
		err = m.o.Cache.PutManifest(man, g)
	}
	if err != nil {
		m.o.Log.Debug("manifest not kept", "repo", repo, "digest", man.Digest, "err", err)
	}
}

// grant says that repo's registry shows something to v, as of now.
func (m *Mirror) grant(repo string, v oci.Visibility) (cache.Grant, error) {
	registry, name, err := m.split(repo)
	if v == "" {
		v = oci.Public // the agent asks without credentials of its own
	}
	return cache.Grant{Registry: registry, Repo: name, Visibility: v}, err
}

// ask puts a reference's question to the hub, else to the upstream.
func (m *Mirror) ask(ctx context.Context, repo string, ref oci.Reference, fallback bool) (oci.Manifest, error) {
	var man oci.Manifest
	err := m.try(ctx, repo, fallback, func(ctx context.Context, c *ociclient.Client, name string) (err error) {
		man, err = c.Resolve(ctx, name, ref)
		return err
	})
	if err != nil {
		return man, err
	}
	if man.Source == oci.FromUpstream {
		man.StaleIfError = upstreamServeStale
	}
	if ref.IsDigest() {
		man.MaxAge = 0 // content does not change, but its grant is the manifest's in the cache
	}
	return man, nil
}

// memory is the cache's, but for a manifest that came with the answer.
type memory struct{ m *Mirror }

var _ pullthrough.Memory = memory{}

func (x memory) Recall(ctx context.Context, repo string, ref oci.Reference) (pullthrough.Known, bool, error) {
	return x.m.o.Cache.Recall(ctx, repo, ref)
}

// Learn never fails a pull for not being kept.
func (x memory) Learn(ctx context.Context, repo string, ref oci.Reference, k pullthrough.Known, man oci.Manifest) error {
	if man.Bytes != nil && visible(repo, man.Visibility) == nil {
		x.m.keep(repo, man)
	}
	if err := x.m.o.Cache.Learn(ctx, repo, ref, k, man); err != nil {
		x.m.o.Log.Debug("reference not kept", "repo", repo, "err", err)
	}
	return nil
}

func (x memory) Forget(ctx context.Context, repo string, ref oci.Reference) error {
	if err := x.m.o.Cache.Forget(ctx, repo, ref); err != nil {
		x.m.o.Log.Warn("reference not forgotten", "repo", repo, "err", err)
	}
	return nil
}
