package ociclient_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// guarded is a registry with an image at library/nginx, behind a proxy that
// asks for credentials.
func guarded(t *testing.T) (*ocitest.FaultProxy, string) {
	t.Helper()
	p := ocitest.NewFaultProxy(newRegistry(t, []byte("{}")))
	return p, serve(t, p).URL
}

func password(s string) func() (string, error) {
	return func() (string, error) { return s, nil }
}

func resolve(ctx context.Context, c *ociclient.Client, repo string) error {
	_, err := c.Resolve(ctx, repo, oci.Tagged("1.27"))
	return err
}

var tokenPath = regexp.MustCompile("^/token$")

func TestBearerAnonymous(t *testing.T) {
	p, url := guarded(t)
	p.Bearer(ocitest.Auth{Public: func(repo string) bool { return repo == "library/nginx" }})
	c := client(t, ociclient.Options{URL: url})
	for range 3 {
		if err := resolve(t.Context(), c, "library/nginx"); err != nil {
			t.Fatal(err)
		}
	}
	// One bare request to learn, one exchange, no ping.
	if tokens, heads, pings := p.Count("", "^/token$"), p.Count("HEAD", "manifests"), p.Count("", "^/v2/$"); tokens != 1 || heads != 4 || pings != 0 {
		t.Errorf("%d exchanges, %d HEADs, %d pings, want 1, 4, 0", tokens, heads, pings)
	}
	p.ResetLog()

	// Another repository gets its token first: the challenge is known.
	err := resolve(t.Context(), c, "library/secret")
	wantCode(t, "with a token that does not allow it", err, oci.Denied)
	if tokens, heads := p.Count("", "^/token$"), p.Count("HEAD", "manifests"); tokens != 1 || heads != 1 {
		t.Errorf("%d exchanges, %d HEADs, want 1, 1", tokens, heads)
	}
}

func TestOpenRegistryIsNotPinged(t *testing.T) {
	p, url := guarded(t)
	c := client(t, ociclient.Options{URL: url})
	if err := resolve(t.Context(), c, "library/nginx"); err != nil || len(p.Requests()) != 1 {
		t.Errorf("%v after %d requests, want 1", err, len(p.Requests()))
	}
	wantCode(t, "missing", resolve(t.Context(), c, "library/none"), oci.ManifestUnknown)
	if len(p.Requests()) != 2 {
		t.Errorf("%d requests, want 2", len(p.Requests()))
	}
}

func TestBearerCredentials(t *testing.T) {
	p, url := guarded(t)
	p.Bearer(ocitest.Auth{Users: map[string]string{"ci": "s3cret"}})
	c := client(t, ociclient.Options{URL: url, Username: "ci", Password: password("s3cret")})
	if err := resolve(t.Context(), c, "library/nginx"); err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Requests() {
		if r.Path != "/token" && strings.HasPrefix(r.Header.Get("Authorization"), "Basic") {
			t.Errorf("%s %s was sent the password", r.Method, r.Path)
		}
	}
}

// TestHiddenFromStrangers: the registry says 404 to whoever shows nothing, and
// only /v2/ says that something can be shown.
func TestHiddenFromStrangers(t *testing.T) {
	auth := "Basic " + base64.StdEncoding.EncodeToString([]byte("ci:s3cret"))
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound} {
		var asked []string
		srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.Method+" "+r.URL.Path)
			switch {
			case r.URL.Path == "/v2/":
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
			case r.Header.Get("Authorization") != auth:
				w.WriteHeader(status)
			default:
				w.Header().Set("Content-Type", oci.MediaTypeImage)
				w.Write(manifestRaw)
			}
		}))
		c := client(t, ociclient.Options{URL: srv.URL, Username: "ci", Password: password("s3cret")})
		for range 2 {
			if _, err := c.Manifest(t.Context(), "library/nginx", oci.Tagged("1")); err != nil {
				t.Errorf("hidden as %d: %v", status, err)
			}
		}
		want := "[GET /v2/library/nginx/manifests/1 GET /v2/ GET /v2/library/nginx/manifests/1 GET /v2/library/nginx/manifests/1]"
		if fmt.Sprint(asked) != want {
			t.Errorf("hidden as %d: asked %v, want %s", status, asked, want)
		}
	}
}

