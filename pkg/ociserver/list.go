package ociserver

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// maxPage is the largest page given: a client that asks for more is told
// where to go on.
const maxPage = 10_000

// names is a page of a list.
type names struct {
	list []string
	more bool
}

// listTags serves GET /v2/<name>/tags/list (distribution-spec v1.1, "Listing
// Tags").
func (s *Server) listTags(w *response, r *http.Request, q Request) error {
	tags, err := s.page(w, r, q, "/v2/"+q.PathRepo+"/tags/list", func(ctx context.Context, n int, last string) ([]string, bool, error) {
		return s.reg.Tags(ctx, q.Repo, n, last)
	})
	if err != nil {
		return err
	}
	return w.writeJSON("application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{q.PathRepo, tags})
}

// listRepositories serves GET /v2/_catalog, which the spec leaves to
// registries; this is docker's form.
func (s *Server) listRepositories(w *response, r *http.Request, q Request) error {
	repos, err := s.page(w, r, q, "/v2/_catalog", func(ctx context.Context, n int, last string) ([]string, bool, error) {
		return s.reg.Repositories(ctx, n, last)
	})
	if err != nil {
		return err
	}
	return w.writeJSON("application/json", struct {
		Repositories []string `json:"repositories"`
	}{repos})
}

// page asks for the page that n and last stand for, and sets Link when there
// is another. It never returns nil without an error.
func (s *Server) page(w *response, r *http.Request, q Request, path string, list func(ctx context.Context, n int, last string) ([]string, bool, error)) ([]string, error) {
	n, given, err := pageSize(q.Query)
	if err != nil {
		return nil, err
	}
	ask := n
	if given && n == 0 {
		ask = 1 // nothing is wanted, but what is not there shall be said
	}
	got, err := within(s, w, r, func(ctx context.Context) (p names, err error) {
		p.list, p.more, err = list(ctx, ask, q.Query.Get("last"))
		return p, err
	}, nothing)
	switch {
	case err != nil:
		return nil, err
	case given && n == 0, len(got.list) == 0:
		return []string{}, nil
	case got.more:
		next := url.Values{"last": {got.list[len(got.list)-1]}}
		if given {
			next.Set("n", strconv.Itoa(n))
		}
		if ns := q.Query.Get("ns"); ns != "" {
			next.Set("ns", ns)
		}
		w.Header().Set("Link", "<"+path+"?"+next.Encode()+`>; rel="next"`)
	}
	return got.list, nil
}

// pageSize reads n; 0 leaves it to the registry unless it was given.
func pageSize(query url.Values) (n int, given bool, err error) {
	v := query.Get("n")
	if v == "" {
		return 0, false, nil
	}
	big, ok := number(v)
	if !ok {
		return 0, false, oci.Errorf(oci.PageInvalid, "n is %.80q, want a number", v)
	}
	return int(min(big, maxPage)), true, nil
}

// listReferrers serves GET /v2/<name>/referrers/<digest> ("Listing
// Referrers").
func (s *Server) listReferrers(w *response, r *http.Request, q Request) error {
	artifactType := q.Query.Get("artifactType")
	list, err := within(s, w, r, func(ctx context.Context) ([]oci.Descriptor, error) {
		return s.reg.Referrers(ctx, q.Repo, q.Digest, artifactType)
	}, nothing)
	if err != nil {
		return err
	}
	if artifactType != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	ix := ocispec.Index{MediaType: oci.MediaTypeIndex, Manifests: list}
	ix.SchemaVersion = 2
	if list == nil {
		ix.Manifests = []oci.Descriptor{}
	}
	return w.writeJSON(oci.MediaTypeIndex, ix)
}
