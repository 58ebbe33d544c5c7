package identity

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

var teamRights = []oci.Right{{Repository: "team/**", Actions: []string{"pull", "push"}}}

func ptr[T any](v T) *T { return &v }

// newRobot makes the robot team+ci and returns its secret.
func newRobot(tb testing.TB, i *Identity, expires time.Time) string {
	tb.Helper()
	_, secret, err := i.CreateRobot(tb.Context(), "robot$team+ci", RobotChange{Rights: &teamRights, ExpiresAt: &expires}, "admin")
	must(tb, err)
	return secret
}

func TestRobotSignsIn(t *testing.T) {
	c := newClock()
	i := newIdentity(t, c)
	secret := newRobot(t, i, time.Time{})
	if !regexp.MustCompile(`^bwr_[a-z2-7]{26}$`).MatchString(secret) {
		t.Errorf("the secret is %s", secret)
	}
	stored, err := i.users.Robot(t.Context(), "team+ci")
	if err != nil || strings.Contains(stored.SecretHash, secret) || stored.CreatedBy != "admin" {
		t.Errorf("stored as %+v, %v", stored, err)
	}
	// A user may be called as a robot is, and have a password that looks like a secret.
	_, err = i.PutUser(t.Context(), "team+ci", UserChange{Password: ptr("bwr_password")})
	must(t, err)

	robot := oci.Caller{Name: "robot$team+ci", Rights: teamRights}
	for _, tt := range []struct {
		name, password string
		want           oci.Caller
		ok             bool
	}{
		{"robot$team+ci", secret, robot, true},
		{"team+ci", secret, robot, true},
		{"team+ci", "bwr_password", oci.Caller{Name: "team+ci"}, true},
		{"robot$team+ci", "bwr_password", oci.Caller{}, false},
		{"robot$team+ci", "", oci.Caller{}, false},
		{"robot$team+ci", secret + "x", oci.Caller{}, false},
		{"robot$team+ci", stored.SecretHash, oci.Caller{}, false},
		{"robot$robot$team+ci", secret, oci.Caller{}, false},
		{"robot$none", secret, oci.Caller{}, false},
		{"robot$", secret, oci.Caller{}, false},
		{"robot$Not a name", secret, oci.Caller{}, false},
		{"admin", secret, oci.Caller{}, false},
		{"robot$admin", adminPassword, oci.Caller{}, false},
	} {
		for range 2 { // looked up, and remembered
			got, err := i.Authenticate(basic(tt.name, tt.password))
			if diff := cmp.Diff(tt.want, got, addrs); diff != "" || (err == nil) != tt.ok {
				t.Errorf("%s: %v (-want +got)\n%s", tt.name, err, diff)
			}
			if !tt.ok && err.Error() != errPassword().Error() {
				t.Errorf("%s: %v says more than that it is wrong", tt.name, err)
			}
		}
	}
	must(t, i.users.Flush(t.Context()))
	if b, err := i.users.Robot(t.Context(), "team+ci"); err != nil || b.LastUsedAt.IsZero() {
		t.Errorf("its use was not noted: %+v, %v", b, err)
	}
}

