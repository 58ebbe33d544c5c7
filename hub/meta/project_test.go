package meta

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestProjects(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()

	if _, err := s.Project(ctx, "docker.io"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Project before it is there: %v, want ErrNotFound", err)
	}
	p, err := s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Public: true, Source: FromFile})
	must(t, err)
	want := Project{ID: p.ID, Name: "docker.io", Kind: Proxy, Public: true, Source: FromFile, CreatedAt: c.now()}
	if diff := cmp.Diff(want, p); diff != "" || p.ID == 0 {
		t.Errorf("PutProject (-want +got):\n%s", diff)
	}
	must(t, s.SetPublic(ctx, "docker.io", false))
	if p, err = s.Project(ctx, "docker.io"); err != nil || p.Public {
		t.Errorf("Project after SetPublic(false) = %+v, %v", p, err)
	}
	again, err := s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Public: true, Source: FromFile})
	if err != nil || again.ID != p.ID || !again.Public {
		t.Errorf("PutProject again = %+v, %v; want the same row, public", again, err)
	}
	if _, err := s.PutProject(ctx, Project{Name: "docker.io", Kind: Local, Source: FromAPI}); !errors.Is(err, ErrConflict) {
		t.Errorf("PutProject with the other kind: %v, want ErrConflict", err)
	}
	if err := s.SetPublic(ctx, "none", true); !errors.Is(err, ErrNotFound) {
		t.Errorf("SetPublic of none: %v, want ErrNotFound", err)
	}

	must(t, second(s.EnsureRepo(ctx, "team/app", Local)))
	if p, err := s.Project(ctx, "team"); err != nil || p.Source != FromPush || p.Public {
		t.Errorf("the project a push made: %+v, %v", p, err)
	}
	all, more, err := s.Projects(ctx, 1, "")
	if err != nil || len(all) != 1 || all[0].Name != "docker.io" || !more {
		t.Errorf("Projects(1) = %v, %v, %v", all, more, err)
	}
	all, more, err = s.Projects(ctx, 1, "docker.io")
	if err != nil || len(all) != 1 || all[0].Name != "team" || more {
		t.Errorf("Projects(1, docker.io) = %v, %v, %v", all, more, err)
	}
}

