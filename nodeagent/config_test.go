package nodeagent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/config"
)

// Every key of the design's example is read.
func TestWholeExample(t *testing.T) {
	file := filepath.Join(t.TempDir(), "node.yaml")
	yaml := `
hub: {url: http://127.0.0.1:8080, mirrorURL: "", caFile: "", username: "", passwordFile: "", tokenFile: ""}
listen: 127.0.0.1:7830
status: {listen: ":7832"}
stateDir: /var/lib/breakwater
containerd: {socket: /run/containerd/containerd.sock, root: /var/lib/containerd, certsDir: /etc/containerd/certs.d, manage: true}
mirrors: {mode: advisory, registries: [docker.io, ghcr.io, quay.io, registry.k8s.io, gcr.io], all: false}
upstreams: {docker.io: {url: https://registry-1.docker.io}}
cache: {dir: /var/lib/breakwater/cache, maxBytes: 20GiB, minFreeBytes: 10GiB}
policyFile: ""
`
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	c := DefaultConfig()
	if err := config.Load(file, &c, config.Options{Environ: []string{"BREAKWATER_CACHE_MAX_BYTES=1GiB"}}); err != nil {
		t.Fatal(err)
	}
	if c.Cache.MaxBytes != 1<<30 {
		t.Errorf("the environment does not win: %v", c.Cache.MaxBytes)
	}
	c.Mirrors.Mode = "enforced"
	if o, err := c.Hosts(); err != nil || !o.Enforced {
		t.Errorf("enforced: %+v, %v", o, err)
	}
	c.Mirrors.Mode = "advisory"
	o, err := c.Hosts()
	if err != nil || o.AgentURL != "http://127.0.0.1:7830" || len(o.Registries) != 5 || o.Registries[0].Upstream != "https://registry-1.docker.io" {
		t.Errorf("hosts = %+v, %v", o, err)
	}
	for listen, want := range map[string]string{
		":7830": "http://127.0.0.1:7830", "0.0.0.0:1": "http://127.0.0.1:1", "[::]:1": "http://127.0.0.1:1", "10.0.0.1:2": "http://10.0.0.1:2",
	} {
		c.Listen = listen
		if got := c.agentURL(); got != want {
			t.Errorf("listening on %s, containerd is sent to %s, want %s", listen, got, want)
		}
	}
}

// Without a hub that containerd reaches, enforced mode would leave it nobody.
func TestEnforcedNeedsMirrorURL(t *testing.T) {
	for _, tt := range []struct{ yaml, fault string }{
		{"mirrors: {mode: enforced}", "hub.mirrorURL"},
		{"mirrors: {mode: strict}", "mirrors.mode"},
		{"mirrors: {mode: enforced}\nhub: {mirrorURL: https://hub.example}", ""},
	} {
		file := filepath.Join(t.TempDir(), "node.yaml")
		if err := os.WriteFile(file, []byte(tt.yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		c := DefaultConfig()
		err := config.Load(file, &c, config.Options{})
		if (err == nil) != (tt.fault == "") || err != nil && !strings.Contains(err.Error(), tt.fault) {
			t.Errorf("%s: %v, want %q", tt.yaml, err, tt.fault)
		}
	}
}
