package identity

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// ask asks the token endpoint: by GET with Basic, or with a body by POST.
func ask(t *testing.T, i *Identity, query url.Values, name, password string, body url.Values) (a answer, status int) {
	t.Helper()
	method := "GET"
	if body != nil {
		method = "POST"
	}
	r := httptest.NewRequest(method, TokenPath+"?"+query.Encode(), strings.NewReader(body.Encode()))
	if body != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if name != "" {
		r.SetBasicAuth(name, password)
	}
	w := httptest.NewRecorder()
	i.TokenHandler(onlyPulls).ServeHTTP(w, r)
	if w.Code == http.StatusOK {
		must(t, json.Unmarshal(w.Body.Bytes(), &a))
	}
	return a, w.Code
}

func TestRefreshToken(t *testing.T) {
	c := newClock()
	i := newIdentity(t, c)
	offline := url.Values{"offline_token": {"true"}}
	form := func(kv ...string) url.Values {
		v := url.Values{}
		for j := 0; j < len(kv); j += 2 {
			v.Set(kv[j], kv[j+1])
		}
		return v
	}

	// Who asks for one gets one: who said who it is.
	for _, tt := range []struct {
		name, who, password string
		query, body         url.Values
		want                bool
	}{
		{"get", "admin", adminPassword, offline, nil, true},
		{"get, 1", "admin", adminPassword, url.Values{"offline_token": {"1"}}, nil, true},
		{"get, not asked for", "admin", adminPassword, url.Values{}, nil, false},
		{"get, not wanted", "admin", adminPassword, url.Values{"offline_token": {"false"}}, nil, false},
		{"get, anonymous", "", "", offline, nil, false},
		{"post", "", "", nil, form("grant_type", "password", "username", "admin", "password", adminPassword, "access_type", "offline"), true},
		{"post, online", "", "", nil, form("grant_type", "password", "username", "admin", "password", adminPassword, "access_type", "online"), false},
		{"post, not asked for", "", "", nil, form("grant_type", "password", "username", "admin", "password", adminPassword), false},
	} {
		a, status := ask(t, i, tt.query, tt.who, tt.password, tt.body)
		if status != 200 || a.Token == "" || (a.RefreshToken != "") != tt.want {
			t.Errorf("%s: %d %+v, want a refresh token: %v", tt.name, status, a, tt.want)
		}
	}

	a, _ := ask(t, i, offline, "admin", adminPassword, nil)
	refresh := form("grant_type", "refresh_token", "refresh_token", a.RefreshToken, "service", "breakwater", "client_id", "docker", "access_type", "offline",
		"scope", "repository:team/app:pull")
	b, status := ask(t, i, nil, "", "", refresh)
	if status != 200 || b.RefreshToken != "" || b.ExpiresIn < 60 {
		t.Fatalf("refresh: %d %+v", status, b)
	}
	got, err := i.verify(t.Context(), b.Token)
	if err != nil || got.Name != "admin" || len(got.Scopes) != 1 || got.Scopes[0].Name != "team/app" {
		t.Errorf("the token's caller is %+v, %v", got, err)
	}
	// It is good for that alone.
	for what, r := range map[string]*http.Request{
		"as a token": request("Bearer " + a.RefreshToken), "as a password": basic("admin", a.RefreshToken),
	} {
		if _, err := i.Authenticate(r); oci.CodeOf(err) != oci.Unauthorized {
			t.Errorf("%s: %v", what, err)
		}
	}
	if i.VerifyReplica(a.RefreshToken) == nil {
		t.Error("a refresh token is a replica's")
	}
	replica, err := i.ReplicaToken()
	must(t, err)
	if _, status := ask(t, i, nil, "", "", form("grant_type", "refresh_token", "refresh_token", replica)); status != 401 {
		t.Errorf("a replica's token to refresh: %d", status)
	}
	c.pass(refreshTTL - time.Minute)
	if _, status := ask(t, i, nil, "", "", refresh); status != 200 {
		t.Errorf("before its end: %d", status)
	}
	c.pass(2 * time.Minute)
	if _, status := ask(t, i, nil, "", "", refresh); status != 401 {
		t.Errorf("after its end: %d", status)
	}
}
