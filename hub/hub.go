// Package hub is the central registry: images pushed to it, proxies of
// upstream registries, and the API by which both are managed. [New] shows how
// its parts are joined.
package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/hub/api"
	"github.com/breakwater-oci/breakwater/hub/backup"
	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/gate"
	"github.com/breakwater-oci/breakwater/hub/gc"
	"github.com/breakwater-oci/breakwater/hub/identity"
	"github.com/breakwater-oci/breakwater/hub/judge"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/proxy"
	"github.com/breakwater-oci/breakwater/hub/rbac"
	"github.com/breakwater-oci/breakwater/hub/registry"
	"github.com/breakwater-oci/breakwater/hub/scan"
	"github.com/breakwater-oci/breakwater/hub/scan/vulndb"
	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/pulls"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
	"github.com/breakwater-oci/breakwater/pkg/telemetry"
	"github.com/breakwater-oci/breakwater/pkg/version"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	keepPulls = 500
	// tidyEvery is how often caches are held to their limits and dead uploads
	// are removed.
	tidyEvery = time.Minute
	// stallAfter is how long a body may rest before it is ended.
	stallAfter = 30 * time.Second
	// bodyStallAfter is the same of one that is pushed: clients read on the way.
	bodyStallAfter = 2 * time.Minute
)

// Hub is the central registry.
type Hub struct {
	cfg       Config
	log       *slog.Logger
	metrics   *prometheus.Registry
	rows      *meta.Store
	storage   blob.Store
	owned     *owned // storage, to who collects garbage
	fills     *proxy.Blobs
	local     *registry.Registry
	identity  *identity.Identity
	upstreams []upstream
	names     map[string]string // registry → path
	garbage   *gc.GC
	backups   *backup.Schedule // nil when none is asked for
	all       *router          // what it holds and proxies, without any gate
	scanning  *scanning        // nil when nothing is scanned
	judge     *judge.Judge
	limits    *limits
	recent    *pulls.Log
	health    *telemetry.Health
	started   time.Time
	listen    net.Listener
	monitor   net.Listener
	handler   http.Handler
	password  string // of the admin, when it was made now
}

// upstream is one configured proxy with its parts.
type upstream struct {
	cfg     Proxy
	client  *ociclient.Client
	proxy   *proxy.Proxy
	evictor *proxy.Evictor
}

