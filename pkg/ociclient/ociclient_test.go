package ociclient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
)

// manifestRaw is a small image manifest.
var manifestRaw = func() []byte {
	raw, _ := json.Marshal(map[string]any{
		"schemaVersion": 2,
		"mediaType":     oci.MediaTypeImage,
		"config":        oci.Descriptor{MediaType: "application/vnd.oci.image.config.v1+json", Digest: oci.FromBytes([]byte("{}")), Size: 2},
		"layers":        []oci.Descriptor{},
	})
	return raw
}()

var manifestDigest = oci.FromBytes(manifestRaw)

// random is n bytes that are the same in each run.
func random(n int) []byte {
	b := make([]byte, n)
	src := rand.NewChaCha8([32]byte{1})
	_, _ = src.Read(b)
	return b
}

// serve starts a server that ends with the test.
func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

// client makes a client that leaves no connection behind.
func client(t *testing.T, o ociclient.Options) *ociclient.Client {
	t.Helper()
	c, err := ociclient.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// ask is a client of a server with this handler.
func ask(t *testing.T, h http.HandlerFunc) *ociclient.Client {
	t.Helper()
	return client(t, ociclient.Options{URL: serve(t, h).URL})
}

// newRegistry is a real small registry with an image and a blob at
// library/nginx.
func newRegistry(t *testing.T, blob []byte) http.Handler {
	t.Helper()
	h := registry.New(registry.Logger(discard), registry.WithReferrersSupport(true))
	put(t, h, "/v2/library/nginx/manifests/1.27", oci.MediaTypeImage, manifestRaw)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "/v2/library/nginx/blobs/uploads/?digest="+oci.FromBytes(blob).String(), bytes.NewReader(blob)))
	if w.Code != http.StatusCreated {
		t.Fatalf("push of the blob: %d %s", w.Code, w.Body)
	}
	return h
}

// newRegistryWithoutReferrers is an empty registry that lacks that API.
func newRegistryWithoutReferrers(t *testing.T) http.Handler {
	t.Helper()
	return registry.New(registry.Logger(discard))
}

func put(t *testing.T, h http.Handler, path, mediaType string, body []byte) {
	t.Helper()
	r := httptest.NewRequest("PUT", path, bytes.NewReader(body))
	r.Header.Set("Content-Type", mediaType)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusCreated {
		t.Fatalf("PUT %s: %d %s", path, w.Code, w.Body)
	}
}

// roundTripper is a transport in memory.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// respond makes an answer as it comes off the wire.
func respond(r *http.Request, status int, h http.Header, body io.Reader, length int64) *http.Response {
	if h == nil {
		h = http.Header{}
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(body), ContentLength: length, Request: r}
}

func wantCode(t *testing.T, what string, err error, want oci.Code) {
	t.Helper()
	if got := oci.CodeOf(err); got != want {
		t.Errorf("%s: code %q (%v), want %q", what, got, err, want)
	}
}

func text(err error) string {
	if e, ok := errors.AsType[*oci.Error](err); ok {
		return e.Text()
	}
	return "no *oci.Error"
}

func readAll(t *testing.T, r io.ReadCloser) ([]byte, error) {
	t.Helper()
	defer r.Close()
	return io.ReadAll(r)
}

func TestURL(t *testing.T) {
	for _, tt := range []struct {
		path, want string // of Options.URL; of the tag list of library/nginx
	}{
		{"", "/v2/library/nginx/tags/list"},
		{"/", "/v2/library/nginx/tags/list"},
		{"/v2", "/v2/library/nginx/tags/list"},
		{"/v2/", "/v2/library/nginx/tags/list"},
		{"/artifactory/docker", "/artifactory/docker/v2/library/nginx/tags/list"},
		{"/v2/dockerhub", "/v2/dockerhub/library/nginx/tags/list"},
		{"/x/v2/dockerhub/", "/x/v2/dockerhub/library/nginx/tags/list"},
	} {
		var got string
		srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = r.URL.Path
			io.WriteString(w, `{"tags":null}`)
		}))
		c := client(t, ociclient.Options{URL: srv.URL + tt.path})
		if _, _, err := c.Tags(t.Context(), "library/nginx", 0, ""); err != nil || got != tt.want {
			t.Errorf("with URL path %q: asked %q, %v, want %q", tt.path, got, err, tt.want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	secret := func() (string, error) { return "s", nil }
	for _, tt := range []struct {
		o    ociclient.Options
		want string
	}{
		{ociclient.Options{}, "want http://host or https://host"},
		{ociclient.Options{URL: "registry.example"}, "want http://host or https://host"},
		{ociclient.Options{URL: "ftp://registry.example"}, "want http://host or https://host"},
		{ociclient.Options{URL: "https://user:hunter2@registry.example"}, "credentials do not belong"},
		{ociclient.Options{URL: "https://user:hunter2@registry.example:x"}, "invalid port"},
		{ociclient.Options{URL: "https://registry.example?x=y"}, "query"},
		{ociclient.Options{URL: "https://registry.example", Username: "u"}, "go together"},
		{ociclient.Options{URL: "https://registry.example", Password: secret}, "go together"},
		{ociclient.Options{URL: "https://registry.example", Username: "u", Password: secret, Token: secret}, "either"},
		{ociclient.Options{URL: "https://registry.example", CAFile: "/does/not/exist"}, "CA file"},
	} {
		_, err := ociclient.New(tt.o)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("New(%q) = %v, want %q", tt.o.URL, err, tt.want)
		}
	}
}

