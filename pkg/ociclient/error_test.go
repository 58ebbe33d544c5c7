package ociclient_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
)

// ociError is an error body of the distribution-spec.
func ociError(code, message string) string {
	return `{"errors":[{"code":` + strconv.Quote(code) + `,"message":` + strconv.Quote(message) + `,"detail":{"x":1}}]}`
}

// TestStatusErrors is the part of the package comment's table that hangs on
// the answer alone. Nobody is asked for credentials.
func TestStatusErrors(t *testing.T) {
	const html = "text/html; charset=utf-8"
	in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	for _, tt := range []struct {
		name    string
		trust   bool
		status  int
		header  map[string]string
		body    string
		want    oci.Code
		message string // part of it
	}{
		{"404", false, 404, nil, "", oci.ManifestUnknown, "has no manifest library/nginx:1"},
		{"404 that says what", false, 404, nil, ociError("NAME_UNKNOWN", "repository name not known"), oci.NameUnknown, "has no manifest library/nginx:1"},
		{"404 with a code of another kind", false, 404, nil, ociError("TOOMANYREQUESTS", "?"), oci.ManifestUnknown, "has no manifest"},
		{"404 from the hub", true, 404, nil, ociError("MANIFEST_UNKNOWN", "docker.io took it away"), oci.ManifestUnknown, "docker.io took it away"},
		{"404 with plain text", false, 404, map[string]string{"Content-Type": "text/plain"}, "404 page not found\n", oci.ManifestUnknown, "has no manifest"},
		{"404 with a web page", false, 404, map[string]string{"Content-Type": html}, "<html>", oci.Unavailable, "web page"},
		{"410", false, 410, nil, "", oci.ManifestUnknown, "has no manifest"},
		{"bare 401", false, 401, nil, "", oci.Unavailable, "401 Unauthorized"},
		{"401 with a scheme we cannot meet", false, 401, map[string]string{"WWW-Authenticate": "Negotiate"}, "", oci.Unavailable, "401"},
		{"401 Bearer without a realm", false, 401, map[string]string{"WWW-Authenticate": `Bearer service="x"`}, "", oci.Unavailable, "401"},
		{"401 Basic and nothing to show", false, 401, map[string]string{"WWW-Authenticate": `Basic realm="x"`}, "", oci.Unavailable, "wants a username and a password"},
		{"bare 403", false, 403, nil, "", oci.Unavailable, "403 Forbidden"},
		{"bare 403 that says DENIED", false, 403, nil, ociError("DENIED", "no"), oci.Unavailable, "403 Forbidden"},
		{"403 with a web page", true, 403, map[string]string{"Content-Type": html}, "<html>", oci.Unavailable, "web page"},
		{"403 DENIED from the hub", true, 403, nil, ociError("DENIED", "blocked: unsigned"), oci.Denied, "blocked: unsigned"},
		{"403 of another kind from the hub", true, 403, nil, ociError("UNAUTHORIZED", "who?"), oci.Unavailable, "403"},
		{"403 that is no JSON from the hub", true, 403, nil, "{", oci.Unavailable, "403"},
		{"400 of the name", false, 400, nil, ociError("NAME_INVALID", "bad"), oci.NameInvalid, ""},
		{"400 of the tag", false, 400, nil, ociError("TAG_INVALID", "bad"), oci.TagInvalid, ""},
		{"400", false, 400, nil, "", oci.Unavailable, "400 Bad Request"},
		{"406", false, 406, nil, "", oci.Unavailable, "406"},
		{"408", false, 408, nil, "", oci.Unavailable, "408"},
		{"418", false, 418, nil, "", oci.Unavailable, "418"},
		{"429", false, 429, nil, ociError("TOOMANYREQUESTS", "slow"), oci.TooManyRequests, "too many requests"},
		{"429 with a web page", false, 429, map[string]string{"Content-Type": html}, "<html>", oci.TooManyRequests, "too many requests"},
		{"500", false, 500, nil, "", oci.Unavailable, "500 Internal Server Error"},
		{"502 with a web page", false, 502, map[string]string{"Content-Type": html}, "<html>", oci.Unavailable, "502"},
		{"503", false, 503, map[string]string{"Retry-After": "7"}, "", oci.Unavailable, "503 Service Unavailable"},
		{"599", false, 599, nil, "", oci.Unavailable, "answered 599 to"},
		{"204", false, 204, nil, "", oci.Unavailable, "204"},
		{"302 to nowhere", false, 302, nil, "", oci.Unavailable, "302 Found"},
		{"302 to what is no URL", false, 302, map[string]string{"Location": "http://h/%zz?sig=hunter2"}, "", oci.Unavailable, "cannot be reached"},
		{"200 with a web page", false, 200, map[string]string{"Content-Type": html}, "<html>", oci.Unavailable, "did not answer as a registry: it sent a web page"},
		{"200 with an encoding", false, 200, map[string]string{"Content-Encoding": "gzip"}, "x", oci.Unavailable, "encoded the bytes as"},
		{"200 with nonsense", false, 200, map[string]string{"Content-Type": oci.MediaTypeImage}, "welcome", oci.Unavailable, "did not answer as a registry"},
		{"200 with other JSON", false, 200, map[string]string{"Content-Type": "application/json"}, `{"ok":true}`, oci.Unavailable, "did not answer as a registry"},
		{"200 with an old schema", false, 200, map[string]string{"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"}, `{"schemaVersion":1}`, oci.Unavailable, "did not answer as a registry"},
		{"200 with the wrong digest", false, 200, map[string]string{"Content-Type": oci.MediaTypeImage, "Docker-Content-Digest": oci.FromBytes(nil).String()}, string(manifestRaw), oci.Unavailable, "it announced sha256:e3b0"},
		{"200 and too much", false, 200, map[string]string{"Content-Type": oci.MediaTypeImage}, strings.Repeat(" ", oci.MaxManifestBytes+1), oci.ManifestTooLarge, "larger than 4 MiB"},
		{"429 for seconds", false, 429, map[string]string{"Retry-After": "120"}, "", oci.TooManyRequests, ""},
		{"429 until a date", false, 429, map[string]string{"Retry-After": in(time.Hour)}, "", oci.TooManyRequests, ""},
		{"429 until a date gone by", false, 429, map[string]string{"Retry-After": in(-time.Hour)}, "", oci.TooManyRequests, ""},
		{"429 until whenever", false, 429, map[string]string{"Retry-After": "soon"}, "", oci.TooManyRequests, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for k, v := range tt.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			}))
			c := client(t, ociclient.Options{URL: srv.URL, Trust: tt.trust})
			_, err := c.Manifest(t.Context(), "library/nginx", oci.Tagged("1"))
			wantCode(t, "Manifest", err, tt.want)
			if !strings.Contains(text(err), tt.message) {
				t.Errorf("message %q, want %q in it", text(err), tt.message)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v holds a secret", err)
			}
			// A HEAD has no body to go by: there only the status counts, and
			// whatever it leaves open is settled by a GET.
			_, err = c.Resolve(t.Context(), "library/nginx", oci.Tagged("1"))
			want := tt.want
			switch {
			case tt.want == oci.NameUnknown:
				want = oci.ManifestUnknown
			case tt.want == oci.NameInvalid || tt.want == oci.TagInvalid:
				want = oci.Unavailable
			case tt.name == "200 with the wrong digest":
				want = "" // nothing came that could be wrong
			}
			wantCode(t, "Resolve", err, want)
		})
	}
}

