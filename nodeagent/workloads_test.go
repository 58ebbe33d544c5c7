package nodeagent

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// The hub is told the node's name with each request, of images and others.
func TestAgentSaysItsName(t *testing.T) {
	var seen []string
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agent, _, _ := strings.Cut(r.UserAgent(), "/")
		seen = append(seen, r.URL.Path+" "+agent+" "+r.Header.Get(hubapi.NodeHeader))
		http.NotFound(w, r)
	}))
	defer hub.Close()
	cfg := DefaultConfig()
	cfg.Hub.URL, cfg.NodeName = hub.URL, "worker-3"
	images, err := hubClient(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := images.Resolve(t.Context(), "docker.io/library/x", oci.Tagged("1")); err == nil {
		t.Error("there is such an image")
	}
	api, err := hubAPI(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := api.NodePolicy(t.Context(), ""); err == nil {
		t.Error("there is a policy")
	}
	want := []string{"/v2/docker.io/library/x/manifests/1 breakwater-node worker-3", hubapi.PathNodePolicy + " breakwater-node worker-3"}
	if strings.Join(seen, "\n") != strings.Join(want, "\n") {
		t.Errorf("the hub has seen %q", seen)
	}
}

func TestNodeNameIsChecked(t *testing.T) {
	for name, ok := range map[string]bool{"": true, "worker-3.eu": true, "two words": false, strings.Repeat("n", 254): false} {
		cfg := DefaultConfig()
		cfg.NodeName = name
		var p config.Problems
		if cfg.Validate(&p); (p.Err() == nil) != ok {
			t.Errorf("nodeName %.20q: %v", name, p.Err())
		}
	}
}

func TestCheckWorkloads(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Containerd.Socket = filepath.Join(t.TempDir(), "none.sock")
	if f := checkWorkloads(t.Context(), cfg); !f.OK || !strings.Contains(f.Text, "no such file") {
		t.Errorf("without a socket: %+v", f)
	}
	cfg.Containerd.Socket = t.TempDir() // nothing that answers
	if f := checkWorkloads(t.Context(), cfg); f.OK || f.Fix == "" {
		t.Errorf("with one that does not answer: %+v", f)
	}
	cfg.Policy.Workloads = false
	if f := checkWorkloads(t.Context(), cfg); !f.OK || !strings.Contains(f.Text, "policy.workloads") {
		t.Errorf("switched off: %+v", f)
	}
	if w, err := (&Agent{cfg: cfg}).watchWorkloads(); w != nil || err != nil {
		t.Errorf("switched off, they are watched: %v %v", w, err)
	}
}
