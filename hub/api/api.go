// Package api is the hub's management API, /api/v1: handlers only, a file for
// each resource. Its OpenAPI 3.1 document is made from them and served at
// /api/v1/openapi.json.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/breakwater-oci/breakwater/hub/identity"
	"github.com/breakwater-oci/breakwater/hub/judge"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/scan"
	"github.com/breakwater-oci/breakwater/hub/scan/vulndb"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pulls"
)

// Options join the API to the hub's parts.
type Options struct {
	Version   string
	StartedAt time.Time
	Rows      *meta.Store
	Identity  *identity.Identity
	Pulls     *pulls.Log
	GC        Collector
	// Authenticate says who asks; an error refuses.
	Authenticate func(*http.Request) (oci.Caller, error)
	Filling      func() int
	Upstreams    func(context.Context) ([]hubapi.Upstream, error)
	Judge        *judge.Judge
	Scans        *scan.Service // nil: this hub does not scan
	// Vulnerabilities is the database that scans are matched against; nil: this
	// hub keeps none.
	Vulnerabilities *vulndb.DB
	// MayPull says whether the caller may pull that image.
	MayPull func(ctx context.Context, repo string, ref oci.Reference) (bool, error)
	// Reserved says whether a project's name is a proxy's.
	Reserved func(name string) bool
	Log      *slog.Logger
}

type server struct{ Options }

// New returns the handler of everything under /api/v1.
func New(o Options) http.Handler {
	mux := http.NewServeMux()
	cfg := huma.DefaultConfig("Breakwater hub", o.Version)
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath = "/api/v1/openapi", "", "/api/v1/schemas"
	cfg.Info.Description = "Management of a Breakwater hub. Images themselves are pushed and pulled by the OCI distribution API under /v2."
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"basic": {Type: "http", Scheme: "basic"},
	}
	cfg.Security = []map[string][]string{{"basic": {}}}
	api := humago.New(mux, cfg)
	s := &server{o}
	s.routes(api)
	return s.authenticate(mux)
}

// routes lists the whole API.
func (s *server) routes(api huma.API) {
	get(api, hubapi.PathWhoami, "whoami", "Who the caller is", s.whoami)
	get(api, hubapi.PathStatus, "status", "State of the hub and its upstreams", s.status)
	get(api, hubapi.PathPulls, "pulls", "Recent pulls, and where each blob came from", s.recentPulls)
	get(api, hubapi.PathProjects, "list-projects", "Projects by name", s.listProjects)
	huma.Register(api, huma.Operation{OperationID: "put-project", Method: http.MethodPut, Path: hubapi.PathProject, Summary: "Make a local project, or change what is given of one; of a proxy's, redirect alone"}, s.putProject)
	get(api, hubapi.PathRepositories, "list-repositories", "Repositories by name", s.listRepositories)
	get(api, hubapi.PathTags, "list-tags", "Tags of a repository", s.listTags)
	s.userRoutes(api)
	s.robotRoutes(api)
	s.trashRoutes(api)
	s.gcRoutes(api)
	s.policyRoutes(api)
	s.scanRoutes(api)
}

func get[I, O any](api huma.API, path, id, summary string, h func(context.Context, *I) (*O, error)) {
	huma.Register(api, huma.Operation{OperationID: id, Method: http.MethodGet, Path: path, Summary: summary}, h)
}

// authenticate puts the caller into the context of each request. Wrong
// credentials are refused even where none are needed, and so is a token made
// for images: a job that got one to pull with is not to manage the hub.
func (s *server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := s.Authenticate(r)
		if err == nil && caller.Scopes != nil {
			err = oci.Errorf(oci.Unauthorized, "a token is for images; the API takes a user name and password")
		}
		if err != nil {
			s.refuse(w, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(oci.WithCaller(r.Context(), caller)))
	})
}

// refuse answers who could not be told.
func (s *server) refuse(w http.ResponseWriter, err error) {
	e := &oci.Error{Code: oci.Unknown}
	if !errors.As(err, &e) && !errors.Is(err, context.Canceled) {
		s.Log.Error("caller not told", "err", err)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	if e.Code == oci.Unauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="breakwater"`)
	}
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(e.RetryAfter.Seconds())))
	}
	status := e.Code.Status()
	w.WriteHeader(status)
	p := huma.ErrorModel{Title: http.StatusText(status), Status: status, Detail: e.Text()}
	if err := json.NewEncoder(w).Encode(p); err != nil {
		s.Log.Debug("answer not sent", "err", err)
	}
}

// admin refuses callers who may not see or change the whole hub.
func admin(ctx context.Context) error {
	switch c := oci.CallerFrom(ctx); {
	case c.Anonymous():
		return huma.Error401Unauthorized("log in first: breakwater login HUB")
	case !c.Admin:
		return huma.Error403Forbidden("this is for administrators")
	}
	return nil
}

// fail turns what the stores say into an answer; the cause is only logged.
func (s *server) fail(err error) error {
	var e *oci.Error
	switch {
	case errors.Is(err, meta.ErrNotFound):
		return huma.Error404NotFound("there is no such thing")
	case errors.Is(err, meta.ErrOtherKind):
		return huma.Error409Conflict("the name is taken by a project of another kind")
	case errors.As(err, &e):
		return huma.NewError(e.Code.Status(), e.Text())
	}
	s.Log.Error("request failed", "err", err)
	return huma.Error500InternalServerError("internal error")
}