// What a robot cannot do any more, it is told only when it shows its secret.
func TestRobotEnds(t *testing.T) {
	c := newClock()
	i := newIdentity(t, c)
	secret := newRobot(t, i, c.now().Add(10*time.Minute))
	try := func(want string) {
		t.Helper()
		_, err := i.Authenticate(basic("robot$team+ci", secret))
		if err == nil && want != "" || err != nil && (oci.CodeOf(err) != oci.Unauthorized || want == "" || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
		if _, err := i.Authenticate(basic("robot$team+ci", "bwr_guess")); err == nil || err.Error() != errPassword().Error() {
			t.Errorf("a guess: %v", err)
		}
	}
	change := func(rc RobotChange) {
		t.Helper()
		_, err := i.ChangeRobot(t.Context(), "team+ci", rc)
		must(t, err)
	}
	try("")
	change(RobotChange{Disabled: ptr(true)})
	try("is disabled")
	change(RobotChange{Disabled: ptr(false)})
	try("")
	c.pass(10*time.Minute - time.Second)
	try("")
	c.pass(time.Second) // remembered as right
	try("has expired")
	change(RobotChange{ExpiresAt: ptr(c.now().Add(time.Hour))})
	try("")
	change(RobotChange{ExpiresAt: &time.Time{}})
	c.pass(1000 * time.Hour)
	try("")
	old := secret
	_, fresh, err := i.RefreshRobot(t.Context(), "team+ci")
	must(t, err)
	try(errPassword().Error())
	secret = fresh
	try("")
	must(t, i.DeleteRobot(t.Context(), "robot$team+ci"))
	try(errPassword().Error())
	if old == fresh {
		t.Error("the new secret is the old one")
	}
}

// A token ends with its robot, but for the minute that each is good for.
func TestTokenEndsWithRobot(t *testing.T) {
	for left, want := range map[time.Duration]time.Duration{
		time.Hour: tokenTTL, 2 * time.Minute: 2 * time.Minute, 10 * time.Second: tokenMin,
	} {
		c := newClock()
		i := newIdentity(t, c)
		newRobot(t, i, c.now().Add(left))
		s, err := i.subject(t.Context(), "robot$team+ci")
		must(t, err)
		_, from, to, err := i.issue(s, nil)
		if err != nil || to.Sub(from) != want {
			t.Errorf("with %v left the token is good for %v, want %v; %v", left, to.Sub(from), want, err)
		}
	}
}

// What changes holds here at once and on other replicas when they are told,
// for those who sign in and for tokens that are out, access and refresh.
func TestChangeRevokes(t *testing.T) {
	c := newClock()
	i := newIdentity(t, c)
	two, err := New(i.users, Options{KeyFile: i.keys.path, Now: c.now}) // another replica
	must(t, err)
	told := 0
	i.told = func(context.Context) { told++; two.Forget() }

	password, secret := "", ""
	begin := map[string]func(){
		"kim": func() {
			password = "kim's own one"
			_, err := i.PutUser(t.Context(), "kim", UserChange{Password: &password, Admin: ptr(false), Disabled: ptr(false), Rights: &teamRights})
			must(t, err)
		},
		"robot$team+ci": func() { secret = newRobot(t, i, time.Time{}) },
	}
	credential := func(name string) *http.Request {
		if name == "kim" {
			return basic(name, password)
		}
		return basic(name, secret)
	}
	for _, tt := range []struct {
		what, name string
		change     func() error
		signsIn    bool // with the same credential
		keeps      bool // its tokens
	}{
		{"password", "kim", func() error { return i.SetPassword(t.Context(), "kim", "another one") }, false, false},
		{"rights", "kim", func() error { _, err := i.ChangeRights(t.Context(), "kim", nil, teamRights); return err }, true, false},
		{"admin", "kim", func() error { _, err := i.PutUser(t.Context(), "kim", UserChange{Admin: ptr(true)}); return err }, true, false},
		{"disabled", "kim", func() error {
			_, err := i.PutUser(t.Context(), "kim", UserChange{Disabled: ptr(true)})
			return err
		}, false, false},
		{"deleted", "kim", func() error { return i.DeleteUser(t.Context(), "kim") }, false, false},
		{"made anew", "kim", func() error {
			return errors.Join(i.DeleteUser(t.Context(), "kim"), func() error {
				_, err := i.PutUser(t.Context(), "kim", UserChange{Password: &password, Rights: &teamRights})
				return err
			}())
		}, true, false},
		{"another one's", "kim", func() error {
			_, err := i.PutUser(t.Context(), "other", UserChange{Password: ptr("long enough")})
			return err
		}, true, true},
		{"secret", "robot$team+ci", func() error { _, _, err := i.RefreshRobot(t.Context(), "team+ci"); return err }, false, false},
		{"rights", "robot$team+ci", func() error {
			_, err := i.ChangeRobot(t.Context(), "team+ci", RobotChange{Rights: &[]oci.Right{}})
			return err
		}, true, false},
		{"disabled", "robot$team+ci", func() error {
			_, err := i.ChangeRobot(t.Context(), "team+ci", RobotChange{Disabled: ptr(true)})
			return err
		}, false, false},
		{"description", "robot$team+ci", func() error {
			_, err := i.ChangeRobot(t.Context(), "team+ci", RobotChange{Description: ptr("x")})
			return err
		}, true, true},
		{"deleted", "robot$team+ci", func() error { return i.DeleteRobot(t.Context(), "team+ci") }, false, false},
	} {
		begin[tt.name]()
		c.pass(time.Hour)
		access := tokenFor(t, i, tt.name, oci.Scope{Type: "repository", Name: "team/app", Actions: []string{"pull"}})
		s, err := i.subject(t.Context(), tt.name)
		must(t, err)
		refresh, err := i.refreshToken(s)
		must(t, err)
		check := func(when string, signsIn, keeps bool) {
			t.Helper()
			for replica, x := range map[string]*Identity{"this replica": i, "another": two} {
				if _, err := x.Authenticate(credential(tt.name)); (err == nil) != signsIn {
					t.Errorf("%s of %s, %s: signing in at %s: %v, want %v", tt.what, tt.name, when, replica, err, signsIn)
				}
				got, err := x.Authenticate(request("Bearer " + access))
				if (err == nil) != keeps || err != nil && oci.CodeOf(err) != oci.Unauthorized {
					t.Errorf("%s of %s, %s: its token at %s: %v, want it good: %v", tt.what, tt.name, when, replica, err, keeps)
				}
				if keeps && cmp.Diff(got.Rights, teamRights) != "" {
					t.Errorf("the token carries the rights %v", got.Rights)
				}
				if _, err := x.byRefresh(t.Context(), refresh); (err == nil) != keeps || err != nil && oci.CodeOf(err) != oci.Unauthorized {
					t.Errorf("%s of %s, %s: its refresh token at %s: %v, want it good: %v", tt.what, tt.name, when, replica, err, keeps)
				}
			}
		}
		check("before", true, true)
		was := told
		must(t, tt.change())
		if told == was {
			t.Errorf("%s of %s: the other replicas were not told", tt.what, tt.name)
		}
		check("after", tt.signsIn, tt.keeps)
		if err := i.DeleteRobot(t.Context(), "team+ci"); err != nil && !errors.Is(err, meta.ErrNotFound) {
			t.Fatal(err)
		}
	}
}

// A replica that begins after a change was not told of it.
func TestTokenFromBeforeTheStart(t *testing.T) {
	c := newClock()
	i := newIdentity(t, c)
	newRobot(t, i, time.Time{})
	token := tokenFor(t, i, "robot$team+ci")
	must(t, i.DeleteRobot(t.Context(), "team+ci"))
	c.pass(time.Minute)
	late, err := New(i.users, Options{KeyFile: i.keys.path, Now: c.now})
	must(t, err)
	if _, err := late.verify(t.Context(), token); oci.CodeOf(err) != oci.Unauthorized {
		t.Errorf("%v, want %s", err, oci.Unauthorized)
	}
	// That nobody can be asked refuses, and blames nobody.
	must(t, i.users.Close())
	i.Forget()
	if _, err := i.verify(t.Context(), tokenFor(t, i, "")); err != nil {
		t.Errorf("an anonymous token needs a database: %v", err)
	}
	if _, err := i.verify(t.Context(), token); oci.CodeOf(err) != oci.Unavailable {
		t.Errorf("without a database: %v, want %s", err, oci.Unavailable)
	}
}

func TestNamesAndPasswords(t *testing.T) {
	i := newIdentity(t, newClock())
	ctx := t.Context()
	for _, tt := range []struct {
		what string
		err  func() error
	}{
		{"no name", func() error { _, err := i.PutUser(ctx, "", UserChange{Password: ptr("long enough")}); return err }},
		{"a colon", func() error { _, err := i.PutUser(ctx, "a:b", UserChange{Password: ptr("long enough")}); return err }},
		{"a robot's name", func() error {
			_, err := i.PutUser(ctx, "robot$a", UserChange{Password: ptr("long enough")})
			return err
		}},
		{"a space at the end", func() error { _, err := i.PutUser(ctx, "kim ", UserChange{Password: ptr("long enough")}); return err }},
		{"a new line", func() error { _, err := i.PutUser(ctx, "kim\n", UserChange{Password: ptr("long enough")}); return err }},
		{"a long name", func() error {
			_, err := i.PutUser(ctx, strings.Repeat("k", 129), UserChange{Password: ptr("long enough")})
			return err
		}},
		{"no password", func() error { _, err := i.PutUser(ctx, "kim", UserChange{}); return err }},
		{"a short password", func() error { _, err := i.PutUser(ctx, "kim", UserChange{Password: ptr("1234567")}); return err }},
		{"a long password", func() error {
			_, err := i.PutUser(ctx, "kim", UserChange{Password: ptr(strings.Repeat("x", 257))})
			return err
		}},
		{"a password with a tab", func() error { _, err := i.PutUser(ctx, "kim", UserChange{Password: ptr("long\tenough")}); return err }},
		{"a password that is no text", func() error { _, err := i.PutUser(ctx, "kim", UserChange{Password: ptr("long\xffenough")}); return err }},
		{"another short password", func() error { return i.SetPassword(ctx, "admin", "short") }},
		{"a user's rights", func() error {
			_, err := i.PutUser(ctx, "kim", UserChange{Password: ptr("long enough"), Rights: &[]oci.Right{{Repository: "team/**", Actions: []string{"fly"}}}})
			return err
		}},
		{"rights to give", func() error { _, err := i.ChangeRights(ctx, "admin", []oci.Right{{Repository: "["}}, nil); return err }},
		{"a robot's name", func() error { _, _, err := i.CreateRobot(ctx, "Team", RobotChange{}, ""); return err }},
		{"a robot's dollar", func() error { _, _, err := i.CreateRobot(ctx, "robot$robot$x", RobotChange{}, ""); return err }},
		{"a robot's rights", func() error {
			_, _, err := i.CreateRobot(ctx, "x", RobotChange{Rights: &[]oci.Right{{Repository: "x"}}}, "")
			return err
		}},
		{"a robot that has expired", func() error {
			_, _, err := i.CreateRobot(ctx, "x", RobotChange{ExpiresAt: ptr(i.now())}, "")
			return err
		}},
		{"a description", func() error {
			_, _, err := i.CreateRobot(ctx, "x", RobotChange{Description: ptr(strings.Repeat("x", 1001))}, "")
			return err
		}},
	} {
		if e := (*InvalidError)(nil); !errors.As(tt.err(), &e) {
			t.Errorf("%s: %v, want it refused as invalid", tt.what, tt.err())
		}
	}
	all, _, err := i.users.Users(ctx, 10, "")
	if err != nil || len(all) != 1 {
		t.Errorf("what was refused was stored: %v, %v", all, err)
	}
	if _, err := i.EnsureAdmin(ctx, "robot$admin", "x"); err == nil {
		t.Error("an admin is called as a robot")
	}
}

func TestLastAdmin(t *testing.T) {
	i := newIdentity(t, newClock())
	_, err := i.PutUser(t.Context(), "admin", UserChange{Admin: ptr(false)})
	if err2 := i.DeleteUser(t.Context(), "admin"); !errors.Is(err, meta.ErrLastAdmin) || !errors.Is(err2, meta.ErrLastAdmin) {
		t.Errorf("%v, %v, want ErrLastAdmin", err, err2)
	}
}

func TestChangeRights(t *testing.T) {
	i := newIdentity(t, newClock())
	_, err := i.PutUser(t.Context(), "kim", UserChange{Password: ptr("long enough"), Rights: &teamRights})
	must(t, err)
	u, err := i.ChangeRights(t.Context(), "kim", []oci.Right{{Repository: "b", Actions: []string{"pull"}}}, []oci.Right{{Repository: "team/**", Actions: []string{"push", "delete"}}})
	must(t, err)
	want := []oci.Right{{Repository: "b", Actions: []string{"pull"}}, {Repository: "team/**", Actions: []string{"pull"}}}
	if diff := cmp.Diff(want, u.Rights); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := i.ChangeRights(t.Context(), "none", nil, nil); !errors.Is(err, meta.ErrNotFound) {
		t.Errorf("of nobody: %v", err)
	}
}
