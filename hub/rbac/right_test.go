package rbac

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func right(pattern string, actions ...string) oci.Right {
	return oci.Right{Repository: pattern, Actions: actions}
}

func TestCheckRights(t *testing.T) {
	for _, tt := range []struct {
		right oci.Right
		ok    bool
	}{
		{right("team/**", "pull"), true},
		{right("team/app", "pull", "push", "delete"), true},
		{right("**", "pull"), true},
		{right("{a,b}/[a-c]*/?x", "push"), true},
		{right("", "pull"), false},
		{right("team/**"), false},
		{right("team/**", "*"), false},
		{right("team/**", "list"), false},
		{right("team/**", "pull", "fly"), false},
		{right("Team/**", "pull"), false},
		{right("/team", "pull"), false},
		{right("team/", "pull"), false},
		{right("team//app", "pull"), false},
		{right("team app", "pull"), false},
		{right("team\\/app", "pull"), false},
		{right("[team", "pull"), false},
		{right("{a,b}{a,b}{a,b}{a,b}{a,b}", "pull"), false},
		{right(strings.Repeat("a", 256), "pull"), false},
	} {
		if err := CheckRights([]oci.Right{tt.right}); (err == nil) != tt.ok {
			t.Errorf("%+v: %v, want it to be right: %v", tt.right, err, tt.ok)
		}
	}
	if CheckRights(make([]oci.Right, MaxRights+1)) == nil || CheckRights(nil) != nil {
		t.Error("too many are right, or none is wrong")
	}
}

// "" is all repositories: only a right to all of them covers it.
func TestRightToAll(t *testing.T) {
	for pattern, want := range map[string]bool{"**": true, "*": false, "": false, "team/**": false, "{,a}": false} {
		c := oci.Caller{Name: "ci", Rights: []oci.Right{right(pattern, "pull")}}
		if got := (Rules{}).Can(c, Project{}, "", List); got != want {
			t.Errorf("%q covers all: %v, want %v", pattern, got, want)
		}
	}
}

func TestNarrow(t *testing.T) {
	all := []oci.Right{right("team/**", "pull", "push"), right("other/app", "push"), right("**", "pull")}
	repo := func(name string) oci.Scope {
		return oci.Scope{Type: "repository", Name: name, Actions: []string{"pull"}}
	}
	for _, tt := range []struct {
		scopes []oci.Scope
		want   []oci.Right
	}{
		{nil, nil},
		{[]oci.Scope{repo("team/app")}, []oci.Right{all[0], all[2]}},
		{[]oci.Scope{repo("other/app")}, all[1:]},
		{[]oci.Scope{{Type: "registry", Name: "catalog"}}, []oci.Right{all[0], all[2]}},
		{[]oci.Scope{{Type: "plugin", Name: "team/app"}}, nil},
	} {
		if diff := cmp.Diff(tt.want, Narrow(all, tt.scopes)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.scopes, diff)
		}
	}
}

func TestUnionAndWithout(t *testing.T) {
	a := []oci.Right{right("team/**", "push"), right("a", "delete", "delete")}
	b := []oci.Right{right("team/**", "pull", "push")}
	want := []oci.Right{right("a", "delete"), right("team/**", "pull", "push")}
	if diff := cmp.Diff(want, Union(a, b)); diff != "" {
		t.Errorf("Union (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]oci.Right{right("team/**", "pull")}, Without(want, a)); diff != "" {
		t.Errorf("Without (-want +got):\n%s", diff)
	}
	if len(a[1].Actions) != 2 || len(b[0].Actions) != 2 {
		t.Errorf("what was given was changed: %v %v", a, b)
	}
}

// A right that is accepted decides quickly, never panics, and a token narrowed to
// a repository decides there as the whole rights do.
func FuzzRight(f *testing.F) {
	f.Add("team/**", "team/app", "pull")
	f.Add("{a,b}/*/[a-c]?", "a/x/by", "delete")
	f.Add("**/**/**/*x", "a/b/c/d/e", "push")
	f.Fuzz(func(t *testing.T, pattern, repo, action string) {
		rights := []oci.Right{right(pattern, action), right("other/**", "pull")}
		if CheckRights(rights) != nil || oci.CheckName(repo) != nil {
			return
		}
		scope := []oci.Scope{{Type: "repository", Name: repo, Actions: []string{"*"}}}
		for _, a := range slices.Concat(Grantable, []Action{List}) {
			whole := Rules{}.Can(oci.Caller{Name: "x", Rights: rights, Scopes: scope}, Project{}, repo, a)
			narrow := Rules{}.Can(oci.Caller{Name: "x", Rights: Narrow(rights, scope), Scopes: scope}, Project{}, repo, a)
			if whole != narrow {
				t.Errorf("%s of %s by %s: %v, and %v with the narrowed rights", a, repo, pattern, whole, narrow)
			}
		}
		if left := Without(Union(rights, nil), rights); len(left) != 0 {
			t.Errorf("all taken away, and %v is left", left)
		}
	})
}
