package ocitest

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func discard() *log.Logger { return log.New(io.Discard, "", 0) }

var (
	anonymous = authn.Anonymous
	alice     = &authn.Basic{Username: "alice", Password: "wonder"}
	bob       = &authn.Basic{Username: "bob", Password: "builder"}
	mallory   = &authn.Basic{Username: "alice", Password: "guess"}
)

func rules() Auth {
	return Auth{
		Users:   map[string]string{"alice": "wonder", "bob": "builder"},
		Public:  func(repo string) bool { return strings.HasPrefix(repo, "library/") },
		Allowed: func(user, repo string) bool { return strings.HasPrefix(repo, user+"/") },
	}
}

// A real client pulls through each kind of challenge.
func TestCredentials(t *testing.T) {
	p := newProxied(t)
	for _, repo := range []string{"alice/secret:1", "bob/secret:1"} {
		if err := remote.Write(ref(t, p.url, repo), p.image); err != nil {
			t.Fatal(err)
		}
	}
	hidden := rules()
	hidden.NotFound = true
	for _, mode := range []struct {
		name    string
		set     func()
		refused string // in the client's error for a repository it may not see
	}{
		{"bearer", func() { p.Bearer(rules()) }, "UNAUTHORIZED"},
		{"bearer, 404", func() { p.Bearer(hidden) }, "NAME_UNKNOWN"},
		{"basic", func() { p.Basic(rules()) }, "DENIED"},
	} {
		for _, tt := range []struct {
			image string
			who   authn.Authenticator
			ok    bool
		}{
			{"library/app:1", alice, true},
			{"alice/secret:1", alice, true},
			{"bob/secret:1", bob, true},
			{"bob/secret:1", alice, false},
		} {
			mode.set()
			p.ResetLog()
			img, err := remote.Image(ref(t, p.url, tt.image), remote.WithAuth(tt.who))
			if tt.ok {
				if err != nil {
					t.Errorf("%s: %s: %v", mode.name, tt.image, err)
				} else if _, err := img.RawConfigFile(); err != nil {
					t.Errorf("%s: config of %s: %v", mode.name, tt.image, err)
				}
				want, _ := tt.who.Authorization()
				all := p.Requests()
				if got := all[len(all)-1].User; got != want.Username {
					t.Errorf("%s: the log names %q, not %q", mode.name, got, want.Username)
				}
			} else if err == nil || !strings.Contains(err.Error(), mode.refused) {
				t.Errorf("%s: %s: %v, want %s", mode.name, tt.image, err, mode.refused)
			}
		}
		for image, ok := range map[string]bool{"library/app:1": true, "alice/secret:1": false} {
			_, err := remote.Image(ref(t, p.url, image), remote.WithAuth(anonymous))
			if ok != (err == nil) {
				t.Errorf("%s: anonymous pull of %s: %v, want ok %v", mode.name, image, err, ok)
			}
		}
		if _, err := remote.Image(ref(t, p.url, "library/app:1"), remote.WithAuth(mallory)); err == nil && mode.name != "basic" {
			t.Errorf("%s: a wrong password got a token", mode.name)
		}
	}
	p.Open()
	if _, err := remote.Image(ref(t, p.url, "alice/secret:1"), remote.WithAuth(anonymous)); err != nil {
		t.Errorf("after Open: %v", err)
	}
}

func TestChallenge(t *testing.T) {
	p := newProxied(t)
	p.Bearer(rules())
	host := strings.TrimPrefix(p.url, "http://")
	const manifest = "/v2/alice/secret/manifests/1"
	for _, tt := range []struct {
		path, token, want string
	}{
		{"/v2/", "", `Bearer realm="http://` + host + `/token",service="registry.test"`},
		{manifest, "", `Bearer realm="http://` + host + `/token",service="registry.test",scope="repository:alice/secret:pull"`},
		{manifest, "made.up", `error="invalid_token"`},
		{manifest, p.tokenFor(t, "bob", "builder", "repository:alice/secret:pull"), `error="insufficient_scope"`},
	} {
		req := httptest.NewRequest("GET", tt.path, nil)
		req.Host = host
		if tt.token != "" {
			req.Header.Set("Authorization", "Bearer "+tt.token)
		}
		rec := httptest.NewRecorder()
		p.ServeHTTP(rec, req)
		if got := rec.Header().Get("WWW-Authenticate"); rec.Code != 401 || !strings.Contains(got, tt.want) {
			t.Errorf("GET %s = %d %q, want 401 and %q", tt.path, rec.Code, got, tt.want)
		}
	}
}

