package hub

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/breakwater-oci/breakwater/hub/gate"
	"github.com/breakwater-oci/breakwater/hub/identity"
	"github.com/breakwater-oci/breakwater/hub/rbac"
	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
)

// frontDoor joins identity and rights to the registry's protocol: who asks,
// what an answer of 401 says, and what a token is given for.
type frontDoor struct {
	identity *identity.Identity
	gate     *gate.Access
	name     func(ns, repo string) (string, error)
	external string // base URL, "" for what the request says
	forward  httpx.Forwarded
}

// authenticate puts the caller into a request's context.
func (d *frontDoor) authenticate(r *http.Request) (context.Context, error) {
	c, err := d.identity.Authenticate(r)
	if err != nil {
		return nil, err
	}
	c.Addr, c.Runtime, c.Agent, c.Node = d.forward.ClientIP(r), runtime(r.UserAgent()), isAgent(r), node(r)
	return oci.WithCaller(r.Context(), c), nil
}

// agent is what the User-Agent of our agents begins with.
const agent = "breakwater-node/"

// runtimes are what the User-Agent of who pulls images to run them begins with:
// containerd, CRI-O, and our agents, which pull for containerd.
var runtimes = []string{"containerd/", "cri-o", agent}

// isAgent says that a node agent asks, by its name or, where a proxy on the way
// gives another, by its header.
func isAgent(r *http.Request) bool {
	return strings.HasPrefix(r.UserAgent(), agent) || r.Header.Get(hubapi.NodeHeader) != ""
}

// node is what an agent calls itself, "" for who is none.
func node(r *http.Request) string {
	name := r.Header.Get(hubapi.NodeHeader)
	if !strings.HasPrefix(r.UserAgent(), agent) || !hubapi.IsNodeName(name) {
		return ""
	}
	return name
}

func runtime(userAgent string) bool {
	return slices.ContainsFunc(runtimes, func(s string) bool { return strings.HasPrefix(strings.ToLower(userAgent), s) })
}

// ping answers GET /v2/: a client that means to log in finds out how.
func (d *frontDoor) ping(r *http.Request) error {
	ctx, err := d.authenticate(r)
	if err == nil && oci.CallerFrom(ctx).Anonymous() {
		err = &oci.Error{Code: oci.Unauthorized}
	}
	return err
}

// base is the hub's URL as the client knows it.
func (d *frontDoor) base(r *http.Request) string {
	if d.external != "" {
		return d.external
	}
	return d.forward.BaseURL(r)
}

// challenge asks for a token that would do for the request.
func (d *frontDoor) challenge(r *http.Request, q ociserver.Request) string {
	switch q.Kind {
	case ociserver.Ping:
		return identity.Challenge(d.base(r))
	case ociserver.Catalog:
		return identity.Challenge(d.base(r), oci.Scope{Type: "registry", Name: "catalog", Actions: []string{"*"}})
	}
	scope := oci.Scope{Type: "repository", Name: q.PathRepo, Actions: []string{string(rbac.Pull)}}
	upload := q.Kind == ociserver.Uploads || q.Kind == ociserver.Upload
	switch {
	case !upload && (r.Method == http.MethodGet || r.Method == http.MethodHead):
	case !upload && r.Method == http.MethodDelete:
		scope.Actions = []string{string(rbac.Delete)}
	default:
		scope.Actions = append(scope.Actions, string(rbac.Push))
	}
	scopes := []oci.Scope{scope}
	if from := r.URL.Query().Get("from"); q.Kind == ociserver.Uploads && oci.CheckName(from) == nil {
		scopes = append(scopes, oci.Scope{Type: "repository", Name: from, Actions: []string{string(rbac.Pull)}})
	}
	return identity.Challenge(d.base(r), scopes...)
}

// grant is what of a scope a caller is given a token for. A client names
// repositories as it does, a token as the hub does.
func (d *frontDoor) grant(ctx context.Context, c oci.Caller, s oci.Scope) (oci.Scope, error) {
	if s.Type == "repository" {
		if name, err := d.name("", s.Name); err == nil { // else the gate finds no repository of that name
			s.Name = name
		}
	}
	actions, err := d.gate.Grant(ctx, c, s)
	s.Actions = actions
	return s, err
}
