package adapter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/hub/scan"
	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
)

// About implements [scan.Scanner]. That a scanner makes no report that is read
// here is an error.
func (a *Adapter) About(ctx context.Context) (scan.About, error) {
	m, err := a.metadata(ctx)
	if err != nil {
		return scan.About{}, err
	}
	about := scan.About{Where: a.o.URL, Name: m.Scanner.String()}
	if at, err := time.Parse(time.RFC3339, m.Properties[propUpdated]); err == nil { // else it does not say
		about.Updated = at.UTC()
	}
	return about, nil
}

// String is a scanner's name and version for people.
func (s scannerInfo) String() string {
	return line(strings.TrimSpace(s.Name+" "+s.Version), 100)
}

func (a *Adapter) metadata(ctx context.Context) (m metadata, err error) {
	_, body, err := a.do(ctx, call{method: http.MethodGet, path: "/metadata", accept: typeMetadata, want: http.StatusOK, maxBytes: maxMetadata})
	if err != nil {
		return m, err
	}
	if err := decode("GET "+a.base+"/metadata", body, &m); err != nil {
		return m, err
	}
	if m.Scanner.Name == "" {
		return m, fmt.Errorf("GET %s/metadata: the answer names no scanner", a.base)
	}
	for _, c := range m.Capabilities {
		if c.vulnerabilities() != "" {
			return m, nil
		}
	}
	return m, fmt.Errorf("%s makes none of the reports that are read here: %s", m.Scanner, strings.Join(reportTypes, ", "))
}

// vulnerabilities is the best type of report on them that c makes; "" for none.
func (c capability) vulnerabilities() string {
	if c.Type != "" && c.Type != ofVulnerabilities {
		return ""
	}
	for _, t := range reportTypes {
		if is := find(c.Produces, t); is != "" {
			return is
		}
	}
	return ""
}

// documents are those of the wanted that c makes, and the type of report they
// come in.
func (c capability) documents(wanted []string) (reportType string, can []string) {
	if c.Type != ofSBOM || c.Attributes == nil {
		return "", nil
	}
	if reportType = find(c.Produces, typeSBOM); reportType == "" {
		return "", nil
	}
	for _, t := range wanted {
		if slices.Contains(c.Attributes.Types, t) {
			can = append(can, t)
		}
	}
	return reportType, can
}

// plan is what a scanner is asked for.
type plan struct {
	report       string // type of the report on vulnerabilities
	sbom         string // type of the report with a document
	documents    []string
	capabilities []capability
	request      string // type of the request
}

// planFor says what to ask of a scanner for an image. Failed: it does not look
// into such.
func planFor(m metadata, img scan.Task) (p plan, err error) {
	typed := false
	for _, c := range m.Capabilities {
		typed = typed || c.Type != ""
		if find(c.Consumes, img.Manifest.MediaType) == "" {
			continue
		}
		if t := c.vulnerabilities(); t != "" && p.report == "" {
			p.report = t
			p.capabilities = append(p.capabilities, capability{Type: ofVulnerabilities, Produces: []string{t}})
		}
		if t, can := c.documents(img.Documents); len(can) > 0 && p.sbom == "" {
			p.sbom, p.documents = t, can
			p.capabilities = append(p.capabilities, capability{Type: ofSBOM, Produces: []string{t}, Parameters: &sbomTypes{Types: can}})
		}
	}
	if p.report == "" {
		return p, &scanproto.Failed{
			Reason: scanproto.ReasonUnscannable, Message: fmt.Sprintf("%s does not look into images of type %s", m.Scanner, img.Manifest.MediaType),
		}
	}
	p.request = typeRequest2
	if !typed { // before 1.2 a request had no capabilities
		p.request, p.capabilities, p.documents = typeRequest, nil, nil
	}
	return p, nil
}

// documentsWait is how long documents are waited for once there is a report: an
// image has its findings without them.
const documentsWait = 2 * time.Minute

// Scan implements [scan.Scanner].
func (a *Adapter) Scan(ctx context.Context, img scan.Task) (found scan.Found, err error) {
	m, err := a.metadata(ctx)
	if err != nil {
		return found, err
	}
	p, err := planFor(m, img)
	if err != nil {
		return found, err
	}
	id, err := a.submit(ctx, m, p, img)
	if err != nil {
		return found, err
	}
	r, err := a.report(ctx, id, p.report, "", img)
	if err != nil {
		return found, err
	}
	if found.Findings, err = r.findings(img); err != nil {
		return found, err
	}
	wait, cancel := context.WithTimeout(ctx, documentsWait)
	defer cancel()
	for _, t := range p.documents {
		body, err := a.document(wait, id, p.sbom, t, img)
		if err != nil {
			a.o.Log.Warn("a scanner has made no SBOM", "repo", img.Repo, "digest", img.Manifest.Digest, "type", t, "err", err)
			continue
		}
		if found.Documents == nil {
			found.Documents = make(map[string][]byte)
		}
		found.Documents[t] = body
	}
	return found, nil
}

