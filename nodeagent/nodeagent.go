// Package nodeagent is the agent of a node: a mirror that containerd asks
// first, a disk cache behind it, and the hosts.toml files that make containerd
// ask. [New] shows how its parts are joined.
package nodeagent

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

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/hosts"
	"github.com/breakwater-oci/breakwater/nodeagent/cache"
	"github.com/breakwater-oci/breakwater/nodeagent/judge"
	"github.com/breakwater-oci/breakwater/nodeagent/mirror"
	"github.com/breakwater-oci/breakwater/nodeagent/status"
	"github.com/breakwater-oci/breakwater/nodeagent/workload"
	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/pulls"
	"github.com/breakwater-oci/breakwater/pkg/telemetry"
	"github.com/breakwater-oci/breakwater/pkg/version"
)

const (
	// answerWithin is the longest containerd waits for an answer of ours: it
	// waits for 30 s before it goes to its next host, and Kubernetes pulls one
	// image at a time.
	answerWithin = 3 * time.Second
	// stallAfter is how long a body may rest before it is ended, so that
	// containerd goes on elsewhere.
	stallAfter = 12 * time.Second
	// hubPingAfter and again as long is how soon a hub that hangs is noticed, so
	// that the upstream can still answer within answerWithin.
	hubPingAfter = time.Second
	// hubStallAfter leaves the time to go on elsewhere before stallAfter.
	hubStallAfter = 8 * time.Second
	// repairEvery is how often certs.d is looked after.
	repairEvery = time.Minute
	keepPulls   = 200
)

// Agent is a node's agent.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	cache   *cache.Cache
	mirror  *mirror.Mirror
	gate    *gated          // nil: this node judges nothing
	runs    *workload.Watch // nil: nobody asks what runs an image
	health  *telemetry.Health
	listen  net.Listener
	status  net.Listener
	socket  net.Listener // for the image verifier; nil when there is none
	handler http.Handler
	pages   http.Handler
}

// New opens the cache and both ports. Nothing is served before [Agent.Run];
// an agent that is not run is closed by [Agent.Close].
func New(ctx context.Context, cfg Config, log *slog.Logger) (_ *Agent, err error) {
	a := &Agent{cfg: cfg, log: log, health: &telemetry.Health{}}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	if err := makeState(cfg.StateDir); err != nil {
		return nil, fmt.Errorf("stateDir: %w", err)
	}
	if a.listen, err = httpx.Listen(cfg.Listen); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if _, port, _ := net.SplitHostPort(cfg.Listen); port == "0" {
		a.cfg.Listen = a.Addr() // the one that was given is what containerd is told
	}
	if a.status, err = httpx.Listen(cfg.Status.Listen); err != nil {
		return nil, fmt.Errorf("status.listen: %w", err)
	}
	reg := telemetry.NewRegistry()
	a.cache, err = cache.Open(ctx, cache.Options{
		Dir: cfg.Cache.Dir, MaxBytes: int64(cfg.Cache.MaxBytes), MinFreeBytes: int64(cfg.Cache.MinFreeBytes),
		Metrics: reg, Log: log,
	})
	if err != nil {
		return nil, err
	}
	hub, err := hubClient(cfg, log)
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	a.mirror = mirror.New(mirror.Options{
		Cache: a.cache, Hub: hub, Registries: cfg.Mirrors.Registries, All: cfg.Mirrors.All,
		Upstream: func(registry string) (*ociclient.Client, error) { return upstreamClient(cfg, registry, log) },
		Log:      log,
	})
	if a.runs, err = a.watchWorkloads(); err != nil {
		return nil, err
	}
	if a.gate, err = openGate(a.cfg, a.mirror, a.noted, reg, log); err != nil {
		return nil, err
	}
	if err := a.checks(cfg.Hub, log); err != nil {
		return nil, err
	}
	a.socket = a.listenVerify()
	recent := pulls.New(keepPulls)
	a.handler = httpx.Middleware{Log: log, Metrics: httpx.NewMetrics(reg, ociserver.Kinds()...)}.Wrap(a.server(recent, reg))
	a.pages = a.statusPages(reg, recent, hub)
	return a, nil
}

