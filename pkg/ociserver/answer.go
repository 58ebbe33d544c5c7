package ociserver

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// setAnswer says where an answer came from and for how long it holds.
func setAnswer(h http.Header, a oci.Answer) {
	if a.Source != "" {
		h.Set("Breakwater-Source", string(a.Source))
	}
	if a.Visibility != "" {
		h.Set("Breakwater-Visibility", string(a.Visibility))
	}
	if a.MaxAge > 0 || a.StaleIfError > 0 {
		h.Set("Age", seconds(a.Age))
		h.Set("Cache-Control", fmt.Sprintf("max-age=%s, stale-if-error=%s", seconds(a.MaxAge), seconds(a.StaleIfError)))
	}
	if a.Policy != "" {
		h.Set("X-Breakwater-Policy", a.Policy)
	}
	if a.Stale {
		h.Set("Warning", `299 - "served from cache: the upstream cannot answer"`)
	}
}

// seconds is d as the caching headers have it: whole seconds, not negative.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64(max(d, 0)/time.Second), 10)
}

// etag is the validator of content with a digest: a strong one.
func etag(d oci.Digest) string { return `"` + d.String() + `"` }

// location is where something of the request's repository can be found, as
// the client that asked names it.
func (s *Server) location(r *http.Request, q Request, path string) string {
	base, query := "", ""
	if s.o.BaseURL != nil {
		base = strings.TrimSuffix(s.o.BaseURL(r), "/")
	}
	if ns := q.Query.Get("ns"); ns != "" {
		query = "?" + url.Values{"ns": {ns}}.Encode()
	}
	return base + "/v2/" + q.PathRepo + path + query
}
