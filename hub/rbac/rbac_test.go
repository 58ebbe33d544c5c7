package rbac

import (
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestCan(t *testing.T) {
	nobody := oci.Caller{}
	user := oci.Caller{Name: "kim"}
	admin := oci.Caller{Name: "admin", Admin: true}
	with := func(c oci.Caller, scopes ...oci.Scope) oci.Caller {
		c.Scopes = append([]oci.Scope{}, scopes...) // never nil: a token for nothing
		return c
	}
	repo := func(name string, actions ...string) oci.Scope {
		return oci.Scope{Type: "repository", Name: name, Actions: actions}
	}
	catalog := oci.Scope{Type: "registry", Name: "catalog", Actions: []string{"*"}}
	const x = "team/x"

	for _, tt := range []struct {
		name    string
		c       oci.Caller
		private string // what may be done to a private project's x, a letter each: pull Push Delete List
		public  string // and to a public one's
	}{
		{"anonymous", nobody, "", "pL"},
		{"user", user, "", "pL"},
		{"admin", admin, "pPDL", "pPDL"},
		{"admin, token for nothing", with(admin), "", ""},
		{"admin, token to pull", with(admin, repo(x, "pull")), "pL", "pL"},
		{"admin, token to push", with(admin, repo(x, "push", "pull")), "pPDL", "pPDL"},
		{"admin, token to delete", with(admin, repo(x, "delete")), "D", "D"},
		{"admin, token for all", with(admin, repo(x, "*")), "pPDL", "pPDL"},
		{"admin, token for another", with(admin, repo("team/y", "*"), repo("team/xx", "*"), repo("team", "*")), "", ""},
		{"admin, second scope", with(admin, repo(x, "pull"), repo(x, "push")), "pPDL", "pPDL"},
		{"admin, token for the catalog", with(admin, catalog), "L", "L"},
		{"admin, not a repository", with(admin, oci.Scope{Type: "registry", Name: x, Actions: []string{"*"}}), "", ""},
		{"anonymous, token to pull", with(nobody, repo(x, "pull")), "", "pL"},
		{"anonymous, token for all", with(nobody, repo(x, "*")), "", "pL"},
		{"anonymous, token for the catalog", with(nobody, catalog), "", "L"},
		{"user, token to push", with(user, repo(x, "push")), "", ""},
	} {
		for public, want := range map[bool]string{false: tt.private, true: tt.public} {
			got := ""
			for _, a := range []struct {
				action Action
				letter string
			}{{Pull, "p"}, {Push, "P"}, {Delete, "D"}, {List, "L"}} {
				if (Rules{AnonymousPull: true}).Can(tt.c, Project{Public: public}, x, a.action) {
					got += a.letter
				}
			}
			if got != want {
				t.Errorf("%s, public %v: may %q, want %q", tt.name, public, got, want)
			}
		}
	}

	closed := Rules{}
	if closed.Can(nobody, Project{Public: true}, x, Pull) || !closed.Can(user, Project{Public: true}, x, Pull) {
		t.Error("without anonymous pulls, only those who said who they are pull what is public")
	}
	if (Rules{}).Can(admin, Project{}, x, "fly") != true || (Rules{AnonymousPull: true}).Can(user, Project{Public: true}, x, "fly") {
		t.Error("an action nobody knows is the admin's alone")
	}
	narrow := with(admin, repo(x, "pull"))
	if !closed.CanUnscoped(narrow, Project{}, Push) || closed.CanUnscoped(user, Project{}, Push) {
		t.Error("CanUnscoped is not what the caller may by itself")
	}
}
