// Package mirror decides where a pull on a node is answered from: the node's
// own cache, the hub, or the upstream registry itself while the hub is away.
// It is the oci.Registry that the agent serves to containerd.
//
// Names are whole paths, "docker.io/library/nginx", as at the hub. Only what
// an anonymous caller may see at its registry is served: containerd sends a
// Pod's credentials only where it is asked for them, and goes on to the
// registry itself for the rest.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/breakwater-oci/breakwater/nodeagent/cache"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// The time one question may take. containerd waits at most 30 s for an answer
// and Kubernetes pulls one image at a time, so a node answers within 3 s or
// says that it cannot (the server in front sees to that); what was begun goes
// on a little longer and is there for the next ask.
const (
	askTimeout      = 10 * time.Second
	hubTimeout      = 2500 * time.Millisecond // of askTimeout, before the upstream is tried
	fallbackTimeout = 2800 * time.Millisecond
)

// When the agent asks an upstream itself nobody tells it how long the answer
// holds: as the hub's defaults.
const upstreamServeStale = 7 * 24 * time.Hour

// Options join a [Mirror] to its parts.
type Options struct {
	Cache *cache.Cache
	Hub   *ociclient.Client // nil: none
	// Registries are the names that are mirrored; All serves any.
	Registries []string
	All        bool
	// Upstream makes the client for a registry by its name.
	Upstream func(registry string) (*ociclient.Client, error)
	Engine   pullthrough.Options
	Log      *slog.Logger
}

// Mirror implements [oci.Registry] for pulls; all else is refused.
type Mirror struct {
	oci.RefuseAll
	o        Options
	paths    map[string]string // registry path → registry name
	engine   *pullthrough.Engine
	resolver *pullthrough.Resolver
	fetches  singleflight.Group

	mu        sync.Mutex // guards paths and upstreams
	upstreams map[string]*ociclient.Client
}

var _ oci.Registry = (*Mirror)(nil)

// New returns a mirror. Close it to end its fetches.
func New(o Options) *Mirror {
	m := &Mirror{
		o: o, paths: make(map[string]string), upstreams: make(map[string]*ociclient.Client),
	}
	for _, r := range o.Registries {
		m.paths[oci.RegistryPath(r)] = r
	}
	o.Engine.Log = o.Log
	m.engine = pullthrough.New(o.Cache, o.Engine)
	m.resolver = &pullthrough.Resolver{Memory: memory{m}, Ask: m.ask, Timeout: askTimeout, FallbackTimeout: fallbackTimeout}
	return m
}

// Close ends running fetches and keeps what they have.
func (m *Mirror) Close() { m.engine.Close() }

// Filling is the number of blobs being fetched.
func (m *Mirror) Filling() int { return m.engine.Filling() }

// Name maps what containerd asks (the ns query and a path) to the path used
// here and at the hub. Without ns the path must begin with a registry's path.
func (m *Mirror) Name(ns, repo string) (string, error) {
	if ns == "" {
		registry, name, err := m.split(repo)
		if err != nil {
			return "", oci.Errorf(oci.NameUnknown, "%q does not begin with a mirrored registry; containerd names it by ?ns=", repo)
		}
		return oci.JoinUpstream(registry, name)
	}
	registry := oci.CanonicalRegistry(ns)
	if !m.mirrored(registry) {
		return "", oci.Errorf(oci.NameUnknown, "registry %q is not mirrored on this node", ns)
	}
	return oci.JoinUpstream(registry, repo)
}

// maxRegistries bounds what All remembers.
const maxRegistries = 4096

// mirrored says whether images of a registry are served. With All that is any,
// and its path is remembered so that it can be read back.
func (m *Mirror) mirrored(registry string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	path := oci.RegistryPath(registry)
	if m.paths[path] == "" && m.o.All && len(m.paths) < maxRegistries {
		m.paths[path] = registry
	}
	return m.paths[path] == registry
}

// split is the registry's name and the repository's name at it.
func (m *Mirror) split(repo string) (registry, name string, err error) {
	path, name, err := oci.SplitUpstream(repo)
	if err != nil {
		return "", "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	registry, ok := m.paths[path]
	if !ok {
		return "", "", oci.Errorf(oci.NameUnknown, "registry %q is not mirrored on this node", path)
	}
	return registry, name, nil
}

// upstream is the client for the registry itself, and the name there.
func (m *Mirror) upstream(repo string) (*ociclient.Client, string, error) {
	registry, name, err := m.split(repo)
	if err != nil {
		return nil, "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.upstreams[registry]; c != nil {
		return c, name, nil
	}
	c, err := m.o.Upstream(registry)
	if err != nil {
		return nil, "", fmt.Errorf("upstream %s: %w", registry, err)
	}
	m.upstreams[registry] = c
	return c, name, nil
}

// try asks the hub and, while that cannot answer, the upstream itself. What
// the hub says of a thing's absence stands: it has its rules about that.
func (m *Mirror) try(ctx context.Context, repo string, spare bool, ask func(ctx context.Context, c *ociclient.Client, name string) error) error {
	var hubErr error
	if hub := m.o.Hub; hub != nil {
		if !hub.Tripped() {
			hctx, cancel := context.WithTimeout(ctx, hubTimeout)
			hubErr = ask(hctx, hub, repo)
			cancel()
			if hubErr == nil || !away(hubErr) || ctx.Err() != nil {
				return hubErr
			}
		} else {
			hubErr = oci.Errorf(oci.Unavailable, "the hub did not answer a moment ago")
		}
	}
	up, name, err := m.upstream(repo)
	if err != nil {
		return err
	}
	if spare && up.Tripped() {
		return oci.Errorf(oci.Unavailable, "neither hub nor upstream answered a moment ago")
	}
	err = unseen(repo, ask(ctx, up, name))
	if err != nil && hubErr != nil {
		m.o.Log.Debug("neither hub nor upstream", "repo", repo, "hub", hubErr, "err", err)
	}
	return err
}

// away says that the hub did not answer, as opposed to answering no, or not yet:
// then it says by which decision.
func away(err error) bool {
	if e, ok := errors.AsType[*oci.Error](err); ok && e.Detail != nil {
		return false
	}
	return oci.IsUnavailable(err) || oci.CodeOf(err) == oci.Unknown
}

// visible refuses what needs credentials at its registry. No challenge goes
// with it: containerd then asks the next host with the Pod's own.
func visible(repo string, v oci.Visibility) error {
	if v != oci.Private {
		return nil
	}
	return private(repo, nil)
}

// unseen is visible for the error of an upstream, which is asked without
// credentials: what it denies may be the Pod's to see.
func unseen(repo string, err error) error {
	if oci.CodeOf(err) != oci.Denied {
		return err
	}
	return private(repo, err)
}

func private(repo string, cause error) error {
	return &oci.Error{
		Code: oci.Unauthorized, Err: cause,
		Message: repo + " is private at its registry: pulled there with the Pod's own credentials, not through this node's cache",
	}
}
