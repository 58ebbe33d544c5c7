package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
	"github.com/breakwater-oci/breakwater/test/need"
)

// house is a hub that proxies one upstream as docker.io, and an agent in front of it, with their default
// configuration but for room enough in the cache.
type house struct {
	hub   *rig.Hub
	agent *rig.Node
}

// startHouse starts both. freshFor is how long the hub answers for a tag without asking its upstream.
func startHouse(t *testing.T, upstreamURL, freshFor string) house {
	t.Helper()
	h := house{hub: rig.StartHub(t, rig.HubOptions{
		Proxies: []rig.Proxy{{Registry: "docker.io", URL: upstreamURL, FreshFor: freshFor}},
		Keys:    rig.Keys{"log.level": "info"},
	})}
	h.agent = rig.StartNode(t, rig.NodeOptions{
		HubURL:    h.hub.URL,
		Upstreams: map[string]string{"docker.io": upstreamURL},
		Keys:      rig.Keys{"log.level": "info", "cache.maxBytes": "20GiB", "cache.minFreeBytes": "1GiB"},
	})
	return h
}

func (h house) procs() []*rig.Proc { return []*rig.Proc{h.hub.Proc, h.agent.Proc} }

// empty makes both begin anew, with nothing.
func (h house) empty(t *testing.T) {
	t.Helper()
	h.stop()
	h.wipe(t)
	h.hub.Start()
	h.agent.Start()
	h.hub.WaitReady()
	h.agent.WaitReady()
}

func (h house) stop() {
	for _, p := range h.procs() {
		_ = p.Stop() // how it ends is not measured
	}
}

// wipe removes what both have on disk.
func (h house) wipe(t *testing.T) {
	t.Helper()
	for _, dir := range []string{h.hub.Dir, h.agent.Dir} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// atAgent is the URL of a thing of docker.io at the agent, as containerd asks; atHub the same at the hub.
func (h house) atAgent(path string) string { return h.agent.URL + "/v2/" + path + "?ns=docker.io" }
func (h house) atHub(path string) string   { return h.hub.URL + "/v2/docker.io/" + path }

// distribution starts the registry with its stock configuration: the file system driver, blob descriptors cached in
// memory, its storage's health checked. Only its access log is off.
func distribution(t *testing.T) *rig.Registry {
	t.Helper()
	bin, dir, addr := need.Program(t, "registry"), rig.TempDir(t, "reg"), rig.FreeAddr(t)
	config := filepath.Join(dir, "config.yml")
	write(t, config, fmt.Sprintf(`version: 0.1
log:
  accesslog:
    disabled: true
  level: error
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: %s/data
  tag:
    concurrencylimit: 8
http:
  addr: %s
  headers:
    X-Content-Type-Options: [nosniff]
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
`, dir, addr))
	r := &rig.Registry{URL: "http://" + addr, Dir: filepath.Join(dir, "data")}
	r.Proc = rig.Run(t, "registry", []string{bin, "serve", config}, "OTEL_TRACES_EXPORTER=none")
	r.WaitReady(r.URL + "/v2/")
	return r
}

// nginx serves a folder of files as it should: by sendfile, whole packets, no log, a worker for each core.
func nginx(t *testing.T, root string) (p *rig.Proc, url string) {
	t.Helper()
	bin, dir, addr := need.Program(t, "nginx"), rig.TempDir(t, "nginx"), rig.FreeAddr(t)
	config := filepath.Join(dir, "nginx.conf")
	write(t, config, fmt.Sprintf(`daemon off;
user root;
worker_processes auto;
pid %[1]s/pid;
error_log stderr error;
events { worker_connections 256; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  server {
    listen %[2]s;
    root %[3]s;
  }
}
`, dir, addr, root))
	p = rig.Run(t, "nginx", []string{bin, "-p", dir, "-c", config})
	url = "http://" + addr
	p.WaitReady(url + "/ready")
	return p, url
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// pull times containerd's pull of an image that it does not have, unpacking included.
func pull(t *testing.T, c *rig.Containerd, ref string) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	begun := time.Now()
	if _, err := c.Pull(ctx, ref); err != nil {
		t.Fatal(err)
	}
	return time.Since(begun)
}

// forget takes the image from containerd, content and snapshots.
func forget(t *testing.T, c *rig.Containerd, ref string) {
	t.Helper()
	if err := c.Remove(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
}