// TestNothingToShowIsAskedOnce: credentials that nobody wants cost one ping.
func TestNothingToShowIsAskedOnce(t *testing.T) {
	p, url := guarded(t)
	c := client(t, ociclient.Options{URL: url, Username: "ci", Password: password("s3cret")})
	for range 3 {
		wantCode(t, "missing", resolve(t.Context(), c, "library/none"), oci.ManifestUnknown)
	}
	if n := p.Count("GET", "^/v2/$"); n != 1 {
		t.Errorf("%d pings, want 1", n)
	}
}

func TestBasic(t *testing.T) {
	p, url := guarded(t)
	p.Basic(ocitest.Auth{
		Users:   map[string]string{"ci": "new"},
		Allowed: func(_, repo string) bool { return repo == "library/nginx" },
	})
	var secret atomic.Value
	secret.Store("new")
	c := client(t, ociclient.Options{URL: url, Username: "ci", Password: func() (string, error) { return secret.Load().(string), nil }})
	for range 2 {
		if err := resolve(t.Context(), c, "library/nginx"); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.Count("HEAD", "manifests"); n != 3 {
		t.Errorf("%d HEADs, want 3: one bare, two with the password", n)
	}
	wantCode(t, "what we may not see", resolve(t.Context(), c, "library/secret"), oci.Denied)
	secret.Store("old")
	wantCode(t, "with an old password", resolve(t.Context(), c, "library/nginx"), oci.Denied)
	secret.Store("new")
	if err := resolve(t.Context(), c, "library/nginx"); err != nil {
		t.Errorf("with the rotated password: %v", err)
	}
}

// TestBasicRefused401: with Basic a 401 to credentials is a refusal too.
func TestBasicRefused401(t *testing.T) {
	c := client(t, ociclient.Options{
		URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		})).URL,
		Username: "ci", Password: password("s3cret"),
	})
	for range 2 {
		wantCode(t, "Basic credentials refused", resolve(t.Context(), c, "library/nginx"), oci.Denied)
	}
}

func TestUnreadableSecrets(t *testing.T) {
	p, url := guarded(t)
	broken := errors.New("open /etc/secret: no such file")
	for _, f := range []func() (string, error){password(""), func() (string, error) { return "", broken }} {
		for _, guard := range []func(ocitest.Auth){p.Basic, p.Bearer} {
			guard(ocitest.Auth{})
			c := client(t, ociclient.Options{URL: url, Username: "ci", Password: f})
			err := resolve(t.Context(), c, "library/nginx")
			wantCode(t, "password", err, oci.Unavailable)
			if !strings.Contains(text(err), "the password for") {
				t.Errorf("password: %v", err)
			}
		}
		c := client(t, ociclient.Options{URL: url, Token: f})
		err := resolve(t.Context(), c, "library/nginx")
		wantCode(t, "token", err, oci.Unavailable)
		if !strings.Contains(text(err), "the token for") {
			t.Errorf("token: %v", err)
		}
	}
}

// TestTokenExpires: a token is used until shortly before its end.
func TestTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var exchanges int
		c := client(t, ociclient.Options{URL: "https://registry.test", Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			switch {
			case r.URL.Host == "auth.test":
				exchanges++
				body := fmt.Sprintf(`{"access_token":"t%d","expires_in":300}`, exchanges)
				return respond(r, 200, nil, strings.NewReader(body), -1), nil
			case r.Header.Get("Authorization") == "":
				return respond(r, 401, http.Header{"Www-Authenticate": {`Bearer realm="https://auth.test/token",service="x"`}}, http.NoBody, 0), nil
			case r.Header.Get("Authorization") != fmt.Sprintf("Bearer t%d", exchanges):
				t.Errorf("sent %q after %d exchanges", r.Header.Get("Authorization"), exchanges)
			}
			return respond(r, 404, nil, http.NoBody, 0), nil
		})})
		for _, step := range []struct {
			wait time.Duration
			want int
		}{{0, 1}, {269 * time.Second, 1}, {time.Second, 2}, {0, 2}, {269 * time.Second, 2}} {
			time.Sleep(step.wait)
			wantCode(t, "Resolve", resolve(t.Context(), c, "library/nginx"), oci.ManifestUnknown)
			if exchanges != step.want {
				t.Errorf("%d exchanges after another %s, want %d", exchanges, step.wait, step.want)
			}
		}
	})
}