// submit has the scanner begin, and returns its name for that.
func (a *Adapter) submit(ctx context.Context, m metadata, p plan, img scan.Task) (id string, err error) {
	req := scanRequest{
		Registry:     registry{URL: a.o.RegistryURL},
		Artifact:     artifact{Repository: img.Repo, Digest: img.Manifest.Digest, MediaType: img.Manifest.MediaType},
		Capabilities: p.capabilities,
	}
	if a.o.Authorization != nil {
		may := Pull{Repo: img.Repo, Basic: !strings.EqualFold(m.Properties[propAuthorization], "Bearer")}
		may.Until, _ = ctx.Deadline() // none: the zero time
		if req.Registry.Authorization, err = a.o.Authorization(ctx, may); err != nil {
			return "", fmt.Errorf("authorization of the scanner: %w", err)
		}
	}
	body, err := json.Marshal(req)
	if err != nil {
		return "", err
	}
	_, body, err = a.patiently(ctx, call{
		method: http.MethodPost, path: "/scan", accept: typeResponse, contentType: p.request, body: body,
		want: http.StatusAccepted, maxBytes: maxResponse,
	})
	if statusOf(err) == http.StatusNotImplemented {
		return "", &scanproto.Failed{Reason: scanproto.ReasonUnscannable, Message: fmt.Sprintf("%s: %v", m.Scanner, err)}
	}
	if err != nil {
		return "", err
	}
	var res scanResponse
	if err := decode("POST "+a.base+"/scan", body, &res); err != nil {
		return "", err
	}
	if res.ID == "" || len(res.ID) > 1000 {
		return "", fmt.Errorf("POST %s/scan: the answer has no id", a.base)
	}
	return res.ID, nil
}

// report asks for a report until it is there, and checks that it is on img.
func (a *Adapter) report(ctx context.Context, id, mediaType, document string, img scan.Task) (r report, err error) {
	c := call{
		method: http.MethodGet, path: "/scan/" + url.PathEscape(id) + "/report", accept: mediaType,
		want: http.StatusOK, maxBytes: maxReport,
	}
	what := "GET " + a.base + c.path
	if document != "" {
		c.query = url.Values{"sbom_media_type": {document}}.Encode()
	}
	contentType, body, err := a.patiently(ctx, c)
	if err != nil {
		return r, err
	}
	if !sameType(contentType, mediaType) {
		return r, fmt.Errorf("%s: the answer is of type %q, not %q", what, line(contentType, 100), mediaType)
	}
	if err := decode(what, body, &r); err != nil {
		return r, err
	}
	return r, r.isOf(img)
}

// maxMisses is how often in a row a scanner may be out of reach.
const maxMisses = 5

// patiently makes a call until it has an answer that will not be another one in
// a while.
func (a *Adapter) patiently(ctx context.Context, c call) (contentType string, body []byte, err error) {
	wait, misses := a.pollMin, 0
	for {
		contentType, body, err := a.do(ctx, c)
		e, answered := errors.AsType[*statusError](err)
		rest := wait
		switch {
		case err == nil, ctx.Err() != nil:
			return contentType, body, err
		case answered && e.status == http.StatusFound && c.method == http.MethodGet: // there is no report yet
			rest, misses = e.wait(wait), 0
		case answered && !e.passing(), !answered && c.method != http.MethodGet: // it may have begun
			return "", nil, err
		default:
			if misses++; misses == maxMisses {
				return "", nil, fmt.Errorf("out of reach %d times: %w", misses, err)
			}
			if answered {
				rest = e.wait(wait)
			}
		}
		if pause(ctx, rest) != nil {
			return "", nil, fmt.Errorf("the last answer was: %w", err)
		}
		wait = min(2*wait, a.pollMax)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// document asks for an SBOM.
func (a *Adapter) document(ctx context.Context, id, mediaType, document string, img scan.Task) ([]byte, error) {
	r, err := a.report(ctx, id, mediaType, document, img)
	if err != nil {
		return nil, err
	}
	if r.MediaType != "" && r.MediaType != document {
		return nil, fmt.Errorf("the report has an SBOM of type %q", line(r.MediaType, 100))
	}
	body := []byte(r.SBOM)
	if len(body) > 0 && body[0] == '"' { // some have the text of one
		var text string
		if err := json.Unmarshal(body, &text); err != nil {
			return nil, err
		}
		body = []byte(text)
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err != nil || len(object) == 0 {
		return nil, errors.New("the report has no SBOM")
	}
	return body, nil
}