// server speaks the registry protocol to containerd.
func (a *Agent) server(recent *pulls.Log, reg prometheus.Registerer) http.Handler {
	o := ociserver.Options{
		Name: a.mirror.Name, Containerd: true, HeaderTimeout: answerWithin, StallTimeout: stallAfter,
		Observe: func(e ociserver.Event) { recent.Observe(e); a.served(e) },
		Log:     a.log, Metrics: reg,
	}
	if a.gate == nil {
		return ociserver.New(a.mirror, o)
	}
	o.Authenticate = func(r *http.Request) (context.Context, error) {
		return oci.WithCaller(r.Context(), oci.Caller{Agent: strings.HasPrefix(r.UserAgent(), agentName)}), nil
	}
	o.HeaderTimeout = answerJudgedWithin // the mirror is held to answerWithin behind the gate
	return ociserver.New(a.gate, o)
}

func hubClient(cfg Config, log *slog.Logger) (*ociclient.Client, error) {
	c := cfg.Hub
	if c.URL == "" {
		return nil, nil
	}
	o := ociclient.Options{
		URL: c.URL, CAFile: c.CAFile, Source: oci.FromHub, Trust: true, UserAgent: userAgent(),
		Header:      http.Header{hubapi.NodeHeader: {cfg.nodeName()}},
		DialTimeout: time.Second, PingAfter: hubPingAfter, StallTimeout: hubStallAfter, Log: log,
	}
	switch {
	case c.TokenFile != "":
		o.Token = func() (string, error) { return readSecret("", c.TokenFile) }
	case c.Username != "":
		o.Username = c.Username
		o.Password = func() (string, error) { return readSecret(c.Password, c.PasswordFile) }
	}
	return ociclient.New(o)
}

// userAgent is what the agent calls itself.
// agentName is what the User-Agent of this program begins with.
const agentName = "breakwater-node/"

func userAgent() string { return agentName + version.String() }

func readSecret(value config.Secret, file string) (string, error) {
	s, err := config.ReadSecret(value, file, nil)
	return s.Reveal(), err
}

// upstreamClient is a registry as the agent asks it itself: without
// credentials, since it serves only what anyone may see.
func upstreamClient(cfg Config, registry string, log *slog.Logger) (*ociclient.Client, error) {
	u := cfg.Upstreams[registry]
	return ociclient.New(ociclient.Options{
		URL: cfg.upstreamURL(registry), CAFile: u.CAFile, UserAgent: userAgent(),
		DialTimeout: 2 * time.Second, Log: log,
	})
}

// upstreamURL is where a registry answers.
func (c Config) upstreamURL(registry string) string {
	switch u := c.Upstreams[registry]; {
	case u.URL != "":
		return u.URL
	case registry == oci.DockerHub:
		return "https://registry-1.docker.io"
	}
	return "https://" + registry
}

// Hosts are the options by which certs.d is written for this configuration.
func (c Config) Hosts() (hosts.Options, error) {
	o := hosts.Options{
		CertsDir: c.Containerd.CertsDir, StateDir: c.hostsState(),
		AgentURL: c.agentURL(), HubURL: c.Hub.MirrorURL, All: c.Mirrors.All, Enforced: c.Mirrors.Mode == modeEnforced,
	}
	for _, r := range c.Mirrors.Registries {
		o.Registries = append(o.Registries, hosts.Registry{Name: r, Upstream: c.upstreamURL(r)})
	}
	if c.Hub.MirrorURL != "" && c.Hub.CAFile != "" {
		ca, err := os.ReadFile(c.Hub.CAFile)
		if err != nil {
			return o, fmt.Errorf("hub.caFile: %w", err)
		}
		o.HubCA = ca
	}
	return o, nil
}

// agentURL is the agent as containerd on this node reaches it.
func (c Config) agentURL() string {
	host, port, err := net.SplitHostPort(c.Listen)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return "http://" + net.JoinHostPort("127.0.0.1", port)
	}
	return "http://" + c.Listen
}

func (c Config) hostsState() string { return filepath.Join(c.StateDir, "hosts") }

// Install writes certs.d, or with dryRun says what it would write.
func Install(cfg Config, dryRun bool) (hosts.Report, error) {
	o, err := cfg.Hosts()
	if err != nil {
		return hosts.Report{}, err
	}
	if dryRun {
		return hosts.Plan(o)
	}
	if err := makeState(cfg.StateDir); err != nil {
		return hosts.Report{}, err
	}
	return hosts.Apply(o)
}

