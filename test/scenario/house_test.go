// Package scenario drives hub and node agents, whole and in one process,
// against an upstream that fails as it is told. Real containerd and the real
// programs are in test/e2e.
package scenario

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub"
	"github.com/breakwater-oci/breakwater/nodeagent"
	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

const adminPassword = "correct-horse"

// house is an upstream called docker.io, a hub that proxies it, and agents.
type house struct {
	t        *testing.T
	upstream *ocitest.Memory
	faults   *ocitest.FaultProxy // in front of upstream
	up       *httptest.Server
	hub      *daemon
	proxy    hub.Proxy
	nodes    []*daemon
}

// daemon is a hub or an agent that runs.
type daemon struct {
	url, status string
	stop        func()
	tidy        func(*testing.T) // a hub's chores, now
}

type houseOption func(*house)

// withProxy changes how the hub treats its upstream.
func withProxy(change func(*hub.Proxy)) houseOption { return func(h *house) { change(&h.proxy) } }

func newHouse(t *testing.T, opts ...houseOption) *house {
	h := &house{t: t, upstream: ocitest.NewMemory()}
	h.faults = ocitest.NewFaultProxy(ociserver.New(h.upstream, ociserver.Options{}))
	h.up = httptest.NewServer(h.faults)
	t.Cleanup(h.up.Close)
	t.Cleanup(h.faults.Clear) // what hangs is let go before the server is closed
	h.proxy = hub.Proxy{Registry: oci.DockerHub, URL: h.up.URL}
	h.proxy.SetDefaults()
	for _, o := range opts {
		o(h)
	}
	h.hub = h.startHub(t.TempDir())
	return h
}

func (h *house) startHub(dir string) *daemon {
	h.t.Helper()
	passwordFile := filepath.Join(dir, "password")
	if err := os.WriteFile(passwordFile, []byte(adminPassword), 0o600); err != nil {
		h.t.Fatal(err)
	}
	cfg := hub.DefaultConfig(dir)
	cfg.Listen, cfg.Metrics.Listen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Auth.Admin.PasswordFile = passwordFile
	cfg.Proxies = []hub.Proxy{h.proxy}
	cfg.DrainFor = config.Duration(time.Second)
	x, err := hub.New(h.t.Context(), cfg, logger(h.t, "hub"))
	if err != nil {
		h.t.Fatal(err)
	}
	d := h.run(x.Addr(), x.MonitorAddr(), x.Run)
	d.tidy = func(t *testing.T) { x.Tidy(t.Context()) }
	return d
}

// node starts an agent of its own cache; change may alter its configuration.
func (h *house) node(change ...func(*nodeagent.Config)) *daemon {
	h.t.Helper()
	dir := h.t.TempDir()
	cfg := nodeagent.DefaultConfig()
	cfg.Hub.URL = h.hub.url
	cfg.Listen, cfg.Status.Listen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.StateDir, cfg.Cache.Dir = dir, filepath.Join(dir, "cache")
	cfg.Cache.MinFreeBytes = 0
	cfg.Containerd.Manage = false
	cfg.Upstreams = map[string]nodeagent.Upstream{oci.DockerHub: {URL: h.up.URL}}
	cfg.DrainFor = config.Duration(time.Second)
	for _, c := range change {
		c(&cfg)
	}
	x, err := nodeagent.New(h.t.Context(), cfg, logger(h.t, "node"))
	if err != nil {
		h.t.Fatal(err)
	}
	d := h.run(x.Addr(), x.StatusAddr(), x.Run)
	h.nodes = append(h.nodes, d)
	return d
}

func (h *house) run(addr, status string, run func(context.Context) error) *daemon {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	d := &daemon{url: "http://" + addr, status: "http://" + status}
	d.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !strings.Contains(err.Error(), "of grace were cut") {
			h.t.Errorf("stopped with %v", err)
		}
	})
	h.t.Cleanup(func() {
		h.faults.Clear()
		d.stop()
	})
	return d
}

// push puts an image into the upstream.
func (h *house) push(repo, tag string, tree ocitest.Tree) {
	h.t.Helper()
	if err := tree.Push(h.t.Context(), h.upstream, repo, tag); err != nil {
		h.t.Fatal(err)
	}
}

// answer is what a client got.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error // of the connection or of a body that ended short
}

func (a answer) String() string {
	return fmt.Sprintf("%d %v %s %v", a.status, a.header.Get("Docker-Content-Digest"), strings.TrimSpace(string(a.body[:min(len(a.body), 200)])), a.err)
}

var client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}

// ask asks as containerd does: the bare repository, and ns for the registry.
func ask(t *testing.T, method, base, path string, header ...string) answer {
	t.Helper()
	return askCtx(t.Context(), t, method, base, path, header...)
}

func askCtx(ctx context.Context, t *testing.T, method, base, path string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, base+"/v2/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{status: res.StatusCode, header: res.Header, body: body, err: err}
}

const ns = "?ns=docker.io"

// pull pulls as containerd does and returns the first thing that is not right.
func pull(ctx context.Context, t *testing.T, base, repo, ref string, want ocitest.Tree) error {
	head := askCtx(ctx, t, "HEAD", base, repo+"/manifests/"+ref+ns)
	if head.status != 200 || head.header.Get("Docker-Content-Digest") != want.Digest.String() {
		return fmt.Errorf("HEAD %s: %v", ref, head)
	}
	for tree := range want.Walk() {
		m := askCtx(ctx, t, "GET", base, repo+"/manifests/"+tree.Digest.String()+ns)
		if m.status != 200 || m.err != nil || oci.FromBytes(m.body) != tree.Digest || m.header.Get("Content-Type") != tree.MediaType {
			return fmt.Errorf("manifest %s: %v", tree.Digest, m)
		}
		for _, blob := range tree.Blobs {
			d := oci.FromBytes(blob)
			b := askCtx(ctx, t, "GET", base, repo+"/blobs/"+d.String()+ns)
			if b.status != 200 || b.err != nil || oci.FromBytes(b.body) != d {
				return fmt.Errorf("blob %s: status %d, %d bytes, %w", d, b.status, len(b.body), b.err)
			}
		}
	}
	return nil
}

func mustPull(t *testing.T, base, repo, ref string, want ocitest.Tree) {
	t.Helper()
	if err := pull(t.Context(), t, base, repo, ref, want); err != nil {
		t.Fatal(err)
	}
}

// logger shows what a daemon says when the test has failed.
func logger(t *testing.T, program string) *slog.Logger {
	buf := &lockedBuilder{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("--- %s ---\n%s", program, buf)
		}
	})
	return slog.New(slog.NewTextHandler(buf, &slog.HandlerOptions{Level: slog.LevelDebug})).With("program", program)
}

type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() > 200_000 {
		return len(p), nil
	}
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
