package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/test/need"
)

// Registry is a running distribution registry, open to everybody, with deletion on.
type Registry struct {
	*Proc
	URL string // http://127.0.0.1:PORT
	Dir string // its storage
}

// Distribution starts an empty registry.
func Distribution(t testing.TB) *Registry {
	t.Helper()
	bin := need.Program(t, "registry")
	dir, addr := TempDir(t, "reg"), FreeAddr(t)
	config := filepath.Join(dir, "config.yml")
	writeFile(t, config, fmt.Sprintf(`version: 0.1
log:
  level: error
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: %s/data
  delete:
    enabled: true
http:
  addr: %s
`, dir, addr))
	r := &Registry{URL: "http://" + addr, Dir: filepath.Join(dir, "data")}
	r.Proc = Run(t, "registry", []string{bin, "serve", config}, "OTEL_TRACES_EXPORTER=none")
	r.WaitReady(r.URL + "/v2/")
	return r
}

// Artifact is what can be pushed: a v1.Image or a v1.ImageIndex.
type Artifact interface {
	remote.Taggable
	Digest() (v1.Hash, error)
}

// Push puts an artifact into a registry as image, "library/app:1", and returns its digest.
func Push(t testing.TB, registryURL, image string, a Artifact, opts ...remote.Option) string {
	t.Helper()
	ref, err := name.ParseReference(strings.TrimPrefix(strings.TrimPrefix(registryURL, "http://"), "https://")+"/"+image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Push(ref, a, opts...); err != nil {
		t.Fatalf("push %s: %v", ref, err)
	}
	return Digest(t, a)
}

// Digest returns an artifact's digest, sha256:HEX.
func Digest(t testing.TB, a Artifact) string {
	t.Helper()
	h, err := a.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

// Front is a fault proxy that listens.
type Front struct {
	*ocitest.FaultProxy
	URL  string // http://127.0.0.1:PORT
	Host string // 127.0.0.1:PORT

	t   testing.TB
	mu  sync.Mutex
	srv *http.Server // nil while it refuses
}

// FaultProxy puts a fault proxy in front of the server at upstreamURL.
func FaultProxy(t testing.TB, upstreamURL string) *Front {
	t.Helper()
	host := FreeAddr(t)
	f := &Front{FaultProxy: ocitest.NewFaultProxy(ocitest.Forward(upstreamURL)), URL: "http://" + host, Host: host, t: t}
	f.Refuse(false)
	t.Cleanup(func() {
		f.Refuse(true)
		if t.Failed() {
			all := f.Requests()
			t.Logf("--- %d requests to %s before %s, the last:", len(all), f.Host, upstreamURL)
			for _, r := range all[max(0, len(all)-100):] {
				t.Logf("%s %s?%s range=%q: %d, %d bytes, %v", r.Method, r.Path, r.Query.Encode(), r.Header.Get("Range"), r.Status, r.Bytes, r.Dur)
			}
		}
	})
	return f
}

// Refuse closes the port and all connections, so that new ones are refused; false opens the same port again.
// (Down, of ocitest.FaultProxy, accepts and hangs up.)
func (f *Front) Refuse(refuse bool) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if refuse == (f.srv == nil) {
		return
	}
	if refuse {
		_ = f.srv.Close()
		f.srv = nil
		return
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", f.Host)
	if err != nil {
		f.t.Fatal(err)
	}
	f.srv = &http.Server{Handler: f.FaultProxy, ReadHeaderTimeout: 10 * time.Second}
	go func(srv *http.Server) {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			f.t.Errorf("fault proxy at %s: %v", f.Host, err)
		}
	}(f.srv)
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
