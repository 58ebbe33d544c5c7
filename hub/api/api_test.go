package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/judge"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/pkg/pulls"
	"github.com/breakwater-oci/breakwater/policy"
)

// newAPI serves the API; whoever gives the password "admin" is one, "user" is
// a user, and any other is refused.
func newAPI(t *testing.T) string {
	url, _ := newAPIOver(t)
	return url
}

// newAPIOver is newAPI, and what is behind it.
func newAPIOver(t *testing.T) (string, *meta.Store) {
	rows, err := meta.Open(t.Context(), meta.Config{Driver: "sqlite", DSN: filepath.Join(t.TempDir(), "hub.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rows.Close() })
	if err := rows.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(New(Options{
		Version: "test", StartedAt: time.Now(), Rows: rows, Pulls: pulls.New(10), Log: slog.New(slog.DiscardHandler),
		Authenticate: func(r *http.Request) (oci.Caller, error) {
			switch name, password, ok := r.BasicAuth(); {
			case !ok:
				return oci.Caller{}, nil
			case password == "admin", password == "user":
				return oci.Caller{Name: name, Admin: password == "admin"}, nil
			}
			return oci.Caller{}, &oci.Error{Code: oci.Unauthorized}
		},
		Filling:   func() int { return 0 },
		Upstreams: func(context.Context) ([]hubapi.Upstream, error) { return nil, nil },
		Reserved:  func(name string) bool { return name == "docker.io" },
		Judge:     newJudge(t, rows),
		MayPull:   func(context.Context, string, oci.Reference) (bool, error) { return false, nil },
	}))
	t.Cleanup(srv.Close)
	return srv.URL, rows
}

// newJudge judges what is in memory, by no policy.
func newJudge(t *testing.T, rows *meta.Store) *judge.Judge {
	t.Helper()
	j, err := judge.New(t.Context(), judge.Options{
		Rows: rows, Images: ocitest.NewMemory(),
		Subject: func(repo string, ref oci.Reference) (policy.Subject, error) {
			return policy.NewSubject("hub.test", repo, ref)
		},
		Repo: func(name string) (string, bool) { return strings.CutPrefix(name, "hub.test/") },
	})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// forUsers are what users may ask too: each decides by the image that is meant.
var forUsers = map[string]int{
	"post " + hubapi.PathJudge:   422, // the body is another's
	"get " + hubapi.PathDecision: 404,
	"get " + hubapi.PathScan:     200,
	"get " + hubapi.PathScans:    422, // no image is named
}

// Every path refuses strangers and users, but for whoami.
func TestRights(t *testing.T) {
	url := newAPI(t)
	var doc struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]any
	}
	res, err := http.Get(url + "/api/v1/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&doc); err != nil || !strings.HasPrefix(doc.OpenAPI, "3.1") || len(doc.Paths) < 7 {
		t.Fatalf("openapi %q, %d paths, %v", doc.OpenAPI, len(doc.Paths), err)
	}
	for path, methods := range doc.Paths {
		for method := range methods {
			for password, want := range map[string]int{"": 401, "user": 403, "wrong": 401} {
				if path == hubapi.PathWhoami && password != "wrong" {
					want = 200
				}
				if status, ok := forUsers[method+" "+path]; ok && password == "user" {
					want = status
				}
				req, err := http.NewRequestWithContext(t.Context(), strings.ToUpper(method),
					url+strings.NewReplacer("{name}", "team", "{id}", "d-1").Replace(path)+"?repository=a/b", strings.NewReader(`{"public":true}`))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", "application/json")
				if password != "" {
					req.SetBasicAuth("ann", password)
				}
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				res.Body.Close()
				if res.StatusCode != want {
					t.Errorf("%s %s as %q = %d, want %d", method, path, password, res.StatusCode, want)
				}
			}
		}
	}
}

// Only what is given of a project changes; of a proxy's, who may pull is not the
// API's to say.
func TestPutProject(t *testing.T) {
	url, rows := newAPIOver(t)
	c := hubapi.NewClient(url, "ann", "admin", nil)
	if _, err := rows.PutProject(t.Context(), meta.Project{Name: "docker.io", Kind: meta.Proxy, Source: meta.FromFile}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		spec     hubapi.ProjectSpec
		status   int // of a refusal
		public   bool
		redirect string
	}{
		{"team", hubapi.ProjectSpec{}, 0, false, ""},
		{"team", hubapi.ProjectSpec{Redirect: new("on")}, 0, false, "on"},
		{"team", hubapi.ProjectSpec{Public: new(true)}, 0, true, "on"},
		{"team", hubapi.ProjectSpec{Redirect: new("")}, 0, true, ""},
		{"team", hubapi.ProjectSpec{Redirect: new("maybe")}, 422, false, ""},
		{"docker.io", hubapi.ProjectSpec{Redirect: new("off")}, 0, false, "off"},
		{"docker.io", hubapi.ProjectSpec{Public: new(true), Redirect: new("on")}, 409, false, ""},
		{"docker.io", hubapi.ProjectSpec{}, 409, false, ""},
		{"a b", hubapi.ProjectSpec{}, 422, false, ""},
	} {
		p, err := c.PutProject(t.Context(), tt.name, tt.spec)
		if tt.status != 0 {
			if e, ok := errors.AsType[*hubapi.Error](err); !ok || e.Status != tt.status {
				t.Errorf("%s %+v: %v, want %d", tt.name, tt.spec, err, tt.status)
			}
			continue
		}
		if err != nil || p.Name != tt.name || p.Public != tt.public || p.Redirect != tt.redirect {
			t.Errorf("%s %+v: %+v, %v", tt.name, tt.spec, p, err)
		}
	}
}

// A list longer than a page is read to its end.
func TestPages(t *testing.T) {
	c := hubapi.NewClient(newAPI(t), "ann", "admin", nil)
	for i := range 250 {
		name := "p" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		if _, err := c.PutProject(t.Context(), name, hubapi.ProjectSpec{Public: new(i%2 == 0)}); err != nil {
			t.Fatal(err)
		}
	}
	all, err := c.Projects(t.Context())
	if err != nil || len(all) != 250 || all[0].Name != "paa" || !all[0].Public || all[1].Public {
		t.Errorf("%d projects, %v", len(all), err)
	}
}

func TestErrors(t *testing.T) {
	c := hubapi.NewClient(newAPI(t), "ann", "admin", nil)
	_, err := c.Tags(t.Context(), "no/such")
	if e, ok := errors.AsType[*hubapi.Error](err); !ok || e.Status != 404 {
		t.Errorf("tags of nothing: %v", err)
	}
	_, err = c.PutProject(t.Context(), "docker.io", hubapi.ProjectSpec{})
	if e, ok := errors.AsType[*hubapi.Error](err); !ok || e.Status != 409 || !strings.Contains(e.Detail, "proxy") {
		t.Errorf("a project like a proxy: %v", err)
	}
	_, err = c.Pulls(t.Context(), 100_000)
	if e, ok := errors.AsType[*hubapi.Error](err); !ok || e.Status != 422 || !strings.Contains(e.Detail, "500") {
		t.Errorf("too many pulls: %v", err)
	}
}
