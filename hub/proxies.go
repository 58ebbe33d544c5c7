package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/proxy"
	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/version"
)

// upstream is one configured proxy with its parts.
type upstream struct {
	cfg     Proxy
	client  *ociclient.Client
	proxy   *proxy.Proxy
	evictor *proxy.Evictor
}

// openProxies makes a project row and a proxy for each configured upstream.
func (h *Hub) openProxies(ctx context.Context) error {
	for _, c := range h.cfg.Proxies {
		c = c.complete()
		u, err := h.openProxy(ctx, c)
		if err != nil {
			return fmt.Errorf("proxy of %s: %w", c.Registry, err)
		}
		h.upstreams = append(h.upstreams, u)
		h.names[oci.CanonicalRegistry(c.Registry)] = c.Path
	}
	return nil
}

func (h *Hub) openProxy(ctx context.Context, c Proxy) (u upstream, err error) {
	o := ociclient.Options{
		URL: c.URL, CAFile: c.CAFile, UserAgent: "breakwater-hub/" + version.String(), Log: h.log,
		OnResponse: func(res *http.Response) { h.limits.see(c.Registry, res) },
	}
	anonymous, err := ociclient.New(o)
	if err != nil {
		return u, err
	}
	client := anonymous
	if c.Username != "" {
		o.Username = c.Username
		o.Password = func() (string, error) {
			s, err := config.ReadSecret(c.Password, c.PasswordFile, nil)
			return s.Reveal(), err
		}
		if _, err := o.Password(); err != nil {
			return u, err
		}
		if client, err = ociclient.New(o); err != nil {
			return u, err
		}
	}
	project, err := h.rows.PutProject(ctx, meta.Project{Name: c.Path, Kind: meta.Proxy, Public: c.Public, Source: meta.FromFile})
	if errors.Is(err, meta.ErrOtherKind) {
		return u, fmt.Errorf("a project of pushed images is called %q already; give the proxy another path", c.Path)
	}
	if err != nil {
		return u, err
	}
	return upstream{
		cfg: c, client: client,
		proxy: proxy.New(h.rows, h.fills, proxy.Options{
			Registry: c.Registry, Path: c.Path, Allow: c.Allow, FreshFor: time.Duration(c.FreshFor), ServeStale: time.Duration(c.ServeStale),
			KeepRemoved: c.OnRemoved == "serve", Public: c.Public, Credentials: c.Username != "",
			Upstream: client, Anonymous: anonymous, Redirect: h.cfg.Storage.S3.redirects, RedirectFor: time.Duration(h.cfg.Storage.S3.RedirectFor), Log: h.log,
		}),
		evictor: &proxy.Evictor{
			Rows: h.rows, Keys: h.owned, Project: project.ID, Log: h.log,
			Limits: proxy.Limits{MaxBytes: int64(c.Cache.MaxBytes), KeepFor: time.Duration(c.Cache.KeepFor)},
		},
	}, nil
}

// paths are the first segments that belong to proxies.
func (h *Hub) paths() []string {
	var all []string
	for _, u := range h.upstreams {
		all = append(all, u.cfg.Path)
	}
	return all
}

// Registries are the upstreams that are proxied, by name.
func (h *Hub) Registries() []string {
	var all []string
	for _, u := range h.upstreams {
		all = append(all, u.cfg.Registry)
	}
	return all
}

// upstreamStatus is what the API says of each upstream.
func (h *Hub) upstreamStatus(ctx context.Context) ([]hubapi.Upstream, error) {
	all := make([]hubapi.Upstream, 0, len(h.upstreams))
	for _, u := range h.upstreams {
		used, err := h.rows.CacheBytes(ctx, u.evictor.Project)
		if err != nil {
			return nil, err
		}
		s := hubapi.Upstream{
			Registry: u.cfg.Registry, Path: u.cfg.Path, URL: u.cfg.URL, Public: u.cfg.Public,
			RateLimit: h.limits.get(u.cfg.Registry), CacheBytes: used, CacheMaxBytes: int64(u.cfg.Cache.MaxBytes),
		}
		if held := u.client.Held(); !held.IsZero() {
			s.HeldUntil = &held
		}
		all = append(all, s)
	}
	return all, nil
}
