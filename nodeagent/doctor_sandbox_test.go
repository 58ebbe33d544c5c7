package nodeagent

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestSandboxImage(t *testing.T) {
	for config, want := range map[string]string{
		"[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"registry.k8s.io/pause:3.8\"\n":        "registry.k8s.io/pause:3.8",
		"[plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = 'registry.k8s.io/pause:3.10'\n": "registry.k8s.io/pause:3.10",
		"[other]\n  sandbox = 'x'\n#  sandbox_image = \"y\"\n":                                              "",
		"": "",
	} {
		if got := sandboxImage(config); got != want {
			t.Errorf("%q names %q, want %q", config, got, want)
		}
	}
}

// Doctor says so when no Pod could start.
func TestSandboxIsRefused(t *testing.T) {
	pause := oci.FromBytes([]byte("pause"))
	const refusal = `{"errors":[{"code":"DENIED","message":"breakwater d-1: policy \"all\" ...","detail":{"id":"d-1","subject":{"name":"registry.k8s.io/pause","digest":"`
	var status int
	var body, asked string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	defer srv.Close()
	cfg := Config{Listen: srv.Listener.Addr().String()}
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte("[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = 'registry.k8s.io/pause:3.10'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	enforces := hubapi.NodePolicyState{Held: true, Enforces: true}
	for _, tt := range []struct {
		name   string
		state  hubapi.NodePolicyState
		file   string
		status int
		body   string
		ok     bool
		want   string // of the text and the fix
	}{
		{"refused", enforces, file, 403, refusal + pause.String() + `"}}}]}`, false, "policy.exempt, here and at the hub: " + pause.String()},
		{"allowed", enforces, file, 200, "{}", true, "does not refuse registry.k8s.io/pause:3.10"},
		{"private", enforces, file, 403, `{"errors":[{"code":"DENIED","message":"not yours"}]}`, true, "cannot tell"},
		{"registry away", enforces, file, 503, "", true, "cannot tell"},
		{"audit", hubapi.NodePolicyState{Held: true}, file, 0, "", true, "refuses nothing"},
		{"no configuration", enforces, file + ".none", 0, "", true, "containerd config dump"},
	} {
		status, body, asked = tt.status, tt.body, ""
		f := checkSandbox(t.Context(), cfg, tt.state, tt.file)
		if f.OK != tt.ok || !strings.Contains(f.Text+" "+f.Fix, tt.want) {
			t.Errorf("%s: %+v", tt.name, f)
		}
		if want := "/v2/pause/manifests/3.10?ns=registry.k8s.io"; tt.status != 0 && asked != want {
			t.Errorf("%s: it asked for %s, want %s", tt.name, asked, want)
		}
	}
}
