package ociserver

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

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
		p.list, p.more, err = list(ctx, ask, asText(q.Query.Get("last")))
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

// asText is v with a replacement for each byte that is no text: databases do not
// take it, and nothing is called so.
func asText(v string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(v, "\x00", "\uFFFD"), "\uFFFD")
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

// maxReferrers and maxReferrersBytes bound a page of referrers. Clients refuse
// an index larger than a manifest may be, and annotations can be long.
const (
	maxReferrers      = 1000
	maxReferrersBytes = 3 << 20
)

// listReferrers serves GET /v2/<name>/referrers/<digest> ("Listing
// Referrers"). A list too long for one answer comes in pages, by digest, whose
// Link leads on; n, which the spec does not know here, asks for shorter ones.
func (s *Server) listReferrers(w *response, r *http.Request, q Request) error {
	artifactType := q.Query.Get("artifactType")
	list, err := within(s, w, r, func(ctx context.Context) ([]oci.Descriptor, error) {
		return s.reg.Referrers(ctx, q.Repo, q.Digest, asText(artifactType))
	}, nothing)
	if err != nil {
		return err
	}
	n, given, err := pageSize(q.Query)
	if err != nil {
		return err
	}
	if !given || n == 0 || n > maxReferrers {
		n = maxReferrers
	}
	list, more, err := referrersPage(list, n, q.Query.Get("last"))
	if err != nil {
		return err
	}
	if more {
		next := q.Query // all that was asked for holds for the next page
		next.Set("last", list[len(list)-1].Digest.String())
		w.Header().Set("Link", "</v2/"+q.PathRepo+"/referrers/"+q.Digest.String()+"?"+next.Encode()+`>; rel="next"`)
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

// referrersPage is what of a list follows last, up to n, and no more than fits
// an answer. A list that is one page stays in its order.
func referrersPage(list []oci.Descriptor, n int, last string) (page []oci.Descriptor, more bool, err error) {
	size, fits := 0, 0
	measure := func() error {
		for size, fits = 0, 0; fits < len(list) && fits < n; fits++ {
			b, err := json.Marshal(list[fits])
			if err != nil {
				return err
			}
			if size += len(b) + 1; size > maxReferrersBytes && fits > 0 {
				return nil
			}
		}
		return nil
	}
	if last == "" {
		if err := measure(); err != nil || fits == len(list) {
			return list, false, err
		}
	}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b oci.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	list = slices.DeleteFunc(list, func(d oci.Descriptor) bool { return d.Digest.String() <= last })
	if err := measure(); err != nil {
		return nil, false, err
	}
	return list[:fits], fits < len(list), nil
}
