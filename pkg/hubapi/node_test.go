package hubapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/policy"
)

func TestNodePolicy(t *testing.T) {
	const sealed, etag = `{"sealed":true}`, `"e1"`
	has := true
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, _, _ := r.BasicAuth()
		switch {
		case r.Method != http.MethodGet || r.URL.Path != PathNodePolicy || user != "node":
			w.WriteHeader(http.StatusTeapot)
		case !has:
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"title":"Not Found","detail":"there is no policy"}`)
		case r.Header.Get("If-None-Match") == etag:
			w.WriteHeader(http.StatusNotModified)
		default:
			w.Header().Set("ETag", etag)
			_, _ = io.WriteString(w, sealed)
		}
	}))
	defer srv.Close()
	c := NewClient(srv.URL+"/", "node", "secret", nil)
	for _, tt := range []struct{ etag, body string }{{"", sealed}, {`"e0"`, sealed}, {etag, ""}} {
		body, got, err := c.NodePolicy(t.Context(), tt.etag)
		if err != nil || string(body) != tt.body || got != etag || (body == nil) != (tt.body == "") {
			t.Errorf("held %s: %q %s %v", tt.etag, body, got, err)
		}
	}
	has = false
	_, _, err := c.NodePolicy(t.Context(), etag)
	if e, ok := errors.AsType[*Error](err); !ok || e.Status != http.StatusNotFound || !strings.Contains(e.Detail, "no policy") {
		t.Errorf("without one: %v", err)
	}
}

// The names are the wire's: hub and nodes are not always of one release.
func TestNodeScanWire(t *testing.T) {
	var got map[string]any
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != PathNodeScan || json.NewDecoder(r.Body).Decode(&got) != nil {
			w.WriteHeader(http.StatusTeapot)
		}
		_, _ = io.WriteString(w, `{"scans":[{"digest":"sha256:a","platform":"linux/amd64","state":"pending","waitedMs":1500},{"digest":"sha256:b","state":"done","statement":{"x":1}}]}`)
	}))
	defer srv.Close()
	s, err := NewClient(srv.URL, "", "", nil).NodeScan(t.Context(), NodeScanRequest{Image: "docker.io/library/nginx", Digest: "sha256:i", Platforms: []string{"linux/amd64"}, WaitMS: 10_000})
	if err != nil || len(s.Scans) != 2 || s.Scans[0].State != policy.ScanPending || s.Scans[0].WaitedMS != 1500 || string(s.Scans[1].Statement) != `{"x":1}` {
		t.Errorf("%+v %v", s, err)
	}
	if got["image"] != "docker.io/library/nginx" || got["digest"] != "sha256:i" || got["waitMs"] != 10_000.0 || len(got["platforms"].([]any)) != 1 {
		t.Errorf("asked %v", got)
	}
}
