package rbac

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// MaxRights is how many rights one subject may have: they travel in tokens, and
// tokens in headers.
const MaxRights = 64

// patternRE is a pattern over the letters of repository names.
var patternRE = regexp.MustCompile(`^[a-z0-9._/*?\[\]{},!^-]+$`)

// maxBraces bounds {a,b} in a pattern: each doubles the work of a match.
const maxBraces = 4

// CheckRights says what is wrong with rights that someone is to be given.
func CheckRights(rights []oci.Right) error {
	if len(rights) > MaxRights {
		return fmt.Errorf("%d rights are too many, at most %d are allowed: let a pattern cover several repositories", len(rights), MaxRights)
	}
	for _, r := range rights {
		if err := checkRight(r); err != nil {
			return err
		}
	}
	return nil
}

func checkRight(r oci.Right) error {
	p := r.Repository
	switch {
	case len(p) > oci.MaxNameLength:
		return fmt.Errorf("a repository pattern is %d bytes long, at most %d are allowed", len(p), oci.MaxNameLength)
	case !patternRE.MatchString(p), !doublestar.ValidatePattern(p), strings.Count(p, "{") > maxBraces:
		return fmt.Errorf("%q is not a repository pattern; want one like team/** or team/app", p)
	case strings.HasPrefix(p, "/"), strings.HasSuffix(p, "/"), strings.Contains(p, "//"):
		return fmt.Errorf("%q covers no repository: a name neither begins nor ends with /", p)
	case len(r.Actions) == 0:
		return fmt.Errorf("the right to %s has no actions; want some of pull, push, delete", p)
	}
	for _, a := range r.Actions {
		if !slices.Contains(Grantable, Action(a)) {
			return fmt.Errorf("%q is not an action; want some of pull, push, delete", a)
		}
	}
	return nil
}

// Grantable are the actions that a right can have, and what "*" in a scope
// stands for.
var Grantable = []Action{Pull, Push, Delete}

// holds says whether one of the rights is to do action to repo. Who may pull a
// repository may see its name.
func holds(rights []oci.Right, repo string, action Action) bool {
	if action == List {
		action = Pull
	}
	return slices.ContainsFunc(rights, func(r oci.Right) bool {
		return slices.Contains(r.Actions, string(action)) && covers(r.Repository, repo)
	})
}

// covers says whether a pattern matches a repository's whole name.
func covers(pattern, repo string) bool {
	if repo == "" { // a pattern that covers all, whatever they are called
		return pattern == "**"
	}
	ok, err := doublestar.Match(pattern, repo)
	return ok && err == nil
}

// Narrow is what of rights can matter to a token with these scopes: what it
// carries for who verifies it without looking the subject up.
func Narrow(rights []oci.Right, scopes []oci.Scope) []oci.Right {
	var kept []oci.Right
	for _, r := range rights {
		if slices.ContainsFunc(scopes, func(s oci.Scope) bool { return matters(r, s) }) {
			kept = append(kept, r)
		}
	}
	return kept
}

func matters(r oci.Right, s oci.Scope) bool {
	switch s.Type {
	case "repository":
		return covers(r.Repository, s.Name)
	case "registry":
		return slices.Contains(r.Actions, string(Pull)) // a list shows what can be pulled
	}
	return false
}

// Union is the rights of both, those of one pattern joined, in the order of
// patterns and actions. It changes neither.
func Union(a, b []oci.Right) []oci.Right {
	return normal(slices.Concat(a, b))
}

// Without is what is left of rights when others are taken away: the actions of
// the same pattern, word for word. What a wider pattern lets do remains.
func Without(rights, taken []oci.Right) []oci.Right {
	var left []oci.Right
	for _, r := range normal(rights) {
		actions := slices.DeleteFunc(slices.Clone(r.Actions), func(a string) bool {
			return slices.ContainsFunc(taken, func(t oci.Right) bool { return t.Repository == r.Repository && slices.Contains(t.Actions, a) })
		})
		if len(actions) > 0 {
			left = append(left, oci.Right{Repository: r.Repository, Actions: actions})
		}
	}
	return left
}

// normal has one right for each pattern, and each action once.
func normal(rights []oci.Right) []oci.Right {
	actions := make(map[string][]string)
	var patterns []string
	for _, r := range rights {
		if _, ok := actions[r.Repository]; !ok {
			patterns = append(patterns, r.Repository)
		}
		actions[r.Repository] = append(actions[r.Repository], r.Actions...)
	}
	slices.Sort(patterns)
	all := make([]oci.Right, 0, len(patterns))
	for _, p := range patterns {
		r := oci.Right{Repository: p}
		for _, a := range Grantable {
			if slices.Contains(actions[p], string(a)) {
				r.Actions = append(r.Actions, string(a))
			}
		}
		all = append(all, r)
	}
	return all
}
