package scenario

import (
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub"
	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// The five cases of a proxy, each for a tag and a digest, for one architecture
// and many, in OCI's and Docker's types, by HEAD and by GET: not cached; cached
// and fresh; cached and changed at the upstream; cached while the upstream
// cannot answer; cached and removed at the upstream.

type image struct {
	name string
	tree ocitest.Tree
}

func images(seed uint64) []image {
	return []image{
		{"single", ocitest.Image(seed, 2, 3000)},
		{"index", ocitest.Index(seed+1, 2, 3000)},
		{"docker", ocitest.DockerImage(seed+2, 2, 3000)},
		{"dockerlist", ocitest.DockerList(seed+3, 2, 3000)},
	}
}

// each runs fn for every kind of image, reference and method.
func each(t *testing.T, seed uint64, fn func(t *testing.T, img image, byDigest bool, method string)) {
	for _, img := range images(seed) {
		for _, byDigest := range []bool{false, true} {
			for _, method := range []string{"HEAD", "GET"} {
				kind := "tag"
				if byDigest {
					kind = "digest"
				}
				t.Run(img.name+"/"+kind+"/"+method, func(t *testing.T) { fn(t, img, byDigest, method) })
			}
		}
	}
}

func ref(img image, byDigest bool) string {
	if byDigest {
		return img.tree.Digest.String()
	}
	return "1"
}

// wantManifest checks an answer against the bytes of an image.
func wantManifest(t *testing.T, a answer, method string, tree ocitest.Tree) {
	t.Helper()
	h := a.header
	if a.status != 200 || a.err != nil || h.Get("Docker-Content-Digest") != tree.Digest.String() ||
		h.Get("Content-Type") != tree.MediaType || h.Get("Content-Length") != itoa(tree.Size) {
		t.Fatalf("%s = %v %v, want %s", method, a, h, tree.Digest)
	}
	if method == "GET" && oci.FromBytes(a.body) != tree.Digest {
		t.Fatalf("body is other bytes: %s", a.body)
	}
}

func wantError(t *testing.T, a answer, status int, code oci.Code) {
	t.Helper()
	if a.status != status {
		t.Fatalf("got %v, want %d %s", a, status, code)
	}
	if len(a.body) > 0 && !strings.Contains(string(a.body), `"`+code.Wire()+`"`) {
		t.Fatalf("body %s, want code %s", a.body, code)
	}
}

func TestNotCached(t *testing.T) {
	each(t, 100, func(t *testing.T, img image, byDigest bool, method string) {
		h := newHouse(t)
		h.push("library/x", "1", img.tree)
		wantManifest(t, ask(t, method, h.hub.url, "library/x/manifests/"+ref(img, byDigest)+ns), method, img.tree)
		if method == "HEAD" {
			if n := h.faults.Count("GET", "/manifests/"); n != 0 {
				t.Errorf("a HEAD cost %d GETs upstream", n)
			}
		} else if n := h.faults.Count("GET", "/manifests/"); n != 1 {
			t.Errorf("a GET cost %d GETs upstream", n)
		}
	})
}

func TestNotCachedAndNotThere(t *testing.T) {
	h := newHouse(t)
	h.push("library/x", "1", ocitest.Image(1, 1, 100))
	for _, path := range []string{"library/x/manifests/none", "library/none/manifests/1", "library/x/manifests/sha256:" + strings.Repeat("0", 64)} {
		wantError(t, ask(t, "GET", h.hub.url, path+ns), 404, oci.ManifestUnknown)
	}
	wantError(t, ask(t, "GET", h.hub.url, "library/x/blobs/sha256:"+strings.Repeat("0", 64)+ns), 404, oci.BlobUnknown)
}

func TestCachedAndFresh(t *testing.T) {
	each(t, 200, func(t *testing.T, img image, byDigest bool, method string) {
		h := newHouse(t, withProxy(func(p *hub.Proxy) { p.FreshFor = config.Duration(time.Hour) }))
		h.push("library/x", "1", img.tree)
		mustPull(t, h.hub.url, "library/x", ref(img, byDigest), img.tree)
		h.faults.ResetLog()
		wantManifest(t, ask(t, method, h.hub.url, "library/x/manifests/"+ref(img, byDigest)+ns), method, img.tree)
		mustPull(t, h.hub.url, "library/x", ref(img, byDigest), img.tree)
		if got := h.faults.Requests(); len(got) != 0 {
			t.Errorf("a fresh image was asked for upstream: %v", got)
		}
	})
}

// With freshFor 0 the upstream is asked each time, and by HEADs alone.
func TestCachedAndConfirmed(t *testing.T) {
	each(t, 250, func(t *testing.T, img image, byDigest bool, method string) {
		h := newHouse(t)
		h.push("library/x", "1", img.tree)
		mustPull(t, h.hub.url, "library/x", ref(img, byDigest), img.tree)
		h.faults.ResetLog()
		wantManifest(t, ask(t, method, h.hub.url, "library/x/manifests/"+ref(img, byDigest)+ns), method, img.tree)
		if heads, all := h.faults.Count("HEAD", "/manifests/"), len(h.faults.Requests()); heads != 1 || all != 1 {
			t.Errorf("%d HEADs of %d requests upstream, want one HEAD: %v", heads, all, h.faults.Requests())
		}
	})
}

func TestCachedAndChanged(t *testing.T) {
	each(t, 300, func(t *testing.T, img image, byDigest bool, method string) {
		h := newHouse(t)
		h.push("library/x", "1", img.tree)
		mustPull(t, h.hub.url, "library/x", ref(img, byDigest), img.tree)
		next := ocitest.Index(999, 1, 2000)
		h.push("library/x", "1", next)
		want := next
		if byDigest {
			want = img.tree // a digest is what it was
		}
		wantManifest(t, ask(t, method, h.hub.url, "library/x/manifests/"+ref(img, byDigest)+ns), method, want)
		mustPull(t, h.hub.url, "library/x", "1", next)
	})
}

// outages are the ways in which an upstream cannot answer.
var outages = []struct {
	name  string
	start func(h *house)
}{
	{"refused", func(h *house) { h.up.Listener.Close(); h.up.CloseClientConnections() }},
	{"no answer, closed", func(h *house) { h.faults.Down(true) }},
	{"hang", func(h *house) { h.faults.Set(ocitest.Fault{Hang: true}) }},
	{"500", func(h *house) { h.faults.Set(ocitest.Fault{Status: 500}) }},
	{"502", func(h *house) { h.faults.Set(ocitest.Fault{Status: 502, Body: "<html>bad gateway</html>"}) }},
	{"bare 401", func(h *house) { h.faults.Set(ocitest.Fault{Status: 401}) }},
	{"bare 403", func(h *house) { h.faults.Set(ocitest.Fault{Status: 403}) }},
	{"429", func(h *house) {
		h.faults.Set(ocitest.Fault{Status: 429, Header: http.Header{"Retry-After": {"30"}}})
	}},
	{"page", func(h *house) { h.faults.Set(ocitest.Fault{HTML: true}) }},
	{"slow headers", func(h *house) { h.faults.Set(ocitest.Fault{Delay: time.Minute}) }},
}

func TestCachedAndUpstreamCannotAnswer(t *testing.T) {
	for _, outage := range outages {
		t.Run(outage.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			all := images(400)
			for _, img := range all {
				h.push("library/"+img.name, "1", img.tree)
				mustPull(t, h.hub.url, "library/"+img.name, "1", img.tree)
			}
			client.CloseIdleConnections()
			outage.start(h)
			for _, img := range all {
				for _, byDigest := range []bool{false, true} {
					for _, method := range []string{"HEAD", "GET"} {
						a := ask(t, method, h.hub.url, "library/"+img.name+"/manifests/"+ref(img, byDigest)+ns)
						wantManifest(t, a, method, img.tree)
						if w := a.header.Get("Warning"); !strings.HasPrefix(w, "299 ") && !byDigest {
							t.Errorf("%s %s: Warning = %q, want 299", method, img.name, w)
						}
					}
				}
				mustPull(t, h.hub.url, "library/"+img.name, "1", img.tree)
			}
			wantStatus(t, ask(t, "GET", h.hub.url, "library/new/manifests/1"+ns), 503)
		})
	}
}