func TestRetryAfter(t *testing.T) {
	for _, tt := range []struct {
		value    string
		min, max time.Duration
	}{
		{"", 0, 0},
		{"0", 0, 0},
		{"-5", 0, 0},
		{"120", 2 * time.Minute, 2 * time.Minute},
		{"99999999999", 0, 0},
		{time.Now().Add(time.Hour).UTC().Format(http.TimeFormat), 59 * time.Minute, time.Hour},
		{time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat), 0, 0},
		{"tomorrow", 0, 0},
	} {
		c := ask(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", tt.value)
			w.WriteHeader(http.StatusTooManyRequests)
		})
		_, err := c.Manifest(t.Context(), "library/nginx", oci.Tagged("1"))
		e, ok := errors.AsType[*oci.Error](err)
		if !ok || e.RetryAfter < tt.min || e.RetryAfter > tt.max {
			t.Errorf("Retry-After %q: %+v, want %s to %s", tt.value, e, tt.min, tt.max)
		}
	}
}

// timeout is a net.Error as the dialer returns it.
type timeout struct{}

func (timeout) Error() string   { return "i/o timeout" }
func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }

// TestSilence is the part of the package comment's table where no answer came.
func TestSilence(t *testing.T) {
	for _, tt := range []struct {
		name    string
		err     error // of the transport
		message string
		slow    bool // trips the breaker
	}{
		{"no address", &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "registry.test", IsNotFound: true}}, "no address was found for registry.test", false},
		{"DNS that does not answer", &net.OpError{Op: "dial", Err: &net.DNSError{Err: "i/o timeout", IsTimeout: true}}, "registry.test could not be reached within 3s", true},
		{"refused", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, "registry.test refuses connections", false},
		{"dial timeout", &net.OpError{Op: "dial", Err: timeout{}}, "registry.test could not be reached within 3s", true},
		{"proxy", &net.OpError{Op: "proxyconnect", Err: syscall.ECONNREFUSED}, "the HTTP proxy on the way to registry.test", false},
		{"closed", io.EOF, "registry.test closed the connection", false},
		{"reset", &net.OpError{Op: "read", Err: syscall.ECONNRESET}, "registry.test closed the connection", false},
		{"plain http", http.ErrSchemeMismatch, "registry.test speaks plain http", false},
		{"anything", errors.New("odd"), "registry.test cannot be reached", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := client(t, ociclient.Options{URL: "https://registry.test", Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				return nil, tt.err
			})})
			_, err := c.Resolve(t.Context(), "library/nginx", oci.Tagged("1"))
			wantCode(t, "Resolve", err, oci.Unavailable)
			if !strings.Contains(text(err), tt.message) || !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %q that wraps %v", err, tt.message, tt.err)
			}
			if _, ok := errors.AsType[*url.Error](err); ok {
				t.Errorf("%v carries a URL", err)
			}
			if c.Tripped() != tt.slow {
				t.Errorf("Tripped = %v, want %v", c.Tripped(), tt.slow)
			}
		})
	}
}

