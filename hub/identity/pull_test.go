package identity

import (
	"net/url"
	"reflect"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestPullAuthorization(t *testing.T) {
	c := newClock()
	i := newIdentity(t, c)
	const repo = "closed/app"
	pull := []string{"pull"}
	want := oci.Caller{
		Name: ScannerName, Rights: []oci.Right{{Repository: repo, Actions: pull}}, Scopes: []oci.Scope{{Type: "repository", Name: repo, Actions: pull}},
	}
	token, err := i.PullAuthorization(repo, c.now().Add(10*time.Minute), false)
	must(t, err)
	i.Forget() // a change of users changes nothing of it
	got, err := i.Authenticate(request(token))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("by a token: %+v, %v", got, err)
	}
	password, err := i.PullAuthorization(repo, c.now().Add(10*time.Minute), true)
	must(t, err)
	whole := want
	whole.Scopes = nil
	got, err = i.Authenticate(request(password))
	if err != nil || !reflect.DeepEqual(got, whole) {
		t.Errorf("by a password: %+v, %v", got, err)
	}
	_, secret, _ := request(password).BasicAuth()

	// A client exchanges the password for a token.
	query := url.Values{"scope": {"repository:" + repo + ":pull"}, "offline_token": {"true"}}
	a, status := ask(t, i, query, ScannerName, secret, nil)
	if status != 200 {
		t.Fatalf("exchanged: %d", status)
	}
	for name, authorization := range map[string]string{
		"a token as the password":                    basic(ScannerName, token[len("Bearer "):]).Header.Get("Authorization"),
		"what it was exchanged for, as the password": basic(ScannerName, a.Token).Header.Get("Authorization"),
		"a refresh token as the password":            basic(ScannerName, a.RefreshToken).Header.Get("Authorization"),
		"the password as a token":                    "Bearer " + secret,
		"the password of another":                    basic("admin", secret).Header.Get("Authorization"),
		"no password":                                basic(ScannerName, "").Header.Get("Authorization"),
	} {
		if got, err := i.Authenticate(request(authorization)); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	// What it was exchanged for does not outlive it by more than a client must be
	// given; nor does it by refreshing.
	c.pass(10*time.Minute + leeway)
	for _, authorization := range []string{token, password} {
		if got, err := i.Authenticate(request(authorization)); err == nil {
			t.Errorf("after its time: %+v", got)
		}
	}
	if _, status := ask(t, i, query, ScannerName, secret, nil); status != 401 {
		t.Errorf("exchanged after its time: %d", status)
	}
	if a.RefreshToken != "" {
		fresh, _ := ask(t, i, nil, "", "", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {a.RefreshToken}, "scope": query["scope"]})
		if got, err := i.Authenticate(request("Bearer " + fresh.Token)); fresh.Token != "" && (err != nil || len(got.Rights) > 0 || got.Admin) {
			t.Errorf("refreshed after its time: %+v, %v", got, err)
		}
	}
	// It is never for long.
	token, err = i.PullAuthorization(repo, time.Time{}, false)
	must(t, err)
	c.pass(pullMax + leeway)
	if got, err := i.Authenticate(request(token)); err == nil {
		t.Errorf("for ever: %+v", got)
	}
	for _, repo := range []string{"", "**", "team/**", "Team/x"} {
		if token, err := i.PullAuthorization(repo, time.Time{}, false); err == nil {
			t.Errorf("for %q: %s", repo, token)
		}
	}
	if err := checkUserName(ScannerName); err == nil {
		t.Errorf("a user may be called %s", ScannerName)
	}
}
