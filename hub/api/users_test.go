package api

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/hub/identity"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

const rootPassword = "correct horse"

// people is the API with users and robots who really sign in.
type people struct {
	t    *testing.T
	url  string
	root *hubapi.Client
	id   *identity.Identity
	log  *bytes.Buffer
}

func newPeople(t *testing.T) *people {
	dir := t.TempDir()
	rows, err := meta.Open(t.Context(), meta.Config{Driver: "sqlite", DSN: filepath.Join(dir, "hub.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rows.Close() })
	p := &people{t: t, log: &bytes.Buffer{}}
	log := slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	p.must(rows.Migrate(t.Context()))
	p.id, err = identity.New(rows, identity.Options{KeyFile: filepath.Join(dir, "keys"), Log: log})
	p.must(err)
	_, err = p.id.EnsureAdmin(t.Context(), "root", rootPassword)
	p.must(err)
	srv := httptest.NewServer(New(Options{Version: "test", Rows: rows, Judge: newJudge(t, rows), Identity: p.id, Authenticate: p.id.Authenticate, Log: log}))
	t.Cleanup(srv.Close)
	p.url, p.root = srv.URL, hubapi.NewClient(srv.URL, "root", rootPassword, nil)
	return p
}

func (p *people) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *people) as(name, password string) *hubapi.Client {
	return hubapi.NewClient(p.url, name, password, nil)
}

// status is what an error was answered with; 200 for none.
func status(err error) int {
	if e, ok := errors.AsType[*hubapi.Error](err); ok {
		return e.Status
	}
	if err != nil {
		return -1
	}
	return 200
}

var teamRights = []oci.Right{{Repository: "team/**", Actions: []string{"pull", "push"}}}

func TestUsers(t *testing.T) {
	p := newPeople(t)
	ctx := t.Context()
	yes := true

	kim, err := p.root.PutUser(ctx, "kim", hubapi.UserSpec{Password: "kim's password", Rights: &teamRights})
	p.must(err)
	want := hubapi.User{Name: "kim", Rights: teamRights, CreatedAt: kim.CreatedAt}
	if diff := cmp.Diff(want, kim); diff != "" {
		t.Errorf("PutUser (-want +got):\n%s", diff)
	}
	if got, err := p.root.User(ctx, "kim"); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("User = %+v, %v", got, err)
	}
	who, err := p.as("kim", "kim's password").Whoami(ctx)
	if err != nil || who.Name != "kim" || who.Admin || cmp.Diff(teamRights, who.Rights) != "" {
		t.Errorf("Whoami = %+v, %v", who, err)
	}
	kim, err = p.root.ChangeRights(ctx, "kim", hubapi.RightsSpec{Grant: []oci.Right{{Repository: "a", Actions: []string{"pull"}}}, Revoke: teamRights})
	if err != nil || len(kim.Rights) != 1 || kim.Rights[0].Repository != "a" {
		t.Errorf("ChangeRights = %+v, %v", kim, err)
	}
	all, err := p.root.Users(ctx)
	if err != nil || len(all) != 2 || all[0].Name != "kim" || all[1].Name != "root" || !all[1].Admin {
		t.Errorf("Users = %+v, %v", all, err)
	}

	// A user changes its own password, and nobody else's nor anything more.
	asKim := p.as("kim", "kim's password")
	for what, tt := range map[string]struct {
		err  error
		want int
	}{
		"another's password": {asKim.SetPassword(ctx, "root", "kim was here"), 403},
		"own rights":         {second(asKim.PutUser(ctx, "kim", hubapi.UserSpec{Admin: &yes})), 403},
		"own rights more":    {second(asKim.ChangeRights(ctx, "kim", hubapi.RightsSpec{Grant: teamRights})), 403},
		"another user":       {second(asKim.PutUser(ctx, "friend", hubapi.UserSpec{Password: "long enough"})), 403},
		"a short password":   {asKim.SetPassword(ctx, "kim", "short"), 422},
		"a user of no name":  {second(p.root.PutUser(ctx, "a b", hubapi.UserSpec{Password: "long enough"})), 422},
		"no password":        {second(p.root.PutUser(ctx, "new", hubapi.UserSpec{})), 422},
		"a wrong right": {second(p.root.PutUser(ctx, "kim", hubapi.UserSpec{Rights: &[]oci.Right{{Repository: "[", Actions: []string{"pull"}}}})),
			422},
		"nobody's password": {p.root.SetPassword(ctx, "none", "long enough"), 404},
		"nobody's rights":   {second(p.root.ChangeRights(ctx, "none", hubapi.RightsSpec{})), 404},
		"nobody":            {second(p.root.User(ctx, "none")), 404},
		"nobody's end":      {p.root.DeleteUser(ctx, "none"), 404},
		"the last admin":    {p.root.DeleteUser(ctx, "root"), 409},
		"its own end":       {second(p.root.PutUser(ctx, "root", hubapi.UserSpec{Disabled: &yes})), 409},
	} {
		if got := status(tt.err); got != tt.want {
			t.Errorf("%s: %v, want status %d", what, tt.err, tt.want)
		}
	}
	p.must(asKim.SetPassword(ctx, "kim", "kim's other one"))
	if _, err := asKim.Whoami(ctx); status(err) != 401 {
		t.Errorf("the old password: %v", err)
	}
	asKim = p.as("kim", "kim's other one")
	p.must(second(asKim.Whoami(ctx)))
	p.must(p.root.DeleteUser(ctx, "kim"))
	if _, err := asKim.Whoami(ctx); status(err) != 401 {
		t.Errorf("a user that is gone: %v", err)
	}
	p.secretsAreNotLogged("kim's password", "kim's other one", rootPassword)
}

func second[T any](_ T, err error) error { return err }

func (p *people) secretsAreNotLogged(secrets ...string) {
	p.t.Helper()
	for _, s := range secrets {
		if strings.Contains(p.log.String(), s) {
			p.t.Errorf("the log holds %q:\n%s", s, p.log)
		}
	}
	if !strings.Contains(p.log.String(), "by=root") {
		p.t.Errorf("the log does not say who changed what:\n%s", p.log)
	}
}

func TestRobots(t *testing.T) {
	p := newPeople(t)
	ctx := t.Context()
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)

	ci, err := p.root.CreateRobot(ctx, hubapi.RobotSpec{Name: "robot$team+ci", Description: "builds", Rights: teamRights, ExpiresAt: &end})
	p.must(err)
	want := hubapi.Robot{Name: "team+ci", Login: "robot$team+ci", Description: "builds", Rights: teamRights, CreatedBy: "root", CreatedAt: ci.CreatedAt, ExpiresAt: &end}
	if diff := cmp.Diff(want, ci.Robot); diff != "" || !strings.HasPrefix(ci.Secret, "bwr_") {
		t.Errorf("CreateRobot: secret %q (-want +got):\n%s", ci.Secret, diff)
	}
	for _, name := range []string{"team+ci", "robot$team+ci"} {
		if got, err := p.root.Robot(ctx, name); err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("Robot(%s) = %+v, %v", name, got, err)
		}
	}
	asRobot := p.as(ci.Login, ci.Secret)
	if who, err := asRobot.Whoami(ctx); err != nil || who.Name != "robot$team+ci" || cmp.Diff(teamRights, who.Rights) != "" {
		t.Errorf("Whoami = %+v, %v", who, err)
	}
	// What is not given stays.
	yes, never := true, time.Time{}
	got, err := p.root.PatchRobot(ctx, "team+ci", hubapi.RobotPatch{Disabled: &yes})
	want.Disabled = true
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("PatchRobot: %v (-want +got):\n%s", err, diff)
	}
	if _, err := asRobot.Whoami(ctx); status(err) != 401 || !strings.Contains(err.Error(), "disabled") {
		t.Errorf("a disabled robot: %v", err)
	}
	no, other := false, "pulls"
	got, err = p.root.PatchRobot(ctx, "team+ci", hubapi.RobotPatch{Disabled: &no, Description: &other, Rights: &[]oci.Right{}, ExpiresAt: &never})
	want.Disabled, want.Description, want.Rights, want.ExpiresAt = false, other, []oci.Right{}, nil
	want.LastUsedAt = got.LastUsedAt
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("PatchRobot: %v (-want +got):\n%s", err, diff)
	}
	fresh, err := p.root.RefreshRobot(ctx, "team+ci")
	if err != nil || fresh.Secret == ci.Secret || status(second(asRobot.Whoami(ctx))) != 401 || second(p.as(ci.Login, fresh.Secret).Whoami(ctx)) != nil {
		t.Errorf("RefreshRobot: %v; want the new secret to do, and the old one not", err)
	}
	for what, tt := range map[string]struct {
		err  error
		want int
	}{
		"a second one":       {second(p.root.CreateRobot(ctx, hubapi.RobotSpec{Name: "team+ci"})), 409},
		"a wrong name":       {second(p.root.CreateRobot(ctx, hubapi.RobotSpec{Name: "Team"})), 422},
		"a wrong right":      {second(p.root.PatchRobot(ctx, "team+ci", hubapi.RobotPatch{Rights: &[]oci.Right{{Repository: "x"}}})), 422},
		"one of the past":    {second(p.root.CreateRobot(ctx, hubapi.RobotSpec{Name: "x", ExpiresAt: &ci.CreatedAt})), 422},
		"nobody":             {second(p.root.Robot(ctx, "none")), 404},
		"nobody's change":    {second(p.root.PatchRobot(ctx, "none", hubapi.RobotPatch{})), 404},
		"nobody's secret":    {second(p.root.RefreshRobot(ctx, "none")), 404},
		"nobody's end":       {p.root.DeleteRobot(ctx, "none"), 404},
		"robots for a robot": {second(p.as(ci.Login, fresh.Secret).Robots(ctx)), 403},
		"a robot's password": {p.as(ci.Login, fresh.Secret).SetPassword(ctx, ci.Login, "long enough"), 404},
	} {
		if got := status(tt.err); got != tt.want {
			t.Errorf("%s: %v, want status %d", what, tt.err, tt.want)
		}
	}
	p.must(p.root.DeleteRobot(ctx, "robot$team+ci"))
	if all, err := p.root.Robots(ctx); err != nil || len(all) != 0 {
		t.Errorf("Robots = %v, %v", all, err)
	}
	p.secretsAreNotLogged(ci.Secret, fresh.Secret)
}

// A token that an admin's job pulls with does not manage the hub.
func TestTokensAreForImages(t *testing.T) {
	p := newPeople(t)
	r := httptest.NewRequest("GET", "/service/token", nil)
	r.SetBasicAuth("root", rootPassword)
	w := httptest.NewRecorder()
	p.id.TokenHandler(nil).ServeHTTP(w, r)
	_, token, _ := strings.Cut(w.Body.String(), `"token":"`)
	token, _, _ = strings.Cut(token, `"`)
	for _, path := range []string{hubapi.PathUsers, hubapi.PathWhoami} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", p.url+path, nil)
		p.must(err)
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := http.DefaultClient.Do(req)
		p.must(err)
		res.Body.Close()
		if token == "" || res.StatusCode != 401 || res.Header.Get("WWW-Authenticate") != `Basic realm="breakwater"` {
			t.Errorf("%s with a token %q = %d", path, token, res.StatusCode)
		}
	}
}