// New opens database, storage and ports. Nothing is served before [Hub.Run];
// a hub that is not run is closed by [Hub.Close].
func New(ctx context.Context, cfg Config, log *slog.Logger) (_ *Hub, err error) {
	h := &Hub{
		cfg: cfg, log: log, metrics: telemetry.NewRegistry(), names: make(map[string]string),
		recent: pulls.New(keepPulls), health: &telemetry.Health{}, started: time.Now().UTC(),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	if h.listen, err = httpx.Listen(cfg.Listen); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if h.monitor, err = httpx.Listen(cfg.Metrics.Listen); err != nil {
		return nil, fmt.Errorf("metrics.listen: %w", err)
	}
	if err := h.openStores(ctx); err != nil {
		return nil, err
	}
	h.limits = newLimits(h.metrics)
	if err := h.openIdentity(ctx); err != nil {
		return nil, err
	}
	if err := h.openFills(ctx); err != nil {
		return nil, err
	}
	if err := h.openProxies(ctx); err != nil {
		return nil, err
	}
	h.local = registry.New(h.storage, h.rows, registry.Options{
		Proxies: h.paths(), Redirect: h.cfg.Storage.S3.redirects, RedirectFor: time.Duration(h.cfg.Storage.S3.RedirectFor), Log: log,
	})
	h.garbage = newGC(cfg, h.rows, h.owned, h.metrics, log)
	if err := h.openBackups(); err != nil {
		return nil, err
	}
	if err := h.openPolicy(ctx); err != nil {
		return nil, err
	}
	h.handler = h.routes()
	return h, nil
}

// openPolicy joins what judges images to what they are judged by.
func (h *Hub) openPolicy(ctx context.Context) error {
	proxies := make(map[string]*proxy.Proxy)
	for _, u := range h.upstreams {
		proxies[u.cfg.Path] = u.proxy
	}
	h.all = &router{local: h.local, proxies: proxies, names: h.names, rows: h.rows}
	n, err := newNames(h.cfg.ExternalURL, h.Addr(), h.upstreams)
	if err != nil {
		return err
	}
	if h.scanning, err = h.openScanning(h.all, n); err != nil {
		return err
	}
	o := judge.Options{
		Rows: h.rows, Images: h.all, Scanner: identity.ScannerName, Subject: n.subject, Repo: n.repo, Own: n.own, Guessed: n.guess, Proxied: n.proxied, MayPush: n.mayPush, Platforms: h.cfg.Scan.Platforms,
		Exempt: h.cfg.Policy.digests(), File: h.cfg.PolicyFile, SigningKey: h.identity.SigningKey, DecisionLog: h.cfg.DecisionLog, Metrics: h.metrics, Log: h.log,
	}
	if h.scanning != nil {
		o.Scans = h.scanning.service
	}
	h.judge, err = judge.New(ctx, o)
	return err
}

func (h *Hub) openStores(ctx context.Context) (err error) {
	warn := func(s string) { h.log.Warn("secret is not kept well", "why", s) }
	if h.storage, err = openStorage(ctx, h.cfg.Storage, warn); err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	if h.rows, err = openRows(ctx, h.cfg, h.log); err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	if err := h.rows.Migrate(ctx); err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	if h.owned, err = claim(ctx, h.rows, h.storage); err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	url, err := advertise(ctx, h.cfg, h.listen.Addr())
	if err != nil {
		return err
	}
	return h.rows.StartReplica(ctx, url, version.String())
}

// openFills takes up what fetches were doing when the process ended.
func (h *Hub) openFills(ctx context.Context) error {
	o := proxy.BlobOptions{Options: pullthrough.Options{Log: h.log}, Metrics: h.metrics}
	if h.cfg.Metadata.Driver == "postgres" {
		o.Peers = &proxy.Peers{Token: h.identity.ReplicaToken, TLS: peerTLS(h.cfg)}
	}
	h.fills = proxy.NewBlobs(h.rows, h.storage, o)
	if err := h.fills.Reclaim(ctx); err != nil { // one that cannot be deleted keeps no hub from serving
		h.log.Error("space of interrupted fetches not reclaimed", "err", err)
	}
	return ctx.Err()
}

func (h *Hub) openBackups() error {
	if h.cfg.Backup.Every == 0 {
		return nil
	}
	rows, err := metaConfig(h.cfg, h.log)
	if err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	h.backups = backup.New(
		backup.Config{Every: time.Duration(h.cfg.Backup.Every), Keep: h.cfg.Backup.Keep, Dir: h.cfg.Backup.Dir},
		backup.Parts{Rows: rows, Store: h.storage, Leases: h.rows, Version: version.String(), Log: h.log, Metrics: h.metrics},
	)
	return nil
}

// Migrate brings the database up to date and says what that was; with dryRun
// only what it would be.
func Migrate(ctx context.Context, cfg Config, dryRun bool) (plan []meta.Migration, err error) {
	if _, missing := noDatabase(cfg); missing && dryRun {
		return planOfNew(ctx)
	}
	rows, err := openRows(ctx, cfg, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	if plan, err = rows.Plan(ctx); err != nil || dryRun {
		return plan, err
	}
	return plan, rows.Migrate(ctx)
}

// planOfNew is what a database that is not there yet will be made by.
func planOfNew(ctx context.Context) (plan []meta.Migration, err error) {
	dir, err := os.MkdirTemp("", "breakwater-plan-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rows, err := meta.Open(ctx, meta.Config{Driver: "sqlite", DSN: filepath.Join(dir, "hub.db")})
	if err != nil {
		return nil, err
	}
	plan, err = rows.Plan(ctx)
	return plan, errors.Join(err, rows.Close())
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

func (h *Hub) openIdentity(ctx context.Context) (err error) {
	changed := func(ctx context.Context) {
		if err := h.rows.Notify(ctx, topicIdentity); err != nil { // they find out by themselves, a little later
			h.log.Warn("other replicas are not told of changed users", "err", err)
		}
	}
	if h.identity, err = identity.New(h.rows, identity.Options{KeyFile: keyFile(h.cfg), Changed: changed, Log: h.log}); err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	password, err := config.ReadSecret("", h.cfg.Auth.Admin.PasswordFile, func(s string) { h.log.Warn("secret is not kept well", "why", s) })
	if err != nil {
		return fmt.Errorf("auth.admin.passwordFile: %w", err)
	}
	if password == "" {
		password = config.Secret(os.Getenv("BREAKWATER_ADMIN_PASSWORD"))
	}
	h.password, err = h.identity.EnsureAdmin(ctx, h.cfg.Auth.Admin.Username, password.Reveal())
	return err
}

// anonymousDecisions says whether nodes may tell of their decisions without an
// account: where there is no robot that one could be.
func (h *Hub) anonymousDecisions(ctx context.Context) (bool, error) {
	robots, _, err := h.rows.Robots(ctx, 1, "")
	return len(robots) == 0, err
}

// routes lists all that is served on the hub's port.
func (h *Hub) routes() http.Handler {
	configured := make(map[string]Proxy)
	for _, u := range h.upstreams {
		configured[u.cfg.Path] = u.cfg
	}
	all := h.all
	// Who may not see an image is not told what a policy says of it: rights first.
	rules, seen := rbac.Rules{AnonymousPull: h.cfg.Auth.AnonymousPull}, sight{h.rows, configured}
	guarded := gate.NewAccess(h.judge.Gate(), rules, seen)
	front := &frontDoor{
		identity: h.identity, gate: guarded, name: all.name,
		external: h.cfg.ExternalURL, forward: httpx.NewForwarded(h.cfg.TrustedProxies),
	}
	v2 := ociserver.New(guarded, ociserver.Options{
		Name: all.name, Authenticate: front.authenticate, Challenge: front.challenge, Ping: front.ping,
		StallTimeout: stallAfter, BodyTimeout: bodyStallAfter, Observe: h.observe, Log: h.log,
		Metrics: h.metrics, ChunkMinBytes: h.cfg.Storage.chunkMinBytes(),
	})
	mayPull := seen.mayPull(rules, gate.NewAccess(all, rules, seen))
	mux := http.NewServeMux()
	mux.Handle(identity.TokenPath, h.identity.TokenHandler(front.grant))
	mux.Handle("/api/v1/", api.New(api.Options{
		Version: version.String(), StartedAt: h.started, Rows: h.rows, GC: h.garbage, Identity: h.identity, Pulls: h.recent, Authenticate: h.identity.Authenticate,
		Filling: h.fills.Filling, Upstreams: h.upstreamStatus, Reserved: func(name string) bool { return all.proxies[name] != nil }, Log: h.log,
		Judge: h.judge, Scans: h.scanService(), Vulnerabilities: h.vulnerabilities(), MayPull: mayPull,
	}))
	mux.Handle("/node/v1/", api.NewNode(api.NodeOptions{
		Judge: h.judge, Authenticate: h.identity.Authenticate, Keys: h.identity.PublicKeys, AnonymousPull: h.cfg.Auth.AnonymousPull, Log: h.log,
		AnonymousNodes: h.cfg.Auth.AnonymousPull && !h.cfg.Policy.NodesNeedAccount, IsNode: isNode, AnonymousDecisions: h.anonymousDecisions, MayPull: mayPull,
	}))
	mux.Handle(proxy.PeerPath, proxy.PeerHandler(h.fills, h.fromReplica))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintf(w, "This is a Breakwater hub %s. Images are under /v2, its API under /api/v1 (openapi.json).\n", version.String())
	})
	door := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/") { // before any mux: repository names hold slashes
			v2.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
	return httpx.Middleware{Log: h.log, Forwarded: front.forward, Metrics: httpx.NewMetrics(h.metrics, ociserver.Kinds()...)}.Wrap(door)
}

// Registries are the upstreams that are proxied, by name.
func (h *Hub) Registries() []string {
	var all []string
	for _, u := range h.upstreams {
		all = append(all, u.cfg.Registry)
	}
	return all
}

// Addr is where the hub is served, for a configuration with port 0.
func (h *Hub) Addr() string { return h.listen.Addr().String() }

// MonitorAddr is where metrics and health are served.
func (h *Hub) MonitorAddr() string { return h.monitor.Addr().String() }

// GeneratedPassword is the admin's password when this start has made it: to be
// shown once. "" otherwise.
func (h *Hub) GeneratedPassword() string { return h.password }

// Run serves until ctx ends and for the delay that is configured, then lets
// running answers end.
func (h *Hub) Run(ctx context.Context) error {
	defer h.Close()
	h.health.Add("database", h.rows.Ping)
	h.health.AddOptional("storage", storageCheck(h.cfg.Storage, h.storage)) // not required: replicas share it, and what needs no bytes goes on
	h.log.Info("hub ready", "listen", h.Addr(), "metrics", h.MonitorAddr(), "version", version.String())
	g, gctx := errgroup.WithContext(ctx)
	delay := time.Duration(h.cfg.DrainDelay)
	taking, stop := after(gctx, delay) // while connections are taken
	defer stop()
	o := httpx.Options{Delay: delay, Grace: time.Duration(h.cfg.DrainFor), Log: h.log, TLS: httpx.TLSFiles{CertFile: h.cfg.TLS.CertFile, KeyFile: h.cfg.TLS.KeyFile, ClientCAFile: h.cfg.TLS.ClientCAFile}}
	g.Go(func() error {
		defer stop() // it may have failed
		return httpx.Serve(gctx, h.listen, h.handler, o)
	})
	g.Go(func() error {
		return httpx.Serve(taking, h.monitor, telemetry.Handler(h.metrics, h.health), httpx.Options{Grace: time.Second, Log: h.log})
	})
	g.Go(func() error {
		<-gctx.Done()
		h.health.Drain()
		<-taking.Done()
		h.fills.Drain()
		return nil
	})
	g.Go(func() error { h.tidyForever(gctx); return nil })
	g.Go(func() error { return ended(gctx, h.garbage.Run(gctx)) })
	if h.backups != nil {
		g.Go(func() error { h.backups.Run(gctx); return nil })
	}
	g.Go(func() error { return ended(gctx, h.judge.Run(taking)) })
	if h.scanning != nil {
		g.Go(func() error { return ended(gctx, h.scanning.run(gctx)) })
	}
	g.Go(func() error {
		return ended(gctx, h.rows.Listen(taking, func(topic string) { h.told(taking, topic) }))
	})
	return g.Wait()
}

// after is a context that ends so long after ctx, or when stop is called.
func after(ctx context.Context, delay time.Duration) (_ context.Context, stop context.CancelFunc) {
	later, end := context.WithCancel(context.WithoutCancel(ctx))
	unhook := context.AfterFunc(ctx, func() { time.AfterFunc(delay, end) })
	return later, func() { unhook(); end() }
}

// ended is what ended a task, unless it was the end of all.
func ended(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// topicIdentity is what replicas tell each other when users or robots change.
const topicIdentity = "identity"

// told hears of changes made by other replicas; "" is that some may have been
// missed. What is remembered here may be of before.
func (h *Hub) told(ctx context.Context, topic string) {
	if topic == "" || topic == topicIdentity {
		h.identity.Forget()
	}
	if h.scanning != nil {
		h.scanning.told(topic)
	}
	h.judge.Told(ctx, topic)
}

// observe hears of each answer about an image.
func (h *Hub) observe(e ociserver.Event) {
	h.recent.Observe(e)
	if h.scanning != nil && e.Kind == ociserver.Manifest && e.Method == http.MethodPut && e.Status == http.StatusCreated {
		h.scanning.pushed(e.Repo, e.Digest)
	}
}

// vulnerabilities is nil where there is no such database.
func (h *Hub) vulnerabilities() *vulndb.DB {
	if h.scanning == nil {
		return nil
	}
	return h.scanning.database
}

// scanService is nil when nothing is scanned.
func (h *Hub) scanService() *scan.Service {
	if h.scanning == nil {
		return nil
	}
	return h.scanning.service
}

// fromReplica refuses a request that is not another replica's.
func (h *Hub) fromReplica(r *http.Request) error {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return h.identity.VerifyReplica(token)
}

// Close frees what New opened. Run does so itself.
func (h *Hub) Close() error {
	var errs []error
	for _, l := range []net.Listener{h.listen, h.monitor} {
		if l != nil {
			if err := l.Close(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if h.fills != nil {
		h.fills.Close()
		h.fills = nil
	}
	if h.rows != nil {
		errs = append(errs, h.rows.Close())
		h.rows = nil
	}
	if h.storage != nil {
		errs = append(errs, h.storage.Close())
		h.storage = nil
	}
	return errors.Join(errs...)
}

// tidyForever keeps caches within their limits and removes dead uploads.
func (h *Hub) tidyForever(ctx context.Context) {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			h.Tidy(ctx)
		}
	}
}

// Tidy holds caches to their limits and removes dead uploads, once. Run does so
// every minute.
func (h *Hub) Tidy(ctx context.Context) {
	if !h.owned.mayTidy(ctx, h.log) {
		return
	}
	for _, u := range h.upstreams {
		if _, err := u.evictor.Run(ctx); err != nil && ctx.Err() == nil {
			h.log.Error("proxy cache not held to its limits", "upstream", u.cfg.Registry, "err", err)
		}
	}
	if err := h.tidyFormer(ctx); err != nil && ctx.Err() == nil {
		h.log.Error("the cache of a proxy that is no more is not evicted", "err", err)
	}
	if err := h.fills.Reclaim(ctx); err != nil && ctx.Err() == nil {
		h.log.Error("space of interrupted fetches not reclaimed", "err", err)
	}
	if err := h.local.Reap(ctx); err != nil && ctx.Err() == nil {
		h.log.Error("dead uploads not removed", "err", err)
	}
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
