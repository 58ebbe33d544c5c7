package scenario

import (
	"bytes"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// binaries builds the programs once.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "breakwater-bin-")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-o", dir+"/", "github.com/breakwater-oci/breakwater/cmd/...").CombinedOutput()
	if err != nil {
		return "", &buildError{out}
	}
	return dir, nil
})

type buildError struct{ out []byte }

func (e *buildError) Error() string { return string(e.out) }

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := binaries(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// program runs one of ours to its end.
func program(t *testing.T, name string, args ...string) (output string, ok bool) {
	t.Helper()
	dir, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, name), args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+cmd.Dir, "XDG_CONFIG_HOME="+cmd.Dir)
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

// A configuration that is wrong is refused with the place, what was there, and
// what would be right.
func TestBadConfiguration(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	free := "listen: 127.0.0.1:0\nmetrics: {listen: 127.0.0.1:0}\n"
	for _, tt := range []struct {
		name, program, yaml string
		want                []string
	}{
		{"unknown key", "breakwater-hub", "proxies:\n- registry: docker.io\n  freshfor: 1m\n", []string{":3:3:", `"freshfor"`, `"freshFor"`}},
		{"unknown key of the node", "breakwater-node", "cache:\n  maxByte: 1GiB\n", []string{":2:3:", `"maxByte"`, `"maxBytes"`}},
		{"bad duration", "breakwater-hub", "proxies:\n- registry: docker.io\n  freshFor: soon\n", []string{":3:", "freshFor", "soon", "30s"}},
		{"bad size", "breakwater-node", "cache: {maxBytes: lots}\n", []string{":1:", "maxBytes", "lots", "GiB"}},
		{"bad URL", "breakwater-hub", "proxies:\n- registry: docker.io\n  url: docker\n", []string{":3:", "url", "https://"}},
		{"bad onRemoved", "breakwater-hub", "proxies:\n- registry: docker.io\n  onRemoved: keep\n", []string{":3:", "reject or serve"}},
		{"bad pattern", "breakwater-hub", "proxies:\n- registry: docker.io\n  allow: ['library/[']\n", []string{":3:", "library/["}},
		{"two of one path", "breakwater-hub", "proxies:\n- registry: a.example\n- registry: b.example\n  path: a.example\n", []string{":4:", "proxies[0]"}},
		{"secret file that is not there", "breakwater-hub", free + "proxies:\n- {registry: docker.io, username: u, passwordFile: /does/not/exist}\n", []string{"docker.io", "/does/not/exist"}},
		{"database folder", "breakwater-hub", free + "metadata: {dsn: " + blocked + "/db/hub.db}\n", []string{"metadata", blocked}},
		{"storage folder", "breakwater-hub", free + "storage: {filesystem: {root: " + blocked + "/blobs}}\n", []string{"storage", blocked}},
		{"port in use", "breakwater-hub", "listen: " + taken.Addr().String() + "\n", []string{"listen", taken.Addr().String(), "in use"}},
		{"port in use of the node", "breakwater-node", "listen: " + taken.Addr().String() + "\n", []string{"listen", taken.Addr().String(), "in use"}},
		{"no registry", "breakwater-node", "mirrors: {registries: []}\n", []string{"mirrors.registries"}},
		{"bad registry", "breakwater-node", "mirrors: {registries: ['https://docker.io']}\n", []string{"mirrors.registries[0]", "docker.io"}},
		{"not YAML", "breakwater-hub", "listen: [\n", []string{"config.yaml:1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(file, []byte(tt.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			out, ok := program(t, tt.program, "serve", "--config", file)
			if ok {
				t.Fatalf("accepted:\n%s", out)
			}
			for _, w := range tt.want {
				if !strings.Contains(out, w) {
					t.Errorf("the message lacks %q:\n%s", w, out)
				}
			}
		})
	}
}

// Wrong requests get an OCI error with the status that is theirs.
func TestBadRequests(t *testing.T) {
	h := newHouse(t)
	node := h.node()
	sha := "sha256:" + strings.Repeat("a", 64)
	for _, tt := range []struct {
		base, method, path string
		status             int
		code               oci.Code
	}{
		{h.hub.url, "GET", "library/x/manifests/1?ns=unknown.example", 404, oci.NameUnknown},
		{node.url, "GET", "library/x/manifests/1?ns=unknown.example", 404, oci.NameUnknown},
		{node.url, "GET", "library/x/manifests/1", 404, oci.NameUnknown},
		{h.hub.url, "GET", "Library/x/manifests/1" + ns, 400, oci.NameInvalid},
		{node.url, "GET", "Library/x/manifests/1" + ns, 400, oci.NameInvalid},
		{h.hub.url, "GET", strings.Repeat("a", 256) + "/manifests/1" + ns, 400, oci.NameInvalid},
		{node.url, "GET", "library/x/manifests/.bad" + ns, 404, oci.ManifestUnknown}, // the spec's tests want 404 of reads
		{h.hub.url, "GET", "library/x/manifests/" + strings.Repeat("t", 129) + ns, 404, oci.ManifestUnknown},
		{node.url, "GET", "library/x/blobs/sha256:abc" + ns, 400, oci.DigestInvalid},
		{h.hub.url, "GET", "library/x/blobs/md5:" + strings.Repeat("a", 32) + ns, 400, oci.DigestInvalid},
		{node.url, "DELETE", "library/x/manifests/" + sha + ns, 405, oci.Unsupported},
		{node.url, "POST", "library/x/blobs/uploads/" + ns, 405, oci.Unsupported},
	} {
		a := ask(t, tt.method, tt.base, tt.path)
		if a.status != tt.status || !strings.Contains(string(a.body), `"`+tt.code.Wire()+`"`) {
			t.Errorf("%s %s = %v, want %d %s", tt.method, tt.path, a, tt.status, tt.code)
		}
		if strings.Contains(tt.path, "/manifests/") && tt.code == oci.ManifestUnknown && !strings.Contains(string(a.body), "is not a tag") {
			t.Errorf("the message does not say that it is no tag: %s", a.body)
		}
	}
}

// A manifest over 4 MiB is refused at the push and never taken from upstream.
func TestManifestTooLarge(t *testing.T) {
	h := newHouse(t)
	req, err := http.NewRequestWithContext(t.Context(), "PUT", h.hub.url+"/v2/demo/x/manifests/1", bytes.NewReader(make([]byte, oci.MaxManifestBytes+1)))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("admin", adminPassword)
	req.Header.Set("Content-Type", oci.MediaTypeImage)
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("PUT of a manifest too large: %s", res.Status)
	}
	h.push("library/x", "1", ocitest.Image(900, 1, 10))
	h.faults.Set(ocitest.Fault{Method: "GET", Extra: bytes.Repeat([]byte(" "), oci.MaxManifestBytes)})
	if a := ask(t, "GET", h.hub.url, "library/x/manifests/1"+ns); a.status < 400 {
		t.Errorf("a manifest too large came through: %d, %d bytes", a.status, len(a.body))
	}
}

// A push to a proxy is denied with the reason; a project cannot take its name.
func TestPushToProxy(t *testing.T) {
	h := newHouse(t)
	req, err := http.NewRequestWithContext(t.Context(), "POST", h.hub.url+"/v2/docker.io/library/x/blobs/uploads/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("admin", adminPassword)
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(res.Body); err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 403 || !strings.Contains(body.String(), "DENIED") || !strings.Contains(body.String(), "proxy of docker.io") {
		t.Errorf("%s %s", res.Status, body.String())
	}
}