func wantStatus(t *testing.T, a answer, status int) {
	t.Helper()
	if a.status != status {
		t.Errorf("got %v, want %d", a, status)
	}
}

// Past serveStale an old answer is no longer given.
func TestTooStale(t *testing.T) {
	h := newHouse(t, withProxy(func(p *hub.Proxy) { p.ServeStale = config.Duration(time.Millisecond) }))
	img := ocitest.Image(450, 1, 100)
	h.push("library/x", "1", img)
	mustPull(t, h.hub.url, "library/x", "1", img)
	h.faults.Down(true)
	wantStatus(t, ask(t, "HEAD", h.hub.url, "library/x/manifests/1"+ns), 503)
}

func TestTokenEndpointDown(t *testing.T) {
	h := newHouse(t)
	h.faults.Bearer(ocitest.Auth{Public: func(string) bool { return true }})
	img := ocitest.Index(460, 1, 100)
	h.push("library/x", "1", img)
	mustPull(t, h.hub.url, "library/x", "1", img)
	h2 := h.startHub(t.TempDir()) // a hub that has no token yet, and nothing cached
	h.faults.TokenDown(true)
	wantStatus(t, ask(t, "HEAD", h2.url, "library/x/manifests/1"+ns), 503)
	mustPull(t, h.hub.url, "library/x", "1", img)
}

