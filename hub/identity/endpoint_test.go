package identity

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// onlyPulls grants admins all, and everybody to pull what begins with "open/".
// The hub's name of "short" is "long/name".
func onlyPulls(_ context.Context, c oci.Caller, s oci.Scope) (oci.Scope, error) {
	if s.Name == "short" {
		s.Name = "long/name"
	}
	switch {
	case s.Name == "broken":
		return s, errors.New("no database")
	case c.Admin:
	case strings.HasPrefix(s.Name, "open/") && slices.Contains(s.Actions, "pull"):
		s.Actions = []string{"pull"}
	default:
		s.Actions = nil
	}
	return s, nil
}

func TestTokenEndpoint(t *testing.T) {
	c := newClock()
	i := newIdentity(t, c)
	srv := httptest.NewServer(i.TokenHandler(onlyPulls))
	defer srv.Close()
	token := tokenFor(t, i, "admin")

	form := func(kv ...string) string {
		v := make(url.Values)
		for j := 0; j < len(kv); j += 2 {
			v.Add(kv[j], kv[j+1])
		}
		return v.Encode()
	}
	scope := func(name string, actions ...string) oci.Scope {
		return oci.Scope{Type: "repository", Name: name, Actions: actions}
	}
	for _, tt := range []struct {
		name, method, query, body string
		authorize                 *http.Request // "" for nobody
		status                    int
		says                      string // in the body of a refusal
		want                      oci.Caller
	}{
		{"anonymous", "GET", "service=breakwater&scope=repository:open/app:pull", "", nil, 200, "", oci.Caller{Scopes: []oci.Scope{scope("open/app", "pull")}}},
		{"anonymous, for more than it may", "GET", "scope=repository:open/app:pull,push&scope=repository:closed/app:pull", "", nil, 200, "", oci.Caller{Scopes: []oci.Scope{scope("open/app", "pull"), {Type: "repository", Name: "closed/app", Actions: []string{}}}}},
		{"anonymous, for no repository", "GET", "scope=repository:Not+A+Name:pull&scope=plugin:x:pull&scope=registry:catalog:*", "", nil, 200, "", oci.Caller{Scopes: []oci.Scope{}}},
		{"a short name", "GET", "scope=repository:short:pull", "", basic("admin", adminPassword), 200, "repository:short:pull",
			oci.Caller{Name: "admin", Admin: true, Scopes: []oci.Scope{scope("long/name", "pull")}}},
		{"anonymous, for nothing", "GET", "", "", nil, 200, "", oci.Caller{Scopes: []oci.Scope{}}},
		{"two scopes in one", "GET", form("scope", "repository:a:pull repository:b:pull,push"), "", basic("admin", adminPassword), 200, "",
			oci.Caller{Name: "admin", Admin: true, Scopes: []oci.Scope{scope("a", "pull"), scope("b", "pull", "push")}}},
		{"a scope that cannot be read", "GET", "scope=nonsense&scope=repository:a:pull", "", basic("admin", adminPassword), 200, "",
			oci.Caller{Name: "admin", Admin: true, Scopes: []oci.Scope{scope("a", "pull")}}},
		{"another service's name", "GET", "service=harbor-registry&account=admin&client_id=docker&offline_token=true&scope=repository:a:pull", "", basic("admin", adminPassword), 200, "",
			oci.Caller{Name: "admin", Admin: true, Scopes: []oci.Scope{scope("a", "pull")}}},
		{"wrong password", "GET", "scope=repository:open/app:pull", "", basic("admin", "wrong"), 401, "UNAUTHORIZED", oci.Caller{}},
		{"by a token", "GET", "", "", request("Bearer " + token), 401, "UNAUTHORIZED", oci.Caller{}},
		{"post", "POST", "", form("grant_type", "password", "username", "admin", "password", adminPassword, "service", "breakwater", "client_id", "containerd-client", "scope", "repository:a:pull repository:b:push"), nil, 200, "",
			oci.Caller{Name: "admin", Admin: true, Scopes: []oci.Scope{scope("a", "pull"), scope("b", "push")}}},
		{"post, wrong password", "POST", "", form("grant_type", "password", "username", "admin", "password", "wrong"), nil, 401, "UNAUTHORIZED", oci.Caller{}},
		{"post, password in the query", "POST", form("grant_type", "password", "username", "admin", "password", adminPassword), "", nil, 400, "invalid_request", oci.Caller{}},
		{"post, a refresh token that is none", "POST", "", form("grant_type", "refresh_token", "refresh_token", "x"), nil, 401, "UNAUTHORIZED", oci.Caller{}},
		{"post, an access token to refresh", "POST", "", form("grant_type", "refresh_token", "refresh_token", token), nil, 401, "UNAUTHORIZED", oci.Caller{}},
		{"post, another grant", "POST", "", form("grant_type", "client_credentials"), nil, 400, "unsupported_grant_type", oci.Caller{}},
		{"post, too long", "POST", "", form("grant_type", strings.Repeat("x", maxForm)), nil, 400, "invalid_request", oci.Caller{}},
		{"put", "PUT", "", "", nil, 405, "UNSUPPORTED", oci.Caller{}},
		{"a fault", "GET", "scope=repository:broken:pull", "", nil, 500, "UNKNOWN", oci.Caller{}},
	} {
		r, err := http.NewRequest(tt.method, srv.URL+TokenPath+"?"+tt.query, strings.NewReader(tt.body))
		must(t, err)
		if tt.method == "POST" {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		if tt.authorize != nil {
			r.Header.Set("Authorization", tt.authorize.Header.Get("Authorization"))
		}
		res, err := http.DefaultClient.Do(r)
		must(t, err)
		body, err := io.ReadAll(res.Body)
		must(t, errors.Join(err, res.Body.Close()))
		if res.StatusCode != tt.status || !strings.Contains(string(body), tt.says) {
			t.Errorf("%s: %d %s, want %d %s", tt.name, res.StatusCode, body, tt.status, tt.says)
			continue
		}
		if got := res.Header.Get("WWW-Authenticate"); (got != "") != (tt.status == 401) {
			t.Errorf("%s: WWW-Authenticate is %q", tt.name, got)
		}
		if strings.Contains(string(body), "no database") {
			t.Errorf("%s: the client is told of the cause: %s", tt.name, body)
		}
		if tt.status != 200 {
			continue
		}
		var a answer
		must(t, json.Unmarshal(body, &a))
		if a.Token == "" || a.Token != a.AccessToken || a.ExpiresIn != 300 || a.IssuedAt != c.now().Format(time.RFC3339) || a.TokenType != "Bearer" ||
			res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %s %v", tt.name, body, res.Header)
		}
		got, err := i.verify(t.Context(), a.Token)
		if diff := cmp.Diff(tt.want, got, addrs); diff != "" || err != nil {
			t.Errorf("%s: the token's caller: %v (-want +got)\n%s", tt.name, err, diff)
		}
	}
}

