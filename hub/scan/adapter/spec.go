package adapter

import (
	"encoding/json"
	"mime"
	"slices"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// The API's media types. Those of requests are as of version 1.0, which all of
// its servers know.
const (
	typeMetadata = "application/vnd.scanner.adapter.metadata+json; version=1.0"
	typeRequest  = "application/vnd.scanner.adapter.scan.request+json; version=1.0"
	typeRequest2 = "application/vnd.scanner.adapter.scan.request+json; version=1.1" // with capabilities, in the API's 1.2
	typeResponse = "application/vnd.scanner.adapter.scan.response+json; version=1.0"

	typeReport1 = "application/vnd.scanner.adapter.vuln.report.harbor+json; version=1.0"
	typeReport  = "application/vnd.security.vulnerability.report; version=1.1"
	typeSBOM    = "application/vnd.security.sbom.report+json; version=1.0"
)

// reportTypes are those of reports that are read here, the better first.
var reportTypes = []string{typeReport, typeReport1}

// sameType says whether two media types are the same, however they are spelled.
func sameType(a, b string) bool {
	x, of, err := mime.ParseMediaType(a)
	y, with, err2 := mime.ParseMediaType(b)
	return err == nil && err2 == nil && x == y && of["version"] == with["version"]
}

// find returns how a list spells a media type; "" when it is not in it.
func find(list []string, mediaType string) string {
	i := slices.IndexFunc(list, func(s string) bool { return sameType(s, mediaType) })
	if i < 0 {
		return ""
	}
	return list[i]
}

// metadata is the answer to GET /metadata.
type metadata struct {
	Scanner      scannerInfo       `json:"scanner"`
	Capabilities []capability      `json:"capabilities"`
	Properties   map[string]string `json:"properties"`
}

type scannerInfo struct {
	Name    string `json:"name"`
	Vendor  string `json:"vendor"`
	Version string `json:"version"`
}

// Properties of a scanner that Harbor gives a meaning to.
const (
	propUpdated       = "harbor.scanner-adapter/vulnerability-database-updated-at"
	propAuthorization = "harbor.scanner-adapter/registry-authorization-type" // "Basic" or "Bearer"; Harbor's default is the first
)

// Types of capabilities. One without is of version 1.1 or before, and means
// vulnerabilities.
const (
	ofVulnerabilities = "vulnerability"
	ofSBOM            = "sbom"
)

type capability struct {
	Type       string     `json:"type,omitempty"`
	Consumes   []string   `json:"consumes_mime_types,omitempty"` // of manifests
	Produces   []string   `json:"produces_mime_types"`           // of reports
	Attributes *sbomTypes `json:"additional_attributes,omitempty"`
	Parameters *sbomTypes `json:"parameters,omitempty"` // of a request
}

type sbomTypes struct {
	Types []string `json:"sbom_media_types"`
}

// scanRequest is the body of POST /scan.
type scanRequest struct {
	Registry registry `json:"registry"`
	Artifact artifact `json:"artifact"`
	// Capabilities are for scanners that have typed ones.
	Capabilities []capability `json:"enabled_capabilities,omitempty"`
}

type registry struct {
	URL           string `json:"url"`
	Authorization string `json:"authorization,omitempty"`
}

type artifact struct {
	Repository string     `json:"repository"`
	Digest     oci.Digest `json:"digest"`
	MediaType  string     `json:"mime_type"`
}

// scanResponse is the answer to POST /scan.
type scanResponse struct {
	ID string `json:"id"`
}

// report is the answer to GET /scan/<id>/report, as far as it is read: of
// vulnerabilities, or an SBOM. Of vulnerabilities versions 1.0 and 1.1 differ in
// nothing that matters.
type report struct {
	Artifact        reportArtifact  `json:"artifact"`
	Scanner         scannerInfo     `json:"scanner"`
	Severity        string          `json:"severity"` // the worst
	Vulnerabilities *[]item         `json:"vulnerabilities"`
	MediaType       string          `json:"media_type"`
	SBOM            json.RawMessage `json:"sbom"`
}

type reportArtifact struct {
	Digest string `json:"digest"`
}

// item is a vulnerability.
type item struct {
	ID          string          `json:"id"`
	Package     string          `json:"package"`
	Version     string          `json:"version"`
	FixVersion  string          `json:"fix_version"`
	Severity    string          `json:"severity"`
	Description string          `json:"description"`
	Links       json.RawMessage `json:"links"`
	CVSS        json.RawMessage `json:"preferred_cvss"`
	Status      string          `json:"status"` // Trivy's, as is the next
	Layer       json.RawMessage `json:"layer"`
}

// errorResponse is what comes with a status that is no success.
type errorResponse struct {
	Error struct {
		Message string `json:"message"`
	} `json:"error"`
}
