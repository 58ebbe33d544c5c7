package ociserver

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Kind is what a request is about: an endpoint of distribution-spec v1.1,
// "Endpoints". Metrics use it as a label.
type Kind string

// The kinds of requests.
const (
	Ping      Kind = "ping"      // /v2/ (end-1)
	Blob      Kind = "blob"      // /v2/<name>/blobs/<digest> (end-2, end-10)
	Manifest  Kind = "manifest"  // /v2/<name>/manifests/<reference> (end-3, end-7, end-9)
	Uploads   Kind = "uploads"   // /v2/<name>/blobs/uploads/ (end-4, end-11)
	Upload    Kind = "upload"    // /v2/<name>/blobs/uploads/<id> (end-5, end-6, end-13, end-14)
	Tags      Kind = "tags"      // /v2/<name>/tags/list (end-8)
	Referrers Kind = "referrers" // /v2/<name>/referrers/<digest> (end-12)
	Catalog   Kind = "catalog"   // /v2/_catalog
)

// Kinds lists all kinds, as the routes that httpx.NewMetrics wants to know.
func Kinds() []string {
	var all []string
	for k := range routes {
		all = append(all, string(k))
	}
	slices.Sort(all)
	return all
}

// Request is a request with its path read and checked. What is not part of its
// Kind is zero.
type Request struct {
	Kind   Kind
	Method string
	// Namespace is the registry that the client takes us for: what its image
	// references begin with. containerd says so with ?ns= to each mirror; ""
	// is unsaid.
	Namespace string
	// PathRepo is the repository as it stands in the path, Repo what the
	// registry is asked for: the same until Options.Name has mapped it.
	PathRepo, Repo string
	Ref            oci.Reference // Manifest
	Digest         oci.Digest    // Blob, Referrers
	UploadID       string        // Upload
	Query          url.Values
}

// Parse reads a request's path and namespace. With an error, the fields that
// could be read are set; Kind is "" when the path is no endpoint. It does not
// ask whether the endpoint has the method.
func Parse(r *http.Request) (Request, error) {
	q := Request{Method: r.Method, Query: r.URL.Query()}
	if q.Namespace = q.Query.Get("ns"); q.Namespace == "" {
		q.Namespace = r.Header.Get("OCI-Namespace")
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/v2")
	switch {
	case !ok:
		return q, notFound(r)
	case rest == "" || rest == "/":
		q.Kind = Ping
		return q, nil
	case rest == "/_catalog":
		q.Kind = Catalog
		return q, nil
	}
	// The last segments name the endpoint: what stands before them is the
	// repository, even where it holds words such as "blobs".
	rest, ok = strings.CutPrefix(rest, "/")
	if !ok {
		return q, notFound(r)
	}
	var last string
	for _, e := range []struct {
		kind   Kind
		suffix string // what follows the repository
		named  bool   // and one segment more
	}{
		{Tags, "/tags/list", false},
		{Uploads, "/blobs/uploads/", false},
		{Uploads, "/blobs/uploads", false},
		{Manifest, "/manifests", true},
		{Upload, "/blobs/uploads", true},
		{Blob, "/blobs", true},
		{Referrers, "/referrers", true},
	} {
		head := rest
		if e.named {
			i := strings.LastIndexByte(rest, '/')
			if i < 0 {
				continue
			}
			head, last = rest[:i], rest[i+1:]
		}
		if repo, ok := strings.CutSuffix(head, e.suffix); ok {
			q.Kind, q.PathRepo, q.Repo = e.kind, repo, repo
			break
		}
	}
	if q.Kind == "" {
		return q, notFound(r)
	}
	if err := oci.CheckName(q.PathRepo); err != nil {
		return q, err
	}
	return q, q.parseLast(last)
}

// parseLast reads the path's last segment.
func (q *Request) parseLast(last string) (err error) {
	switch q.Kind {
	case Manifest:
		q.Ref, err = oci.ParseReference(last)
		if oci.CodeOf(err) == oci.TagInvalid && q.Method != http.MethodPut {
			// What cannot be a tag names no manifest: the spec's tests want 404.
			err = &oci.Error{Code: oci.ManifestUnknown, Message: told(err).Text(), Err: err}
		}
	case Blob, Referrers:
		q.Digest, err = oci.ParseDigest(last)
	case Upload:
		if q.UploadID = last; asText(last) != last {
			err = &oci.Error{Code: oci.BlobUploadUnknown}
		}
	}
	return err
}

func notFound(r *http.Request) error {
	return oci.Errorf(oci.NameUnknown, "%.80q is no endpoint of the registry API", r.URL.Path)
}
