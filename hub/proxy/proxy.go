// Package proxy serves the images of one upstream registry and keeps what was
// fetched: credentials, allow list, lifetimes, limits. Manifests and tags are
// rows at once; a blob's bytes are fetched when somebody asks for them.
//
// Replicas of a hub that share rows and storage fetch everything once between
// them: one leads a fill, the others read along from it (peer.go), and one of
// them goes on when it dies.
//
// Names given to it are the hub's whole paths, "docker.io/library/nginx".
// Who may call is decided in front of it (hub/gate); it says in its answers
// whether a repository is public at its registry.
package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"golang.org/x/sync/singleflight"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// The time one question to an upstream may take. With an older answer to fall
// back on it is short enough for a node to still answer containerd in 3 s.
const (
	askTimeout      = 10 * time.Second
	fallbackTimeout = 2 * time.Second
)

// Options are one upstream's rules.
type Options struct {
	Registry    string   // what images are called by: "docker.io"
	Path        string   // first segment of its repositories here; "" for oci.RegistryPath
	Allow       []string // doublestar patterns of repositories at the upstream; none allows all
	FreshFor    time.Duration
	ServeStale  time.Duration
	KeepRemoved bool // onRemoved: serve
	Public      bool
	Credentials bool              // the upstream is asked with an account's
	Upstream    *ociclient.Client // with the account's credentials, if any
	Anonymous   *ociclient.Client // without; for the probe of what is public
	// Redirect says whether whoever asks may be sent to the storage itself for a
	// blob that is found at this place; nil sends nobody.
	Redirect func(ctx context.Context, p meta.Place) bool
	// RedirectFor is how long they may take to come to the storage, or to come
	// back to it for another range; 0 is 15 minutes.
	RedirectFor time.Duration
	Log         *slog.Logger
}

// Proxy implements [oci.Registry] for one upstream: pulls and lists. Pushes
// are denied.
type Proxy struct {
	readOnly
	o        Options
	rows     *meta.Store
	blobs    *Blobs
	resolver *pullthrough.Resolver
	fetches  singleflight.Group
	*recent
}

var _ oci.Registry = (*Proxy)(nil)

// New returns the proxy of one upstream. All proxies of a hub share blobs.
func New(rows *meta.Store, blobs *Blobs, o Options) *Proxy {
	if o.Path == "" {
		o.Path = oci.RegistryPath(o.Registry)
	}
	if o.RedirectFor == 0 {
		o.RedirectFor = 15 * time.Minute
	}
	p := &Proxy{
		readOnly: readOnly{o.Registry}, o: o, rows: rows, blobs: blobs, recent: blobs.recent,
	}
	p.resolver = &pullthrough.Resolver{
		Memory: memory{p}, Ask: p.ask, KeepRemoved: o.KeepRemoved,
		Timeout: askTimeout, FallbackTimeout: fallbackTimeout,
	}
	return p
}

// name is the repository's name at the upstream; an error when the allow list
// does not have it.
func (p *Proxy) name(repo string) (string, error) {
	name, ok := strings.CutPrefix(repo, p.o.Path+"/")
	if !ok {
		return "", oci.Errorf(oci.NameUnknown, "%q is not a repository of %s", repo, p.o.Registry)
	}
	if len(p.o.Allow) == 0 {
		return name, nil
	}
	for _, pattern := range p.o.Allow {
		if ok, _ := doublestar.Match(pattern, name); ok {
			return name, nil
		}
	}
	return "", oci.Errorf(oci.Denied, "%s/%s is not on this hub's allow list for %s", p.o.Registry, name, p.o.Registry)
}

// visibility says who may see a repository at its registry. With an account's
// credentials it takes a probe without them, remembered for a while.
func (p *Proxy) visibility(ctx context.Context, repo, name string, ref oci.Reference) oci.Visibility {
	if v, ok := p.always(); ok {
		return v
	}
	if v, ok := p.visible.Get(repo); ok {
		return v
	}
	_, err := p.o.Anonymous.Resolve(ctx, name, ref)
	switch {
	case err == nil:
		p.visible.Add(repo, oci.Public)
		return oci.Public
	case oci.IsAbsent(err):
		p.visible.Add(repo, oci.Private)
	default: // not known: nobody gets in on a guess, and it is asked again
		p.o.Log.Debug("anonymous probe unanswered", "repo", repo, "err", err)
	}
	return oci.Private
}

// always is what holds for every repository: nothing is public that the
// configuration does not call so, and everything is that was got without
// credentials.
func (p *Proxy) always() (v oci.Visibility, ok bool) {
	switch {
	case !p.o.Public:
		return oci.Private, true
	case !p.o.Credentials:
		return oci.Public, true
	}
	return "", false
}

// seen is a repository's visibility by its row: private until a probe has
// shown otherwise.
func (p *Proxy) seen(row oci.Visibility) oci.Visibility {
	if v, ok := p.always(); ok {
		return v
	}
	if row == "" {
		return oci.Private
	}
	return row
}

// Tags lists a repository's tags at the upstream; while that cannot answer,
// those met so far.
func (p *Proxy) Tags(ctx context.Context, repo string, n int, last string) ([]string, bool, error) {
	name, err := p.name(repo)
	if err != nil {
		return nil, false, err
	}
	tags, more, err := p.o.Upstream.Tags(ctx, name, n, last)
	if oci.IsUnavailable(err) {
		known, more, kerr := p.rows.Tags(ctx, repo, pageSize(n), last)
		if kerr == nil && len(known) > 0 {
			names := make([]string, len(known))
			for i, t := range known {
				names[i] = t.Name
			}
			return names, more, nil
		}
	}
	return tags, more, err
}

func pageSize(n int) int {
	if n <= 0 {
		return 1000
	}
	return n
}

// Referrers asks the upstream: signatures must not be missed for being new.
func (p *Proxy) Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	name, err := p.name(repo)
	if err != nil {
		return nil, err
	}
	return p.o.Upstream.Referrers(ctx, name, d, artifactType)
}

// held is the error for a GET while the upstream wants none (429).
func (p *Proxy) held() error {
	until := p.o.Upstream.Held()
	wait := time.Until(until)
	if wait <= 0 {
		return nil
	}
	return &oci.Error{Code: oci.TooManyRequests, RetryAfter: wait, Message: fmt.Sprintf("%s limits this hub's pulls (429); it may be asked again in %s", p.o.Registry, wait.Round(time.Second))}
}