// TestStaleToken: a cached token that is refused is replaced once, and what
// the fresh one may not see is denied.
func TestStaleToken(t *testing.T) {
	p, url := guarded(t)
	all := ocitest.Auth{Public: func(string) bool { return true }}
	p.Bearer(all)
	c := client(t, ociclient.Options{URL: url})
	if err := resolve(t.Context(), c, "library/nginx"); err != nil {
		t.Fatal(err)
	}
	p.Bearer(all) // with another key: no token issued before holds
	p.ResetLog()
	if err := resolve(t.Context(), c, "library/nginx"); err != nil {
		t.Fatal(err)
	}
	if tokens, heads := p.Count("", "^/token$"), p.Count("HEAD", "manifests"); tokens != 1 || heads != 2 {
		t.Errorf("%d exchanges, %d HEADs, want 1, 2", tokens, heads)
	}
	p.Bearer(ocitest.Auth{})
	p.ResetLog()
	wantCode(t, "what is private now", resolve(t.Context(), c, "library/nginx"), oci.Denied)
	if tokens, heads := p.Count("", "^/token$"), p.Count("HEAD", "manifests"); tokens != 1 || heads != 2 {
		t.Errorf("%d exchanges, %d HEADs, want 1, 2", tokens, heads)
	}
}

// TestDenied is the lines of the table where a token was granted.
func TestDenied(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		header http.Header
		want   oci.Code
		ofHub  oci.Code // with Options.Trust
	}{
		{"401", 401, nil, oci.Denied, oci.Unauthorized},
		{"401 with a challenge", 401, http.Header{"WWW-Authenticate": {`Bearer realm="http://elsewhere.test/token"`}}, oci.Denied, oci.Unauthorized},
		{"403", 403, nil, oci.Denied, oci.Denied},
		{"403 with a web page", 403, http.Header{"Content-Type": {"text/html"}}, oci.Unavailable, oci.Unavailable},
		{"404", 404, nil, oci.ManifestUnknown, oci.ManifestUnknown},
		{"503", 503, nil, oci.Unavailable, oci.Unavailable},
	} {
		p, url := guarded(t)
		p.Bearer(ocitest.Auth{Public: func(string) bool { return true }})
		p.Set(ocitest.Fault{Path: regexp.MustCompile("manifests"), After: 1, Status: tt.status, Header: tt.header})
		c := client(t, ociclient.Options{URL: url})
		err := resolve(t.Context(), c, "library/nginx")
		wantCode(t, tt.name, err, tt.want)
		hub := client(t, ociclient.Options{URL: url, Trust: true})
		p.ResetLog()
		p.Set(ocitest.Fault{Path: regexp.MustCompile("manifests"), After: 1, Status: tt.status, Header: tt.header})
		wantCode(t, tt.name+" of a hub", resolve(t.Context(), hub, "library/nginx"), tt.ofHub)
		if tt.want == oci.Denied && !strings.Contains(text(err), "does not let us see manifest library/nginx:1.27, or has it no longer") {
			t.Errorf("%s: %q", tt.name, text(err))
		}
	}
}