// Uninstall puts back what was in certs.d before, or with dryRun says what it
// would do.
func Uninstall(cfg Config, dryRun bool) (hosts.Report, error) {
	if dryRun {
		return hosts.PlanRemove(cfg.Containerd.CertsDir, cfg.hostsState())
	}
	return hosts.Remove(cfg.Containerd.CertsDir, cfg.hostsState())
}

// statusPages serve the status port.
func (a *Agent) statusPages(reg *prometheus.Registry, recent *pulls.Log, hub *ociclient.Client) http.Handler {
	mux := telemetry.Handler(reg, a.health)
	mux.Handle("GET /status", status.Handler(status.Sources{
		StartedAt: time.Now().UTC(), Cache: a.cache, Pulls: recent, Filling: a.mirror.Filling,
		HubURL: a.cfg.Hub.URL, HubAway: func() bool { return hub != nil && hub.Tripped() },
		CacheDir: a.cfg.Cache.Dir, Mirrors: a.cfg.Mirrors.Registries, Drift: a.drift, Policy: a.policyState,
	}))
	mux.Handle("GET /policy", status.Policy(a.policyState))
	mux.Handle("GET /policy/decisions", status.Decisions(a.decisionList))
	return mux
}

// drift is where certs.d is not as this agent writes it.
func (a *Agent) drift() []string {
	if !a.cfg.Containerd.Manage {
		return nil
	}
	o, err := a.cfg.Hosts()
	if err != nil {
		return []string{err.Error()}
	}
	all, err := hosts.Check(o)
	out := make([]string, 0, len(all))
	for _, d := range all {
		out = append(out, d.Path+": "+d.Reason)
	}
	if err != nil {
		out = append(out, err.Error())
	}
	return out
}

// Addr is where containerd is served, for a configuration with port 0.
func (a *Agent) Addr() string { return a.listen.Addr().String() }

// StatusAddr is where the status is served.
func (a *Agent) StatusAddr() string { return a.status.Addr().String() }

// Run serves until ctx ends, then lets running answers end.
func (a *Agent) Run(ctx context.Context) error {
	defer a.Close()
	if a.cfg.Containerd.Manage {
		a.repair()
	}
	a.log.Info("node agent ready", "listen", a.Addr(), "status", a.StatusAddr(), "hub", a.cfg.Hub.URL, "version", version.String())
	g, gctx := errgroup.WithContext(ctx)
	grace := time.Duration(a.cfg.DrainFor)
	g.Go(func() error {
		return httpx.Serve(gctx, a.listen, a.handler, httpx.Options{Grace: grace, Log: a.log})
	})
	g.Go(func() error {
		return httpx.Serve(gctx, a.status, a.pages, httpx.Options{Grace: time.Second, Log: a.log})
	})
	g.Go(func() error {
		<-gctx.Done()
		a.health.Drain()
		return nil
	})
	if a.gate != nil {
		g.Go(func() error { a.gate.judge.Run(gctx); return nil })
	}
	if a.runs != nil {
		g.Go(func() error { a.runs.Run(gctx); return nil })
	}
	if a.socket != nil {
		g.Go(func() error { return judge.ServeSocket(gctx, a.socket, a.verify) })
	}
	if a.cfg.Containerd.Manage {
		g.Go(func() error { a.repairForever(gctx); return nil })
	}
	return g.Wait()
}

// repairForever keeps certs.d as it should be: distributions rewrite it.
func (a *Agent) repairForever(ctx context.Context) {
	tick := time.NewTicker(repairEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.repair()
		}
	}
}

func (a *Agent) repair() {
	report, err := Install(a.cfg, false)
	for _, r := range report.Rows {
		if r.Action != hosts.ActionUnchanged {
			a.log.Info("certs.d written", "registry", r.Registry, "path", r.Path, "action", string(r.Action), "reason", r.Reason)
		}
	}
	if err != nil {
		a.log.Error("certs.d not as it should be", "err", err)
	}
}

// Close frees what New opened. Run does so itself.
func (a *Agent) Close() error {
	var errs []error
	for _, l := range []net.Listener{a.listen, a.status, a.socket} {
		if l != nil {
			if err := l.Close(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if a.gate != nil {
		errs = append(errs, a.gate.judge.Close())
		a.gate = nil
	}
	if a.mirror != nil {
		a.mirror.Close()
		a.mirror = nil
	}
	if a.cache != nil {
		errs = append(errs, a.cache.Close())
		a.cache = nil
	}
	return errors.Join(errs...)
}
