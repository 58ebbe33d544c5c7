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

	of := func(pattern string, actions ...string) oci.Caller {
		return oci.Caller{Name: "robot$ci", Rights: []oci.Right{{Repository: pattern, Actions: actions}}}
	}

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
		{"right to pull", of("team/**", "pull"), "pL", "pL"},
		{"right to push alone", of("team/**", "push"), "P", "pPL"},
		{"right to delete alone", of(x, "delete"), "D", "pDL"},
		{"right to all", of("team/*", "pull", "push", "delete"), "pPDL", "pPDL"},
		{"right to another", of("team/y", "pull", "push"), "", "pL"},
		{"right to a name that begins so", of("team", "pull"), "", "pL"},
		{"right to everything", of("**", "pull", "push"), "pPL", "pPL"},
		{"right to single words", of("*", "pull", "push"), "", "pL"},
		{"two rights", oci.Caller{Name: "robot$ci", Rights: []oci.Right{{Repository: "team/**", Actions: []string{"pull"}}, {Repository: x, Actions: []string{"push"}}}}, "pPL", "pPL"},
		{"right, token for less", with(of("team/**", "pull", "push"), repo(x, "pull")), "pL", "pL"},
		{"right, token for more", with(of("team/**", "pull"), repo(x, "*")), "pL", "pL"},
		{"right to push, token to push: no deleting", with(of("team/**", "pull", "push"), repo(x, "pull", "push")), "pPL", "pPL"},
		{"right to delete, token to push", with(of("team/**", "push", "delete"), repo(x, "push")), "PD", "PD"},
		{"right, token asked in vain", with(of("team/**", "pull"), repo(x)), "", ""},
		{"right, token for the catalog", with(of("team/**", "pull"), catalog), "L", "L"},
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
}

func TestAnotherTokenHelps(t *testing.T) {
	rights := []oci.Right{{Repository: "team/*", Actions: []string{"pull"}}}
	repo := func(name string, actions ...string) oci.Scope {
		return oci.Scope{Type: "repository", Name: name, Actions: actions}
	}
	for _, tt := range []struct {
		name   string
		c      oci.Caller
		action Action
		want   bool
	}{
		{"no token", oci.Caller{Name: "kim"}, Push, false},
		{"an admin's to pull", oci.Caller{Name: "a", Admin: true, Scopes: []oci.Scope{repo("team/x", "pull")}}, Push, true},
		{"for another, of whom nobody knows", oci.Caller{Name: "kim", Scopes: []oci.Scope{repo("team/y", "pull")}}, Push, true},
		{"for nothing", oci.Caller{Name: "kim", Scopes: []oci.Scope{}}, Pull, true},
		{"asked for in vain", oci.Caller{Name: "kim", Scopes: []oci.Scope{repo("team/x")}}, Pull, false},
		{"a right, and a token that leaves it out", oci.Caller{Name: "kim", Rights: rights, Scopes: []oci.Scope{repo("team/x")}}, Pull, true},
		{"a right to something else", oci.Caller{Name: "kim", Rights: rights, Scopes: []oci.Scope{repo("team/x", "pull")}}, Push, false},
	} {
		if got := (Rules{}).AnotherHelps(tt.c, Project{}, "team/x", tt.action); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
