package oci

import (
	"context"
	"net/netip"
)

// Caller is who asks, as the front door established it.
type Caller struct {
	Name  string // "" is anonymous
	Admin bool   // may do everything
	// Rights are what the caller may do by itself, beside what anyone may.
	Rights []Right
	// Scopes narrow what the caller's token may do; nil means not narrowed. One
	// without actions was asked for, and nothing of it was given.
	Scopes []Scope
	// Node names the node agent that asks on behalf of its node, "" for others. It
	// is the agent's own word: for people to read, and nothing is decided by it.
	Node string
	// Agent says that a node agent asks, by its own word too: it is told more of a
	// refusal, for its log.
	Agent bool
	// Runtime says that a container runtime asks: what it gets, it runs. It is
	// its own word, and so takes rights away but never gives one.
	Runtime bool
	// Addr is where the request came from, as far as trusted proxies say; the
	// zero Addr when it is not known.
	Addr netip.Addr
}

// Right lets a caller do things to the repositories that a pattern covers.
type Right struct {
	Repository string   `json:"repository"` // a doublestar pattern of whole names: "team/**"
	Actions    []string `json:"actions"`    // "pull", "push", "delete"
}

// Scope is one entry of a token's access list (Docker token authentication).
type Scope struct {
	Type    string   `json:"type"` // "repository", "registry"
	Name    string   `json:"name"`
	Actions []string `json:"actions"` // "pull", "push", "delete", "*"
}

// Anonymous says that nobody has said who they are.
func (c Caller) Anonymous() bool { return c.Name == "" }

type callerKey struct{}

// WithCaller returns ctx with the caller in it.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom is the caller in ctx; the anonymous one when there is none.
func CallerFrom(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}
