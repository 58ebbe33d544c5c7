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
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/hub/backup"
	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/gc"
	"github.com/breakwater-oci/breakwater/hub/identity"
	"github.com/breakwater-oci/breakwater/hub/judge"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/proxy"
	"github.com/breakwater-oci/breakwater/hub/registry"
	"github.com/breakwater-oci/breakwater/hub/scan"
	"github.com/breakwater-oci/breakwater/hub/scan/vulndb"
	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/pulls"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
	"github.com/breakwater-oci/breakwater/pkg/telemetry"
	"github.com/breakwater-oci/breakwater/pkg/version"
)

// keepPulls is how many pulls the API can tell of.
const keepPulls = 500

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