func TestNamesAreChecked(t *testing.T) {
	c := ask(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("asked %s", r.URL) })
	ctx := t.Context()
	_, err := c.Manifest(ctx, "../x", oci.Tagged("1"))
	wantCode(t, "Manifest of ../x", err, oci.NameInvalid)
	_, err = c.Resolve(ctx, "x", oci.Tagged("a/../b"))
	wantCode(t, "Resolve of a/../b", err, oci.TagInvalid)
	_, err = c.Resolve(ctx, "x", oci.Reference{})
	wantCode(t, "Resolve of nothing", err, oci.TagInvalid)
	_, err = c.Stat(ctx, "x", "sha256:1")
	wantCode(t, "Stat of half a digest", err, oci.DigestInvalid)
	_, err = c.Open(ctx, "X", manifestDigest, 0)
	wantCode(t, "Open in X", err, oci.NameInvalid)
	_, _, err = c.Tags(ctx, "X", 0, "")
	wantCode(t, "Tags of X", err, oci.NameInvalid)
	_, err = c.Referrers(ctx, "X", manifestDigest, "")
	wantCode(t, "Referrers in X", err, oci.NameInvalid)
	wantCode(t, "DeleteBlob", c.DeleteBlob(ctx, "x", manifestDigest), oci.Unsupported)
}

// TestRegistry reads everything there is from a registry that others wrote.
func TestRegistry(t *testing.T) {
	blob := random(300 << 10)
	c := client(t, ociclient.Options{URL: serve(t, newRegistry(t, blob)).URL, Source: oci.FromHub})
	ctx := t.Context()

	m, err := c.Resolve(ctx, "library/nginx", oci.Tagged("1.27"))
	if err != nil || m.Digest != manifestDigest || m.MediaType != oci.MediaTypeImage || m.Size != int64(len(manifestRaw)) || m.Bytes != nil || m.Source != oci.FromHub {
		t.Errorf("Resolve = %+v, %v", m, err)
	}
	m, err = c.Manifest(ctx, "library/nginx", oci.Digested(manifestDigest))
	if err != nil || m.Digest != manifestDigest || !bytes.Equal(m.Bytes, manifestRaw) || m.MediaType != oci.MediaTypeImage {
		t.Errorf("Manifest = %+v, %v", m, err)
	}
	d := oci.FromBytes(blob)
	info, err := c.Stat(ctx, "library/nginx", d)
	if err != nil || info.Size != int64(len(blob)) || info.Digest != d {
		t.Errorf("Stat = %+v, %v", info, err)
	}
	for _, off := range []int64{0, 1, 100_000, int64(len(blob)) - 1} {
		s, err := c.Open(ctx, "library/nginx", d, off)
		if err != nil {
			t.Fatalf("Open at %d: %v", off, err)
		}
		got, err := readAll(t, s.Body)
		if err != nil || s.SizeBytes != int64(len(blob)) || !bytes.Equal(got, blob[off:]) {
			t.Errorf("Open at %d: %d bytes of %d, %v", off, len(got), s.SizeBytes, err)
		}
	}
	tags, more, err := c.Tags(ctx, "library/nginx", 0, "")
	if err != nil || more || len(tags) != 1 || tags[0] != "1.27" {
		t.Errorf("Tags = %q, %v, %v", tags, more, err)
	}
	repos, more, err := c.Repositories(ctx, 0, "")
	if err != nil || more || len(repos) != 1 || repos[0] != "library/nginx" {
		t.Errorf("Repositories = %q, %v, %v", repos, more, err)
	}
	_, err = c.Resolve(ctx, "library/nginx", oci.Tagged("2"))
	wantCode(t, "Resolve of a missing tag", err, oci.ManifestUnknown)
	_, err = c.Manifest(ctx, "library/other", oci.Tagged("2"))
	wantCode(t, "Manifest in a missing repository", err, oci.NameUnknown)
	_, err = c.Stat(ctx, "library/nginx", manifestDigest.Algorithm().FromString("other"))
	wantCode(t, "Stat of a missing blob", err, oci.BlobUnknown)
}

func TestHeaders(t *testing.T) {
	var got http.Header
	var seen int
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		w.Header().Set("Ratelimit-Remaining", "7;w=21600")
		http.NotFound(w, r)
	}))
	c := client(t, ociclient.Options{
		URL: srv.URL, UserAgent: "breakwater/1", Header: http.Header{"X-Node": {"n1"}},
		OnResponse: func(r *http.Response) {
			if r.Header.Get("Ratelimit-Remaining") == "7;w=21600" {
				seen++
			}
		},
	})
	_, err := c.Resolve(t.Context(), "library/nginx", oci.Tagged("1"))
	wantCode(t, "Resolve", err, oci.ManifestUnknown)
	for k, want := range map[string]string{
		"User-Agent": "breakwater/1", "X-Node": "n1", "Accept-Encoding": "identity", "Authorization": "",
		"Accept": strings.Join(oci.ManifestTypes, ", ") + ", */*",
	} {
		if got.Get(k) != want {
			t.Errorf("%s: %q, want %q", k, got.Get(k), want)
		}
	}
	if seen != 1 {
		t.Errorf("OnResponse saw %d answers, want 1", seen)
	}
}

func TestCancelled(t *testing.T) {
	asked := make(chan struct{})
	c := client(t, ociclient.Options{URL: "http://registry.test", Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		close(asked)
		<-r.Context().Done()
		return nil, r.Context().Err()
	})})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := c.Resolve(ctx, "library/nginx", oci.Tagged("1")); err != context.Canceled {
		t.Errorf("Resolve = %v, want context.Canceled itself", err)
	}
	if c.Tripped() {
		t.Error("a caller that leaves trips the breaker")
	}
}

var discard = log.New(io.Discard, "", 0)