// The host of the upstream cannot be looked up.
func TestUpstreamNameUnknown(t *testing.T) {
	if _, err := net.LookupHost("upstream.invalid"); err == nil {
		t.Skip("this network resolves names under .invalid")
	}
	h := newHouse(t, withProxy(func(p *hub.Proxy) { p.URL = "http://upstream.invalid:5000" }))
	a := ask(t, "GET", h.hub.url, "library/x/manifests/1"+ns)
	wantError(t, a, 503, oci.Unavailable)
	if !strings.Contains(string(a.body), "upstream.invalid") {
		t.Errorf("the message does not name the upstream: %s", a.body)
	}
}

func TestCachedAndRemoved(t *testing.T) {
	removals := map[string]func(h *house){
		"404":                  func(h *house) { h.faults.Set(ocitest.Fault{Status: 404}) },
		"refused with a token": func(h *house) { h.faults.Bearer(ocitest.Auth{Public: func(string) bool { return false }}) },
	}
	for name, remove := range removals {
		t.Run(name, func(t *testing.T) {
			each(t, 500, func(t *testing.T, img image, byDigest bool, method string) {
				h := newHouse(t)
				h.push("library/x", "1", img.tree)
				mustPull(t, h.hub.url, "library/x", ref(img, byDigest), img.tree)
				remove(h)
				a := ask(t, method, h.hub.url, "library/x/manifests/"+ref(img, byDigest)+ns)
				if a.status != 404 && a.status != 403 {
					t.Fatalf("removed, but answered with %v", a)
				}
				h.faults.Open()
				h.faults.Down(true) // what was removed is not served as stale either
				if a := ask(t, method, h.hub.url, "library/x/manifests/"+ref(img, byDigest)+ns); a.status == 200 {
					t.Fatalf("removed, then away, and answered with %v", a)
				}
			})
			t.Run("onRemoved serve", func(t *testing.T) {
				h := newHouse(t, withProxy(func(p *hub.Proxy) { p.OnRemoved = "serve" }))
				img := images(550)[1]
				h.push("library/x", "1", img.tree)
				mustPull(t, h.hub.url, "library/x", "1", img.tree)
				remove(h)
				mustPull(t, h.hub.url, "library/x", "1", img.tree)
				mustPull(t, h.hub.url, "library/x", img.tree.Digest.String(), img.tree)
			})
		})
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