func TestTokenEndpointFails(t *testing.T) {
	const secret = "hunter2"
	for _, tt := range []struct {
		name    string
		fault   ocitest.Fault
		anon    bool
		message string
		slow    bool
	}{
		{"401", ocitest.Fault{Status: 401}, false, "the credentials configured for 127.0.0.1", false},
		{"403", ocitest.Fault{Status: 403, Body: `{"password":"hunter2"}`}, false, "the credentials configured for 127.0.0.1", false},
		{"401 to nobody", ocitest.Fault{Status: 401}, true, "grants no token without credentials", false},
		{"404", ocitest.Fault{Status: 404, Body: secret}, false, "answered 404 Not Found", false},
		{"429", ocitest.Fault{Status: 429}, false, "answered 429 Too Many Requests", false},
		{"503", ocitest.Fault{Status: 503, Body: secret}, false, "answered 503 Service Unavailable", false},
		{"a web page", ocitest.Fault{HTML: true}, false, "gave no token", false},
		{"no token", ocitest.Fault{Status: 200, Body: `{"refresh_token":"hunter2"}`}, false, "gave no token", false},
		{"garbage", ocitest.Fault{Status: 200, Body: `{hunter2`}, false, "gave no token", false},
		{"reset", ocitest.Fault{Reset: true}, false, "closed the connection", false},
		{"silence", ocitest.Fault{Hang: true}, false, "did not answer within", true},
		{"silence after the headers", ocitest.Fault{Status: 200, Body: `{"token":"hunter2"}`, StallAt: 5}, false, "did not answer within", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, url := guarded(t)
			p.Bearer(ocitest.Auth{Users: map[string]string{"ci": secret}})
			tt.fault.Path = tokenPath
			p.Set(tt.fault)
			var logged bytes.Buffer
			o := ociclient.Options{URL: url, Log: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))}
			if !tt.anon {
				o.Username, o.Password = "ci", password(secret)
			}
			if tt.slow {
				o.HeaderTimeout = 500 * time.Millisecond
			}
			c := client(t, o)
			err := resolve(t.Context(), c, "library/nginx")
			wantCode(t, "Resolve", err, oci.Unavailable)
			if !strings.Contains(text(err), tt.message) || !strings.Contains(text(err), "token") {
				t.Errorf("%v, want %q in it and that it was about a token", err, tt.message)
			}
			if all := err.Error() + logged.String(); strings.Contains(all, secret) || strings.Contains(all, "hunter2") {
				t.Errorf("a secret in %q", all)
			}
			if c.Tripped() != tt.slow {
				t.Errorf("Tripped = %v, want %v", c.Tripped(), tt.slow)
			}
			p.Clear()
			err = resolve(t.Context(), c, "library/nginx")
			if err != nil && tt.slow { // may have joined what hung
				err = resolve(t.Context(), c, "library/nginx")
			}
			if err != nil && !tt.anon {
				t.Errorf("when it works again: %v", err)
			}
		})
	}
}