// Only what is given changes, of both kinds, and a restart with the same
// configuration undoes none of it.
func TestChangeProject(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	yes, no, on, off, standard := true, false, RedirectOn, RedirectOff, RedirectDefault
	for _, tt := range []struct {
		change   ProjectChange
		public   bool
		redirect Redirect
	}{
		{ProjectChange{}, false, RedirectDefault}, // makes it
		{ProjectChange{Redirect: &off}, false, RedirectOff},
		{ProjectChange{Public: &yes}, true, RedirectOff},
		{ProjectChange{}, true, RedirectOff},
		{ProjectChange{Redirect: &standard}, true, RedirectDefault},
		{ProjectChange{Public: &no, Redirect: &on}, false, RedirectOn},
	} {
		p, err := s.ChangeProject(ctx, "team", tt.change)
		want := Project{ID: p.ID, Name: "team", Kind: Local, Public: tt.public, Redirect: tt.redirect, Source: FromAPI, CreatedAt: c.now()}
		if diff := cmp.Diff(want, p); diff != "" || err != nil {
			t.Errorf("%+v: %v (-want +got):\n%s", tt.change, err, diff)
		}
	}

	proxied := Project{Name: "docker.io", Kind: Proxy, Source: FromFile}
	must(t, second(s.PutProject(ctx, proxied)))
	if _, err := s.ChangeProject(ctx, "docker.io", ProjectChange{Public: &yes}); !errors.Is(err, ErrConflict) {
		t.Errorf("ChangeProject of a proxy's: %v, want ErrConflict", err)
	}
	must(t, second(s.SetRedirect(ctx, "docker.io", RedirectOff)))
	proxied.Public = true
	if p, err := s.PutProject(ctx, proxied); err != nil || p.Redirect != RedirectOff || !p.Public || p.Source != FromFile {
		t.Errorf("a proxy's project after a restart: %+v, %v", p, err)
	}
	if _, err := s.SetRedirect(ctx, "none", RedirectOn); !errors.Is(err, ErrNotFound) {
		t.Errorf("SetRedirect of none: %v, want ErrNotFound", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestEnsureRepo(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	must(t, second(s.PutProject(ctx, Project{Name: "ghcr.io", Kind: Proxy, Public: true, Source: FromFile})))

	r, err := s.EnsureRepo(ctx, "ghcr.io/a/b", Proxy)
	if err != nil || r.Kind != Proxy || !r.Public || r.Visibility != "" {
		t.Errorf("EnsureRepo = %+v, %v", r, err)
	}
	again, err := s.EnsureRepo(ctx, "ghcr.io/a/b", Proxy)
	if err != nil || again.RepoID != r.RepoID {
		t.Errorf("EnsureRepo again = %+v, %v; want id %d", again, err, r.RepoID)
	}
	must(t, second(s.EnsureRepo(ctx, "team", Local))) // a repository may be called as its project
	for _, tt := range []struct {
		name string
		kind Kind
		want error
	}{
		{"ghcr.io/a/b", Local, ErrConflict},
		{"ghcr.io/new", Local, ErrConflict},
		{"team/new", Proxy, ErrConflict},
		{"quay.io/new", Proxy, ErrNotFound},
	} {
		if _, err := s.EnsureRepo(ctx, tt.name, tt.kind); !errors.Is(err, tt.want) {
			t.Errorf("EnsureRepo(%s, %s): %v, want %v", tt.name, tt.kind, err, tt.want)
		}
	}

	must(t, s.SetVisibility(ctx, r.RepoID, oci.Private))
	r, err = s.Repo(ctx, "ghcr.io/a/b")
	if err != nil || r.Visibility != oci.Private || r.VisibilityAt.IsZero() {
		t.Errorf("Repo after SetVisibility = %+v, %v", r, err)
	}
	if _, err := s.Repo(ctx, "ghcr.io/a/c"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Repo that is not there: %v, want ErrNotFound", err)
	}
}

func TestPlaces(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	must(t, second(s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Public: true, Source: FromFile})))
	r, err := s.EnsureRepo(ctx, "docker.io/x", Proxy)
	must(t, err)
	must(t, s.SetVisibility(ctx, r.RepoID, oci.Public))
	must(t, second(s.EnsureRepo(ctx, "team/app", Local)))
	must(t, second(s.EnsureRepo(ctx, "team/other", Local)))
	got, err := s.Places(ctx, []string{"docker.io/x", "team/app", "none"})
	must(t, err)
	if x := got["docker.io/x"]; len(got) != 2 || x.Kind != Proxy || !x.Public || x.Visibility != oci.Public || got["team/app"].Kind != Local {
		t.Errorf("Places = %+v", got)
	}
	if got, err := s.Places(ctx, nil); err != nil || len(got) > 0 {
		t.Errorf("Places of none = %v, %v", got, err)
	}
}

func TestRepositories(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	must(t, second(s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Source: FromFile})))
	for _, repo := range []string{"team/b", "team/a", "other/x"} {
		must(t, s.PutManifest(ctx, image(repo, "v1")))
	}
	must(t, s.PutProxied(ctx, image("docker.io/library/nginx", "v1")))
	must(t, second(s.EnsureRepo(ctx, "team/empty", Local)))

	for _, tt := range []struct {
		f    RepoFilter
		n    int
		last string
		want []string
		more bool
	}{
		{RepoFilter{}, 10, "", []string{"docker.io/library/nginx", "other/x", "team/a", "team/b"}, false},
		{RepoFilter{}, 4, "", []string{"docker.io/library/nginx", "other/x", "team/a", "team/b"}, false},
		{RepoFilter{}, 3, "", []string{"docker.io/library/nginx", "other/x", "team/a"}, true},
		{RepoFilter{}, 3, "team/a", []string{"team/b"}, false},
		{RepoFilter{Kind: Local}, 2, "", []string{"other/x", "team/a"}, true},
		{RepoFilter{Project: "team"}, 9, "", []string{"team/a", "team/b"}, false},
		{RepoFilter{Project: "none"}, 9, "", nil, false},
	} {
		got, more, err := s.Repositories(ctx, tt.f, tt.n, tt.last)
		if diff := cmp.Diff(tt.want, got); diff != "" || more != tt.more || err != nil {
			t.Errorf("Repositories(%v, %d, %q): more %v, err %v (-want +got):\n%s", tt.f, tt.n, tt.last, more, err, diff)
		}
	}
}