func TestRealConnections(t *testing.T) {
	closed := serve(t, nil)
	closed.Close()
	c := client(t, ociclient.Options{URL: closed.URL})
	_, err := c.Resolve(t.Context(), "library/nginx", oci.Tagged("1"))
	if !strings.Contains(text(err), "refuses connections") || c.Tripped() {
		t.Errorf("nobody listens: %v, tripped %v", err, c.Tripped())
	}
	plain := serve(t, http.NotFoundHandler())
	c = client(t, ociclient.Options{URL: strings.Replace(plain.URL, "http:", "https:", 1)})
	if _, err := c.Resolve(t.Context(), "library/nginx", oci.Tagged("1")); !strings.Contains(text(err), "speaks plain http") {
		t.Errorf("https to an http server: %v", err)
	}
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(secure.Close)
	secure.Config.ErrorLog = discard
	c = client(t, ociclient.Options{URL: secure.URL})
	if _, err := c.Resolve(t.Context(), "library/nginx", oci.Tagged("1")); !strings.Contains(text(err), "is not trusted") {
		t.Errorf("a certificate of nobody's: %v", err)
	}
	cut := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	c = client(t, ociclient.Options{URL: cut.URL})
	if _, err := c.Resolve(t.Context(), "library/nginx", oci.Tagged("1")); !strings.Contains(text(err), "closed the connection") {
		t.Errorf("a connection cut: %v", err)
	}
}

// TestDeadConnection cuts kept connections while they are idle and when a
// request has come over them: the request is repeated, a fresh one is not.
func TestDeadConnection(t *testing.T) {
	var asked atomic.Int32
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := asked.Add(1); n == 2 || n == 4 {
			panic(http.ErrAbortHandler)
		}
		http.NotFound(w, r)
	}))
	c := client(t, ociclient.Options{URL: srv.URL})
	resolve := func() oci.Code {
		_, err := c.Resolve(t.Context(), "library/nginx", oci.Tagged("1"))
		return oci.CodeOf(err)
	}
	got := []oci.Code{resolve(), resolve()} // the 2nd: cut at its first try
	srv.CloseClientConnections()
	got = append(got, resolve()) // on a new connection, cut
	want := []oci.Code{oci.ManifestUnknown, oci.ManifestUnknown, oci.Unavailable}
	if diff := cmp.Diff(want, got); diff != "" || asked.Load() != 4 {
		t.Errorf("%d requests asked, codes (-want +got):\n%s", asked.Load(), diff)
	}
}

// hang never answers.
func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestHeaderTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := hang
		c := client(t, ociclient.Options{URL: "https://registry.test", Transport: roundTripper(func(r *http.Request) (*http.Response, error) { return rt(r) })})
		began := time.Now()
		_, err := c.Resolve(t.Context(), "library/nginx", oci.Tagged("1"))
		wantCode(t, "Resolve", err, oci.Unavailable)
		if took := time.Since(began); took != 10*time.Second || !strings.Contains(text(err), "registry.test did not answer within 10s") {
			t.Errorf("after %s: %v", took, err)
		}

		// The breaker stays open for two seconds at most.
		if !c.Tripped() {
			t.Error("not tripped after a header deadline")
		}
		time.Sleep(1900 * time.Millisecond)
		if !c.Tripped() {
			t.Error("closed before two seconds have passed")
		}
		time.Sleep(100 * time.Millisecond)
		if c.Tripped() {
			t.Error("open after two seconds")
		}

		// Requests are sent while it is open, and an answer closes it.
		_, _ = c.Resolve(t.Context(), "library/nginx", oci.Tagged("1"))
		rt = func(r *http.Request) (*http.Response, error) { return respond(r, 404, nil, http.NoBody, 0), nil }
		if !c.Tripped() {
			t.Error("not tripped by the second deadline")
		}
		_, err = c.Resolve(t.Context(), "library/nginx", oci.Tagged("1"))
		wantCode(t, "Resolve of what answers again", err, oci.ManifestUnknown)
		if c.Tripped() {
			t.Error("open after an answer")
		}
	})
}

func TestCallersDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := client(t, ociclient.Options{URL: "https://registry.test", Transport: roundTripper(hang)})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Resolve(ctx, "library/nginx", oci.Tagged("1"))
		wantCode(t, "Resolve", err, oci.Unavailable)
		if !errors.Is(err, context.DeadlineExceeded) || c.Tripped() {
			t.Errorf("%v, tripped %v: want a deadline that says nothing about the registry", err, c.Tripped())
		}
	})
}

func TestHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		status, after := 429, "120"
		c := client(t, ociclient.Options{URL: "https://registry.test", Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if status == 200 {
				return respond(r, 200, http.Header{"Content-Type": {oci.MediaTypeImage}}, strings.NewReader(string(manifestRaw)), int64(len(manifestRaw))), nil
			}
			return respond(r, status, http.Header{"Retry-After": {after}}, http.NoBody, 0), nil
		})})
		held := func() time.Duration {
			if c.Held().IsZero() {
				return 0
			}
			return time.Until(c.Held())
		}
		head := func() { _, _ = c.Resolve(t.Context(), "library/nginx", oci.Tagged("1")) }
		get := func() { _, _ = c.Manifest(t.Context(), "library/nginx", oci.Tagged("1")) }

		head()
		if held() != 0 {
			t.Errorf("a HEAD holds for %s", held())
		}
		get()
		if held() != 2*time.Minute {
			t.Errorf("held for %s, want 2m", held())
		}
		time.Sleep(2 * time.Minute)
		if held() != 0 {
			t.Errorf("held for %s past its end", held())
		}
		after = ""
		get()
		if held() != 2*time.Second {
			t.Errorf("held for %s without Retry-After, want 2s", held())
		}
		after = "999999"
		get()
		if held() != time.Hour {
			t.Errorf("held for %s, want 1h at most", held())
		}
		status = 200
		get()
		if held() != 0 {
			t.Errorf("held for %s after a GET that was answered", held())
		}
	})
}

// TestTrust reads the hub's headers from a hub alone.
func TestTrust(t *testing.T) {
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", oci.MediaTypeImage)
		h.Set("Docker-Content-Digest", manifestDigest.String())
		h.Set("Age", "30")
		h.Set("Cache-Control", `public, Max-Age=60, stale-if-error="604800"`)
		h.Add("Warning", `110 - "old"`)
		h.Add("Warning", `299 - "stale"`)
		h.Set("Breakwater-Visibility", "private")
		w.Write(manifestRaw)
	}))
	told := oci.Answer{
		Source: oci.FromHub, Visibility: oci.Private, Stale: true,
		Age: 30 * time.Second, MaxAge: time.Minute, StaleIfError: 7 * 24 * time.Hour,
	}
	for _, tt := range []struct {
		trust bool
		want  oci.Answer
	}{
		{true, told},
		{false, oci.Answer{Source: oci.FromHub}},
	} {
		c := client(t, ociclient.Options{URL: srv.URL, Trust: tt.trust, Source: oci.FromHub})
		head, err := c.Resolve(t.Context(), "library/nginx", oci.Tagged("1"))
		get, err2 := c.Manifest(t.Context(), "library/nginx", oci.Tagged("1"))
		stream, err3 := c.Open(t.Context(), "library/nginx", manifestDigest, 0)
		info, err4 := c.Stat(t.Context(), "library/nginx", manifestDigest)
		if err := errors.Join(err, err2, err3, err4); err != nil {
			t.Fatal(err)
		}
		stream.Body.Close()
		want := []oci.Answer{tt.want, tt.want, tt.want, tt.want}
		if diff := cmp.Diff(want, []oci.Answer{head.Answer, get.Answer, stream.Answer, info.Answer}); diff != "" {
			t.Errorf("Trust %v: Resolve, Manifest, Open, Stat (-want +got):\n%s", tt.trust, diff)
		}
	}
}
