// Package adaptertest has, for tests, a scanner behind the Pluggable Image
// Vulnerability Scanning Open API: it fetches the manifest it is told of, and
// finds what the test wants.
package adaptertest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The API's media types.
const (
	TypeReport1 = "application/vnd.scanner.adapter.vuln.report.harbor+json; version=1.0"
	TypeReport  = "application/vnd.security.vulnerability.report; version=1.1"
	TypeSBOM    = "application/vnd.security.sbom.report+json; version=1.0"
	TypeOCI     = "application/vnd.oci.image.manifest.v1+json"
)

// Object is JSON.
type Object = map[string]any

// Server is the scanner. Its fields are set by [Server.Change] once it is used.
type Server struct {
	URL string // without /api/v1
	*httptest.Server

	// Metadata is what it says of itself.
	Metadata Object
	// Items are what it finds in each image; nil leaves the list out, as Trivy's
	// adapter does.
	Items []Object
	// Polls is how often a report is not there yet.
	Polls int
	// Pull has it fetch the manifest first, and fail when it cannot.
	Pull bool
	// Fault answers instead, by "GET /metadata", "POST /scan" or "GET /report".
	Fault map[string]http.HandlerFunc
	// Check looks at each request; what it returns is answered with 401.
	Check func(*http.Request) error

	mu    sync.Mutex
	scans []*Scan
}

// Scan is one that was asked for.
type Scan struct {
	ContentType string
	Registry    struct {
		URL           string `json:"url"`
		Authorization string `json:"authorization"`
	} `json:"registry"`
	Artifact struct {
		Repository string `json:"repository"`
		Digest     string `json:"digest"`
		MediaType  string `json:"mime_type"`
	} `json:"artifact"`
	Capabilities []Object `json:"enabled_capabilities"`
	Polled       []string // what was asked of its reports: media type, and that of an SBOM

	failed string
}

// Capability is what a scanner of version 1.0 and 1.1 can do.
func Capability(reports ...string) Object {
	return Object{"consumes_mime_types": []string{TypeOCI, "application/vnd.docker.distribution.manifest.v2+json"}, "produces_mime_types": reports}
}

// Typed is what one of version 1.2 can do.
func Typed(kind string, reports ...string) Object {
	c := Capability(reports...)
	c["type"] = kind
	return c
}

// Metadata of a scanner.
func Metadata(updated string, capabilities ...Object) Object {
	properties := Object{"harbor.scanner-adapter/scanner-type": "os-package-vulnerability"}
	if updated != "" {
		properties["harbor.scanner-adapter/vulnerability-database-updated-at"] = updated
	}
	return Object{"scanner": Object{"name": "Fake", "vendor": "Tests", "version": "1.2.3"}, "capabilities": capabilities, "properties": properties}
}

// Item is a vulnerability.
func Item(id, pkg, version, fix, severity string) Object {
	return Object{
		"id": id, "package": pkg, "version": version, "fix_version": fix, "severity": severity,
		"description": "what it does", "links": []string{"https://example.com/" + id},
	}
}

// New starts a scanner until the test ends.
func New(t testing.TB) *Server {
	s := Unstarted(t)
	s.Start()
	s.URL = s.Server.URL
	return s
}