func TestManyScopesAreCutOff(t *testing.T) {
	i := newIdentity(t, newClock())
	asked := 0
	h := i.TokenHandler(func(_ context.Context, _ oci.Caller, s oci.Scope) (oci.Scope, error) {
		asked++
		s.Actions = nil
		return s, nil
	})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", TokenPath+"?"+strings.Repeat("scope=repository:a:pull&", 1000), nil))
	if w.Code != 200 || asked != maxScopes {
		t.Errorf("%d, %d scopes were looked at; want 200, %d", w.Code, asked, maxScopes)
	}
}

// Nor does one scope with all the actions that a URL holds become a token of that
// size.
func TestManyActionsAreCutOff(t *testing.T) {
	i := newIdentity(t, newClock())
	h := i.TokenHandler(func(_ context.Context, _ oci.Caller, s oci.Scope) (oci.Scope, error) {
		if len(s.Actions) > maxActions {
			t.Errorf("%d actions of a scope were looked at", len(s.Actions))
		}
		return s, nil
	})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", TokenPath+"?scope=registry:catalog:pull"+strings.Repeat(",a", 10_000), nil))
	if w.Code != 200 || w.Body.Len() > knownBytes {
		t.Errorf("%d, %d bytes", w.Code, w.Body.Len())
	}
}

func TestParseScope(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want oci.Scope
		ok   bool
	}{
		{"repository:team/app:pull", oci.Scope{Type: "repository", Name: "team/app", Actions: []string{"pull"}}, true},
		{"repository:team/app:pull,push,", oci.Scope{Type: "repository", Name: "team/app", Actions: []string{"pull", "push"}}, true},
		{"repository:host:5000/app:*", oci.Scope{Type: "repository", Name: "host:5000/app", Actions: []string{"*"}}, true},
		{"repository(plugin):app:pull", oci.Scope{Type: "repository", Name: "app", Actions: []string{"pull"}}, true},
		{"registry:catalog:*", oci.Scope{Type: "registry", Name: "catalog", Actions: []string{"*"}}, true},
		{"", oci.Scope{}, false},
		{"repository", oci.Scope{}, false},
		{"repository:app", oci.Scope{}, false},
		{"repository::pull", oci.Scope{}, false},
		{"repository:app:", oci.Scope{}, false},
		{":app:pull", oci.Scope{}, false},
	} {
		got, ok := ParseScope(tt.in)
		if ok != tt.ok || ok && !cmp.Equal(tt.want, got) {
			t.Errorf("ParseScope(%q) = %+v, %v; want %+v, %v", tt.in, got, ok, tt.want, tt.ok)
		}
	}
}

func FuzzParseScope(f *testing.F) {
	for _, s := range []string{"repository:team/app:pull,push", "registry:catalog:*", "repository(plugin):a:b:c", "::", "a(:b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		scope, ok := ParseScope(s)
		if !ok {
			return
		}
		again, ok := ParseScope(FormatScope(scope))
		if !ok || !cmp.Equal(scope, again) {
			t.Errorf("%q is %+v, which is written and read as %+v, %v", s, scope, again, ok)
		}
	})
}

func TestChallenge(t *testing.T) {
	pull := oci.Scope{Type: "repository", Name: "x", Actions: []string{"pull", "push"}}
	for _, tt := range []struct {
		base   string
		scopes []oci.Scope
		want   string
	}{
		{"https://hub.test", nil, `Bearer realm="https://hub.test/service/token",service="breakwater"`},
		{"https://hub.test/", []oci.Scope{pull}, `Bearer realm="https://hub.test/service/token",service="breakwater",scope="repository:x:pull,push"`},
		{"http://hub:8080", []oci.Scope{pull, {Type: "repository", Name: "y", Actions: []string{"pull"}}},
			`Bearer realm="http://hub:8080/service/token",service="breakwater",scope="repository:x:pull,push repository:y:pull"`},
		{`http://a"b`, nil, `Bearer realm="http://a\"b/service/token",service="breakwater"`},
	} {
		if got := Challenge(tt.base, tt.scopes...); got != tt.want {
			t.Errorf("Challenge(%q, %v) = %s, want %s", tt.base, tt.scopes, got, tt.want)
		}
	}
}