// TestRealm: a registry does not choose freely where credentials go.
func TestRealm(t *testing.T) {
	for _, realm := range []string{"http://169.254.169.254/token", "file:///etc/passwd", "http://10.0.0.1/token"} {
		c := client(t, ociclient.Options{
			URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q`, realm))
				w.WriteHeader(http.StatusUnauthorized)
			})).URL,
			Username: "ci", Password: password("s3cret"),
		})
		err := resolve(t.Context(), c, "library/nginx")
		wantCode(t, realm, err, oci.Unavailable)
		if !strings.Contains(text(err), "no token can be asked for") {
			t.Errorf("%s: %v", realm, err)
		}
	}
}

// TestOneExchange: many who ask at once for one scope cost one exchange, and
// the first of them may leave.
func TestOneExchange(t *testing.T) {
	p, url := guarded(t)
	p.Bearer(ocitest.Auth{Public: func(string) bool { return true }})
	p.Set(ocitest.Fault{Path: tokenPath, Times: 1, Delay: 200 * time.Millisecond})
	c := client(t, ociclient.Options{URL: url})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() { first <- resolve(ctx, c, "library/nginx") }()
	if err := p.Wait(t.Context(), 1, "GET", "^/token$"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := resolve(t.Context(), c, "library/nginx"); err != nil {
				t.Error(err)
			}
		})
	}
	cancel()
	if err := <-first; err != context.Canceled {
		t.Errorf("who left got %v", err)
	}
	wg.Wait()
	if n := p.Count("", "^/token$"); n != 1 {
		t.Errorf("%d exchanges, want 1", n)
	}
}

// TestScopeOfTheRegistry: a scope is what the challenge calls it, and that is
// remembered.
func TestScopeOfTheRegistry(t *testing.T) {
	var scopes []string
	var srvURL string
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			scopes = append(scopes, strings.Join(r.URL.Query()["scope"], "|"))
			fmt.Fprintf(w, `{"token":%q,"expires_in":3600}`, r.URL.Query().Get("scope"))
			return
		}
		repo := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/1.27")
		if r.Header.Get("Authorization") != "Bearer repository:tenant/"+repo+":pull" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",scope="repository:tenant/%s:pull"`, srvURL, repo))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	srvURL = srv.URL
	c := client(t, ociclient.Options{URL: srv.URL})
	for _, repo := range []string{"a", "a", "b", "b", "a"} {
		wantCode(t, repo, resolve(t.Context(), c, repo), oci.ManifestUnknown)
	}
	want := "[repository:tenant/a:pull repository:b:pull repository:tenant/b:pull]"
	if fmt.Sprint(scopes) != want {
		t.Errorf("scopes asked for %v, want %s", scopes, want)
	}
}

// TestScopeBelowV2: what follows v2 in the URL is part of the name.
func TestScopeBelowV2(t *testing.T) {
	p, url := guarded(t)
	p.Bearer(ocitest.Auth{Public: func(repo string) bool { return repo == "library/nginx" }})
	c := client(t, ociclient.Options{URL: url + "/v2/library"})
	for range 2 {
		if err := resolve(t.Context(), c, "nginx"); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, "private", resolve(t.Context(), c, "secret"), oci.Denied)
	if n := p.Count("", "^/token$"); n != 2 {
		t.Errorf("%d exchanges, want 2", n)
	}
}

// TestPresentedToken: Options.Token goes out as it is, and is read again when
// it is refused.
func TestPresentedToken(t *testing.T) {
	var valid, have atomic.Value
	valid.Store("one")
	have.Store("one")
	var asked atomic.Int32
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		switch {
		case r.Header.Get("Authorization") != "Bearer "+valid.Load().(string):
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://auth.test/token"`)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(r.URL.Path, "secret"):
			w.WriteHeader(http.StatusForbidden)
		default:
			w.Header().Set("Content-Type", oci.MediaTypeImage)
			w.Header().Set("Docker-Content-Digest", manifestDigest.String())
			w.Write(manifestRaw)
		}
	}))
	reads := 0
	c := client(t, ociclient.Options{URL: srv.URL, Token: func() (string, error) {
		reads++
		if reads == 4 { // rotated between two reads of one call
			have.Store("two")
		}
		return have.Load().(string), nil
	}})
	for _, step := range []struct {
		repo  string
		valid string
		want  oci.Code
		asked int32 // requests
	}{
		{"library/nginx", "one", "", 1},
		{"library/secret", "one", oci.Denied, 1},
		{"library/nginx", "two", "", 2},
		{"library/nginx", "three", oci.Unavailable, 1},
	} {
		valid.Store(step.valid)
		asked.Store(0)
		err := resolve(t.Context(), c, step.repo)
		wantCode(t, fmt.Sprint(step), err, step.want)
		if asked.Load() != step.asked {
			t.Errorf("%v: %d requests", step, asked.Load())
		}
		if err != nil && (strings.Contains(err.Error(), "one") || strings.Contains(err.Error(), "two")) {
			t.Errorf("a secret in %v", err)
		}
	}
}

// TestRefusalOfTheHub: a HEAD has no body, so the reason of a 403 is fetched.
func TestRefusalOfTheHub(t *testing.T) {
	c := client(t, ociclient.Options{Trust: true, URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, ociError("DENIED", "blocked by rule prod-critical: unsigned"))
	})).URL})
	_, err := c.Resolve(t.Context(), "library/nginx", oci.Tagged("1"))
	_, err2 := c.Manifest(t.Context(), "library/nginx", oci.Tagged("1"))
	_, err3 := c.Stat(t.Context(), "library/nginx", manifestDigest)
	_, err4 := c.Open(t.Context(), "library/nginx", manifestDigest, 0)
	for i, err := range []error{err, err2, err3, err4} {
		wantCode(t, fmt.Sprint("refusal ", i), err, oci.Denied)
		if text(err) != "blocked by rule prod-critical: unsigned" {
			t.Errorf("refusal %d: %q", i, text(err))
		}
	}
}