// tokenFor asks the token endpoint by the OAuth2 password grant.
func (p *proxied) tokenFor(t *testing.T, user, password, scope string) string {
	t.Helper()
	res, err := http.PostForm(p.url+tokenPath, url.Values{
		"grant_type": {"password"}, "username": {user}, "password": {password}, "scope": {scope},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("token = %d %s, %v", res.StatusCode, body, err)
	}
	_, rest, _ := strings.Cut(string(body), `"token":"`)
	token, _, _ := strings.Cut(rest, `"`)
	return token
}

func TestTokenAllowsReadingOnly(t *testing.T) {
	p := newProxied(t)
	p.Bearer(rules())
	auth := http.Header{"Authorization": {"Bearer " + p.tokenFor(t, "alice", "wonder", "repository:library/app:pull,push")}}
	if status, _, err := p.get(t, http.MethodHead, "/v2/library/app/manifests/1", auth); status != 200 || err != nil {
		t.Errorf("HEAD = %d, %v", status, err)
	}
	if status, _, err := p.get(t, http.MethodDelete, "/v2/library/app/manifests/1", auth); status != 401 || err != nil {
		t.Errorf("DELETE = %d, %v; want 401", status, err)
	}
}

func TestTokenEndpointFaults(t *testing.T) {
	p := newProxied(t)
	p.Bearer(rules())
	head := func() error {
		once := remote.WithRetryBackoff(remote.Backoff{Steps: 1})
		_, err := remote.Head(ref(t, p.url, "library/app:1"), once, remote.WithRetryStatusCodes())
		return err
	}
	p.TokenDown(true)
	if err := head(); err == nil || p.Count("", "^/token$") == 0 {
		t.Errorf("without a token endpoint: %v, which was asked %d times", err, p.Count("", "^/token$"))
	}
	p.TokenDown(false)
	p.Set(Fault{Path: regexp.MustCompile("^/token$"), Status: 503})
	if err := head(); err == nil {
		t.Error("pulled past a token endpoint that answers 503")
	}
	p.Clear()
	if err := head(); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bearer{Auth: rules(), key: []byte("k")}
		token := b.sign(claims{User: "alice", Expires: time.Now().Add(time.Minute)})
		time.Sleep(59 * time.Second)
		if c, err := b.parse(token); err != nil || c.User != "alice" {
			t.Errorf("after 59 s: %v, %v", c, err)
		}
		time.Sleep(2 * time.Second)
		if _, err := b.parse(token); err == nil {
			t.Error("after 61 s the token of a minute is still good")
		}
	})
}

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewFaultProxy(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		p.RateLimit(2, 6*time.Hour)
		const manifest = "/v2/library/app/manifests/1"
		for i, tt := range []struct {
			sleep        time.Duration
			method, path string
			status       int
			remaining    string
		}{
			{0, "HEAD", manifest, 200, "2;w=21600"},
			{0, "GET", manifest, 200, "1;w=21600"},
			{0, "GET", "/v2/library/app/blobs/sha256:00", 200, ""},
			{0, "GET", manifest, 200, "0;w=21600"},
			{time.Hour, "GET", manifest, 429, "0;w=21600"},
			{0, "HEAD", manifest, 200, "0;w=21600"},
			{6 * time.Hour, "GET", manifest, 200, "1;w=21600"},
		} {
			time.Sleep(tt.sleep)
			rec := httptest.NewRecorder()
			p.ServeHTTP(rec, httptest.NewRequest(tt.method, tt.path, nil))
			if got := rec.Header().Get("Ratelimit-Remaining"); rec.Code != tt.status || got != tt.remaining {
				t.Errorf("%d: %s = %d, remaining %q; want %d, %q", i, tt.method, rec.Code, got, tt.status, tt.remaining)
			}
			if got := rec.Header().Get("Retry-After"); rec.Code == 429 && got != "18000" {
				t.Errorf("%d: Retry-After: %q, want the rest of the window", i, got)
			}
		}
		p.RateLimit(-1, 0)
		rec := httptest.NewRecorder()
		p.ServeHTTP(rec, httptest.NewRequest("GET", manifest, nil))
		if rec.Code != 200 || rec.Header().Get("Ratelimit-Limit") != "" {
			t.Errorf("without a limit: %d, %v", rec.Code, rec.Header())
		}
	})
}