// Unstarted is one that the caller starts, with TLS perhaps.
func Unstarted(t testing.TB) *Server {
	s := &Server{Metadata: Metadata("2026-01-02T03:04:05Z", Capability(TypeReport1, TypeReport)), Fault: make(map[string]http.HandlerFunc)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/metadata", s.faulty("GET /metadata", s.getMetadata))
	mux.HandleFunc("POST /api/v1/scan", s.faulty("POST /scan", s.postScan))
	mux.HandleFunc("GET /api/v1/scan/{id}/report", s.faulty("GET /report", s.getReport))
	s.Server = httptest.NewUnstartedServer(mux)
	t.Cleanup(s.Server.Close)
	return s
}

// Change changes the scanner while it may be in use.
func (s *Server) Change(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
}

// Scans are those that were asked for.
func (s *Server) Scans() []Scan {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Scan
	for _, one := range s.scans {
		c := *one
		c.Polled = slices.Clone(c.Polled)
		all = append(all, c)
	}
	return all
}

func (s *Server) faulty(name string, well http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		fault, check := s.Fault[name], s.Check
		s.mu.Unlock()
		if check != nil {
			if err := check(r); err != nil {
				Error(w, http.StatusUnauthorized, err.Error())
				return
			}
		}
		if fault != nil {
			fault(w, r)
			return
		}
		well(w, r)
	}
}

// Error answers as the API has it.
func Error(w http.ResponseWriter, status int, message string) {
	Answer(w, status, "application/vnd.scanner.adapter.error+json; version=1.0", Object{"error": Object{"message": message}})
}

// Answer answers with JSON.
func Answer(w http.ResponseWriter, status int, mediaType string, v any) {
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may have gone
}

func (s *Server) getMetadata(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	Answer(w, http.StatusOK, "application/vnd.scanner.adapter.metadata+json; version=1.0", s.Metadata)
}

func (s *Server) postScan(w http.ResponseWriter, r *http.Request) {
	one := &Scan{ContentType: r.Header.Get("Content-Type")}
	if err := json.NewDecoder(r.Body).Decode(one); err != nil {
		Error(w, http.StatusBadRequest, err.Error())
		return
	}
	if one.Registry.URL == "" || one.Artifact.Repository == "" || one.Artifact.Digest == "" || one.Artifact.MediaType == "" {
		Error(w, http.StatusUnprocessableEntity, "a field is missing")
		return
	}
	s.mu.Lock()
	pull := s.Pull
	s.mu.Unlock()
	if pull {
		if err := fetch(r.Context(), one); err != nil {
			one.failed = err.Error()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scans = append(s.scans, one)
	Answer(w, http.StatusAccepted, "application/vnd.scanner.adapter.scan.response+json; version=1.0", Object{"id": fmt.Sprintf("scan/%d", len(s.scans))})
}

// fetch reads the manifest, as a scanner does before all else.
func fetch(ctx context.Context, one *Scan) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, one.Registry.URL+"/v2/"+one.Artifact.Repository+"/manifests/"+one.Artifact.Digest, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", one.Artifact.MediaType)
	if one.Registry.Authorization != "" {
		req.Header.Set("Authorization", one.Registry.Authorization)
	}
	res, err := (&http.Client{Timeout: time.Minute}).Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the registry answers %s", res.Status)
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

func (s *Server) getReport(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n int
	if _, err := fmt.Sscanf(r.PathValue("id"), "scan/%d", &n); err != nil || n < 1 || n > len(s.scans) {
		Error(w, http.StatusNotFound, "no such scan")
		return
	}
	one := s.scans[n-1]
	accept, document := r.Header.Get("Accept"), r.URL.Query().Get("sbom_media_type")
	one.Polled = append(one.Polled, strings.TrimSpace(accept+" "+document))
	switch {
	case len(one.Polled) <= s.Polls:
		w.Header().Set("Location", r.URL.String())
		w.WriteHeader(http.StatusFound)
		return
	case one.failed != "":
		Error(w, http.StatusInternalServerError, one.failed)
		return
	}
	report := Object{"generated_at": "2026-01-02T03:04:05Z", "artifact": one.Artifact, "scanner": s.Metadata["scanner"]}
	switch accept {
	case TypeReport, TypeReport1:
		if s.Items != nil {
			report["vulnerabilities"] = s.Items
		}
	case TypeSBOM:
		report["media_type"], report["sbom"] = document, Object{"of": document}
	default:
		Error(w, http.StatusNotImplemented, "no such report")
		return
	}
	Answer(w, http.StatusOK, accept, report)
}
