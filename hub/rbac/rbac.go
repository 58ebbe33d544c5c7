// Package rbac says what a caller may do to a project's repositories. It is
// pure: who asks and what is known of the project are given to it.
package rbac

import (
	"slices"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Action is what a caller wants to do to a repository.
type Action string

// The actions, by the names that tokens give them.
const (
	Pull   Action = "pull"
	Push   Action = "push"
	Delete Action = "delete"
	List   Action = "list" // see its name in a list of repositories
)

// Project is what of a project decides. The zero value is a private one, and
// stands for one that is not there.
type Project struct {
	Public bool
}

// Rules are the hub's own, for all projects.
type Rules struct {
	// AnonymousPull lets everybody pull what is public. Without it, only those
	// do who said who they are.
	AnonymousPull bool
}

// Can says whether the caller may do action to the repository repo of project
// p: what it may by itself, if its token was not made for less. The repository
// "" stands for all that there are.
func (r Rules) Can(c oci.Caller, p Project, repo string, action Action) bool {
	return r.may(c, p, repo, action) && inScope(c.Scopes, repo, action)
}

// AnotherHelps says whether a caller that may not do action would be let with
// another token: it may by itself, or its token was made without a look at this
// repository, and so does not say what it may here.
func (r Rules) AnotherHelps(c oci.Caller, p Project, repo string, action Action) bool {
	return c.Scopes != nil && (!names(c.Scopes, repo) || r.may(c, p, repo, action))
}

// may is what the caller may, its token aside: as an admin, by a right of its
// own, or because anyone may.
func (r Rules) may(c oci.Caller, p Project, repo string, action Action) bool {
	if c.Admin || holds(c.Rights, repo, action) {
		return true
	}
	switch action {
	case Pull, List:
		return p.Public && (r.AnonymousPull || !c.Anonymous())
	}
	return false
}

// names says whether a token was asked for the repository.
func names(scopes []oci.Scope, repo string) bool {
	return slices.ContainsFunc(scopes, func(s oci.Scope) bool { return s.Type == "repository" && s.Name == repo })
}

// inScope says whether a token's scopes hold action; nil scopes hold all.
func inScope(scopes []oci.Scope, repo string, action Action) bool {
	if scopes == nil {
		return true
	}
	for _, s := range scopes {
		switch {
		case s.Type == "repository" && s.Name == repo:
			if slices.ContainsFunc(s.Actions, func(a string) bool { return implies(a, action) }) {
				return true
			}
		case s.Type == "registry" && s.Name == "catalog" && action == List:
			return true
		}
	}
	return false
}

// implies says whether a scope's action stands for the one asked for. Clients
// that delete ask for a token to push: nothing in the distribution-spec says
// which, and Docker's first registry wanted that.
func implies(scope string, action Action) bool {
	switch scope {
	case "*":
		return true
	case "pull":
		return action == Pull || action == List
	case "push":
		return action == Push || action == Delete
	case "delete":
		return action == Delete
	}
	return false
}
