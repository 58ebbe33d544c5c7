package adapter

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/hub/scan"
	"github.com/breakwater-oci/breakwater/hub/scan/adapter/adaptertest"
	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

const repo = "team/app"

var (
	image = oci.FromBytes([]byte("image"))
	task  = scan.Task{Repo: repo, Manifest: oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: image, Size: 5}}
)

// newAdapter is one that is not patient.
func newAdapter(t *testing.T, s *adaptertest.Server, change func(*Options)) *Adapter {
	t.Helper()
	o := Options{URL: s.URL, RegistryURL: "https://hub.example:5000/"}
	if change != nil {
		change(&o)
	}
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	a.pollMin, a.pollMax = time.Millisecond, 2*time.Millisecond
	return a
}

func TestScan(t *testing.T) {
	both := []string{adaptertest.TypeReport, adaptertest.TypeReport1}
	sbom := adaptertest.Typed("sbom", adaptertest.TypeSBOM)
	sbom["additional_attributes"] = adaptertest.Object{"sbom_media_types": []string{scan.TypeSPDX, "text/x-other"}}
	for _, tt := range []struct {
		name         string
		capabilities []adaptertest.Object
		contentType  string
		polled       []string
		enabled      string // JSON
		documents    []string
	}{
		{"1.0", []adaptertest.Object{adaptertest.Capability(adaptertest.TypeReport1, "application/vnd.scanner.adapter.vuln.report.raw")}, typeRequest, both[1:], "null", nil},
		{"1.1", []adaptertest.Object{adaptertest.Capability(both[1], both[0])}, typeRequest, both[:1], "null", nil},
		{"1.1, other things before", []adaptertest.Object{{"consumes_mime_types": []string{"text/plain"}, "produces_mime_types": both}, adaptertest.Capability(both...)}, typeRequest, both[:1], "null", nil},
		{"1.2", []adaptertest.Object{adaptertest.Typed("vulnerability", both...)}, typeRequest2, both[:1],
			`[{"produces_mime_types":["` + adaptertest.TypeReport + `"],"type":"vulnerability"}]`, nil},
		{"1.2 with SBOM", []adaptertest.Object{sbom, adaptertest.Typed("vulnerability", both...)}, typeRequest2, []string{both[0], adaptertest.TypeSBOM + " " + scan.TypeSPDX},
			`[{"parameters":{"sbom_media_types":["` + scan.TypeSPDX + `"]},"produces_mime_types":["` + adaptertest.TypeSBOM + `"],"type":"sbom"},` +
				`{"produces_mime_types":["` + adaptertest.TypeReport + `"],"type":"vulnerability"}]`, []string{scan.TypeSPDX}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := adaptertest.New(t)
			s.Metadata = adaptertest.Metadata("", tt.capabilities...)
			s.Items = []adaptertest.Object{adaptertest.Item("CVE-2026-1", "bash", "5.0", "5.1", "High")}
			a := newAdapter(t, s, nil)
			img := task
			img.Documents = []string{scan.TypeSPDX, scan.TypeCycloneDX}
			found, err := a.Scan(t.Context(), img)
			if err != nil {
				t.Fatal(err)
			}
			want := []match.Finding{{
				Vuln:  policy.Vuln{ID: "CVE-2026-1", Package: "bash", Installed: "5.0", Fixed: "5.1", Severity: policy.High},
				Title: "what it does", URL: "https://example.com/CVE-2026-1",
			}}
			if diff := cmp.Diff(want, found.Findings); diff != "" {
				t.Error(diff)
			}
			var documents []string
			for mediaType, body := range found.Documents {
				if documents = append(documents, mediaType); string(body) != `{"of":"`+mediaType+`"}` {
					t.Errorf("document %s: %s", mediaType, body)
				}
			}
			if !slices.Equal(documents, tt.documents) {
				t.Errorf("documents %v, want %v", documents, tt.documents)
			}
			asked := s.Scans()[0]
			enabled, err := json.Marshal(asked.Capabilities)
			if err != nil || string(enabled) != tt.enabled || asked.ContentType != tt.contentType || !slices.Equal(asked.Polled, tt.polled) {
				t.Errorf("asked %+v, %s, %v; want %s, %v, %s", asked, enabled, err, tt.contentType, tt.polled, tt.enabled)
			}
			if asked.Registry.URL != "https://hub.example:5000" || asked.Registry.Authorization != "" ||
				asked.Artifact.Repository != repo || asked.Artifact.Digest != image.String() || asked.Artifact.MediaType != oci.MediaTypeImage {
				t.Errorf("asked %+v", asked)
			}
		})
	}
}

func TestAbout(t *testing.T) {
	s := adaptertest.New(t)
	a := newAdapter(t, s, func(o *Options) { o.URL += "/api/v1/" }) // as it stands in some scanners' manuals
	about, err := a.About(t.Context())
	if want := (scan.About{Where: s.URL + apiPath, Name: "Fake 1.2.3", Updated: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}); err != nil || about != want {
		t.Errorf("about %+v, %v, want %+v", about, err, want)
	}
	for name, tt := range map[string]struct {
		metadata adaptertest.Object
		want     string // of the error; "" for none
	}{
		"no time of the database": {adaptertest.Metadata("yesterday", adaptertest.Capability(adaptertest.TypeReport)), ""},
		"no capability":           {adaptertest.Metadata(""), "none of the reports"},
		"raw reports only":        {adaptertest.Metadata("", adaptertest.Capability("application/vnd.scanner.adapter.vuln.report.raw")), "none of the reports"},
		"SBOMs only":              {adaptertest.Metadata("", adaptertest.Typed("sbom", adaptertest.TypeSBOM, adaptertest.TypeReport)), "none of the reports"},
		"a later version only":    {adaptertest.Metadata("", adaptertest.Capability("application/vnd.security.vulnerability.report; version=2.0")), "none of the reports"},
		"nothing":                 {adaptertest.Object{}, "names no scanner"},
		"something else":          {adaptertest.Object{"scanner": 1}, "not what the API has"},
	} {
		s.Change(func() { s.Metadata = tt.metadata })
		about, err := a.About(t.Context())
		if tt.want == "" && (err != nil || !about.Updated.IsZero()) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %+v, %v; want %q", name, about, err, tt.want)
		}
	}
}

func TestAuth(t *testing.T) {
	s := adaptertest.New(t)
	var mu sync.Mutex
	seen := make(map[string]int) // what was shown
	s.Check = func(r *http.Request) error {
		mu.Lock()
		defer mu.Unlock()
		seen[r.Header.Get("Authorization")+"|"+r.Header.Get("X-ScannerAdapter-API-Key")]++
		return nil
	}
	secret := func() (string, error) { return "s3cret", nil }
	for _, tt := range []struct {
		auth Auth
		want string
	}{
		{Auth{}, "|"},
		{Auth{Type: AuthNone, Secret: secret}, "|"},
		{Auth{Type: AuthBasic, Username: "hub", Secret: secret}, "Basic aHViOnMzY3JldA==|"},
		{Auth{Type: AuthBearer, Secret: secret}, "Bearer s3cret|"},
		{Auth{Type: AuthAPIKey, Secret: secret}, "|s3cret"},
	} {
		clear(seen)
		s.Items = []adaptertest.Object{}
		if _, err := newAdapter(t, s, func(o *Options) { o.Auth = tt.auth }).Scan(t.Context(), task); err != nil {
			t.Errorf("%s: %v", tt.auth.Type, err)
		}
		if len(seen) != 1 || seen[tt.want] != 3 {
			t.Errorf("%s: shown %v, want %q each time", tt.auth.Type, seen, tt.want)
		}
	}
	broken := func() (string, error) { return "", errors.New("no such file") }
	if _, err := newAdapter(t, s, func(o *Options) { o.Auth = Auth{Type: AuthBearer, Secret: broken} }).About(t.Context()); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("without the secret: %v", err)
	}
	s.Change(func() { s.Check = func(*http.Request) error { return errors.New("who are you?") } })
	if _, err := newAdapter(t, s, nil).About(t.Context()); err == nil || !strings.Contains(err.Error(), "401 Unauthorized: who are you?") {
		t.Errorf("refused: %v", err)
	}
}

func TestOptions(t *testing.T) {
	good := Options{URL: "http://scanner:8080", RegistryURL: "https://hub"}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Options){
		"no URL":               func(o *Options) { o.URL = "" },
		"another scheme":       func(o *Options) { o.URL = "file:///etc/passwd" },
		"a password in it":     func(o *Options) { o.URL = "http://hub:hunter2@scanner" },
		"a query":              func(o *Options) { o.URL = "http://scanner?x" },
		"no registry":          func(o *Options) { o.RegistryURL = "" },
		"basic without a name": func(o *Options) { o.Auth = Auth{Type: AuthBasic, Secret: func() (string, error) { return "", nil }} },
		"bearer without token": func(o *Options) { o.Auth = Auth{Type: AuthBearer} },
		"unknown auth":         func(o *Options) { o.Auth = Auth{Type: "Basic"} },
		"no CA file":           func(o *Options) { o.CAFile = "/nowhere" },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTLS(t *testing.T) {
	s := adaptertest.Unstarted(t)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0) // of the client that does not trust it
	s.StartTLS()
	s.URL = s.Server.URL
	if _, err := newAdapter(t, s, nil).About(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("of a stranger's certificate: %v", err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newAdapter(t, s, func(o *Options) { o.CAFile = file }).About(t.Context()); err != nil {
		t.Error(err)
	}
}

// Whatever a scanner answers, the scan ends, and an image is never taken to be
// without faults for it.
func TestFaults(t *testing.T) {
	answer := func(status int, mediaType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", mediaType)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	const report, html = adaptertest.TypeReport, "text/html"
	vulns := func(n int) string {
		return `{"vulnerabilities":[` + strings.TrimSuffix(strings.Repeat(`{"id":"CVE-1"},`, n), ",") + `]}`
	}
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("another host was asked: %s, with %v", r.URL, r.Header)
	}))
	defer elsewhere.Close()
	for name, tt := range map[string]struct {
		at    string
		fault http.HandlerFunc
		want  string           // in the error
		final scanproto.Reason // "" for the scanner's own fault
	}{
		"500 as the API has it":    {"GET /report", func(w http.ResponseWriter, _ *http.Request) { adaptertest.Error(w, 500, "trivy:\n\texit 1") }, "500 Internal Server Error: trivy: exit 1", ""},
		"500 and a page":           {"GET /report", answer(500, html, "<html>"), "500 Internal Server Error", ""},
		"500 and no end":           {"GET /report", answer(500, report, strings.Repeat("x", maxError+10)), "500 Internal Server Error", ""},
		"the scan is forgotten":    {"GET /report", answer(404, report, ""), "404 Not Found", ""},
		"no such report":           {"GET /report", answer(501, report, ""), "501 Not Implemented", ""},
		"garbage":                  {"GET /report", answer(200, report, "\x00\x01{"), "not what the API has", ""},
		"another type":             {"GET /report", answer(200, html, vulns(0)), `type "text/html"`, ""},
		"another version":          {"GET /report", answer(200, "application/vnd.security.vulnerability.report; version=2.0", vulns(0)), "version=2.0", ""},
		"no type":                  {"GET /report", answer(200, "", vulns(0)), "type", ""},
		"an empty object":          {"GET /report", answer(200, report, "{}"), "says nothing", ""},
		"null":                     {"GET /report", answer(200, report, "null"), "says nothing", ""},
		"no list, another's image": {"GET /report", answer(200, report, `{"scanner":{"name":"x"},"artifact":{"digest":"sha256:1"}}`), "on another image, sha256:1", ""},
		"a list, another's image":  {"GET /report", answer(200, report, `{"vulnerabilities":[],"artifact":{"digest":"sha256:1"}}`), "on another image", ""},
		"no list, nobody's":        {"GET /report", answer(200, report, `{"artifact":{"digest":"`+image.String()+`"}}`), "says nothing", ""},
		"an SBOM instead":          {"GET /report", answer(200, report, `{"sbom":{"a":1},"media_type":"application/spdx+json"}`), "says nothing", ""},
		"bad, and nothing is":      {"GET /report", answer(200, report, `{"vulnerabilities":[],"severity":"Critical"}`), "CRITICAL, and it names no", ""},
		"a list of something else": {"GET /report", answer(200, report, `{"vulnerabilities":[1,2]}`), "not what the API has", ""},
		"too many":                 {"GET /report", answer(200, report, vulns(maxFindings+1)), "30001 vulnerabilities", ""},
		"too long":                 {"GET /report", answer(200, report, vulns(0)+strings.Repeat(" ", maxReport)), "longer than", ""},
		"out of reach":             {"GET /report", answer(503, html, ""), "out of reach 5 times", ""},
		"cut":                      {"GET /report", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "out of reach 5 times", ""},
		"no JSON wanted":           {"POST /scan", answer(400, html, ""), "400 Bad Request", ""},
		"a field is wrong":         {"POST /scan", func(w http.ResponseWriter, _ *http.Request) { adaptertest.Error(w, 422, "missing registry.url") }, "422 Unprocessable Entity: missing registry.url", ""},
		"it cannot":                {"POST /scan", func(w http.ResponseWriter, _ *http.Request) { adaptertest.Error(w, 501, "not this") }, "501 Not Implemented: not this", scanproto.ReasonUnscannable},
		"not accepted":             {"POST /scan", answer(200, report, `{"id":"1"}`), "200 OK", ""},
		"no id":                    {"POST /scan", answer(202, report, `{}`), "no id", ""},
		"an id without end":        {"POST /scan", answer(202, report, `{"id":"`+strings.Repeat("1", 2000)+`"}`), "no id", ""},
		"a response without end":   {"POST /scan", answer(202, report, strings.Repeat(" ", maxResponse+1)), "longer than", ""},
		"full":                     {"POST /scan", answer(429, html, ""), "out of reach 5 times", ""},
		"accepted, but cut":        {"POST /scan", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF", ""},
		"a redirect":               {"POST /scan", http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect).ServeHTTP, "307 Temporary Redirect", ""},
		"a redirect of metadata":   {"GET /metadata", http.RedirectHandler(elsewhere.URL, http.StatusFound).ServeHTTP, "302 Found", ""},
		"metadata without end":     {"GET /metadata", answer(200, report, strings.Repeat(" ", maxMetadata+1)), "longer than", ""},
		"no metadata":              {"GET /metadata", answer(500, html, ""), "500", ""},
		"an image of another kind": {"GET /metadata", func(w http.ResponseWriter, _ *http.Request) {
			adaptertest.Answer(w, 200, typeMetadata, adaptertest.Metadata("", adaptertest.Object{"consumes_mime_types": []string{"text/x"}, "produces_mime_types": []string{typeReport}}))
		}, "Fake 1.2.3 does not look into images of type application/vnd.oci.image.manifest.v1+json", scanproto.ReasonUnscannable},
		"another report's redirect": {"GET /report", answer(301, html, ""), "301 Moved Permanently", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := adaptertest.New(t)
			s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
			s.Fault[tt.at] = tt.fault
			a := newAdapter(t, s, func(o *Options) {
				o.Auth = Auth{Type: AuthBearer, Secret: func() (string, error) { return "hunter2", nil }}
			})
			found, err := a.Scan(t.Context(), task)
			if err == nil || !strings.Contains(err.Error(), tt.want) || found.Findings != nil {
				t.Fatalf("found %+v, %v; want %q", found, err, tt.want)
			}
			f, failed := errors.AsType[*scanproto.Failed](err)
			if failed != (tt.final != "") || failed && f.Reason != tt.final {
				t.Errorf("error %v, want reason %q", err, tt.final)
			}
			if len(err.Error()) > 1000 || strings.Contains(err.Error(), "hunter2") || strings.ContainsRune(err.Error(), '\n') {
				t.Errorf("the error is not for people: %q", err)
			}
		})
	}
}

// What passes is waited for.
func TestPatience(t *testing.T) {
	s := adaptertest.New(t)
	s.Polls, s.Items = 20, []adaptertest.Object{}
	misses := 0
	s.Fault["POST /scan"] = func(w http.ResponseWriter, r *http.Request) {
		if misses++; misses == maxMisses-1 {
			s.Change(func() { delete(s.Fault, "POST /scan") })
		}
		w.WriteHeader(http.StatusTooManyRequests)
	}
	found, err := newAdapter(t, s, nil).Scan(t.Context(), task)
	if err != nil || len(found.Findings) > 0 {
		t.Errorf("found %+v, %v", found, err)
	}
	if polled := s.Scans()[0].Polled; len(polled) != 21 {
		t.Errorf("polled %d times, want 21", len(polled))
	}
}

// A scanner that is out of reach now and then is not out of reach.
func TestNowAndThen(t *testing.T) {
	s := adaptertest.New(t)
	times := 0
	s.Fault["GET /report"] = func(w http.ResponseWriter, _ *http.Request) {
		switch times++; {
		case times == 4*maxMisses:
			adaptertest.Answer(w, http.StatusOK, adaptertest.TypeReport, adaptertest.Object{"vulnerabilities": []string{}})
		case times%2 == 0:
			w.WriteHeader(http.StatusFound)
		default:
			w.WriteHeader(http.StatusBadGateway)
		}
	}
	if _, err := newAdapter(t, s, nil).Scan(t.Context(), task); err != nil {
		t.Errorf("after %d answers: %v", times, err)
	}
}

func TestRefreshAfter(t *testing.T) {
	for after, want := range map[string]time.Duration{
		"": 5, "-1": 5, "soon": 5, "9999999999999999999999": 5,
		"0": time.Second, "1": time.Second, " 7 ": 7 * time.Second, "60": time.Minute, "86400": time.Minute,
	} {
		if got := (&statusError{after: after}).wait(5); got != want {
			t.Errorf("after %q: %v, want %v", after, got, want)
		}
	}
	s := adaptertest.New(t)
	var first time.Time
	s.Fault["GET /report"] = func(w http.ResponseWriter, _ *http.Request) {
		if first.IsZero() {
			first = time.Now()
			w.Header().Set("Refresh-After", "1")
			w.WriteHeader(http.StatusFound)
			return
		}
		adaptertest.Answer(w, http.StatusOK, adaptertest.TypeReport, adaptertest.Object{"vulnerabilities": []string{}})
	}
	if _, err := newAdapter(t, s, nil).Scan(t.Context(), task); err != nil || time.Since(first) < time.Second {
		t.Errorf("after %v: %v", time.Since(first), err)
	}
}

func TestNeverReady(t *testing.T) {
	s := adaptertest.New(t)
	s.Polls = 1 << 30
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := newAdapter(t, s, nil).Scan(ctx, task); err == nil || ctx.Err() == nil {
		t.Errorf("a report that never comes: %v", err)
	}
	// Nor is an answer that never ends.
	s.Change(func() {
		s.Fault["GET /metadata"] = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	})
	a := newAdapter(t, s, func(o *Options) { o.Timeout = 20 * time.Millisecond })
	if _, err := a.About(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an answer that never ends: %v", err)
	}
}

func TestAuthorization(t *testing.T) {
	s := adaptertest.New(t)
	s.Items = []adaptertest.Object{}
	var asked []Pull
	a := newAdapter(t, s, func(o *Options) {
		o.Authorization = func(_ context.Context, p Pull) (string, error) {
			if asked = append(asked, p); len(asked) == 3 {
				return "", errors.New("no key")
			}
			return fmt.Sprintf("Token %d", len(asked)), nil
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	end, _ := ctx.Deadline()
	_, err := a.Scan(ctx, task)
	s.Change(func() {
		s.Metadata["properties"].(adaptertest.Object)["harbor.scanner-adapter/registry-authorization-type"] = "Bearer"
	})
	_, err2 := a.Scan(ctx, task)
	if want := []Pull{{Repo: repo, Until: end, Basic: true}, {Repo: repo, Until: end}}; err != nil || err2 != nil || !slices.Equal(asked, want) {
		t.Errorf("asked for %+v, %v, %v; want %+v", asked, err, err2, want)
	}
	if all := s.Scans(); all[0].Registry.Authorization != "Token 1" || all[1].Registry.Authorization != "Token 2" {
		t.Errorf("asked %+v", all)
	}
	if _, err := a.Scan(ctx, task); err == nil || len(s.Scans()) != 2 {
		t.Errorf("without an authorization: %v", err)
	}
}

// An image has its findings though no SBOM comes of it.
func TestDocuments(t *testing.T) {
	sbom := adaptertest.Typed("sbom", adaptertest.TypeSBOM)
	sbom["additional_attributes"] = adaptertest.Object{"sbom_media_types": []string{scan.TypeSPDX}}
	img := task
	img.Documents = []string{scan.TypeSPDX}
	for name, tt := range map[string]struct {
		report adaptertest.Object
		want   string
	}{
		"an object":     {adaptertest.Object{"media_type": scan.TypeSPDX, "sbom": adaptertest.Object{"a": 1}}, `{"a":1}`},
		"a text":        {adaptertest.Object{"sbom": `{"a": 1}`}, `{"a": 1}`},
		"nothing":       {adaptertest.Object{}, ""},
		"no text of it": {adaptertest.Object{"sbom": "SPDXVersion: 2.3"}, ""},
		"empty":         {adaptertest.Object{"sbom": adaptertest.Object{}}, ""},
		"another type":  {adaptertest.Object{"media_type": scan.TypeCycloneDX, "sbom": adaptertest.Object{"a": 1}}, ""},
		"another image": {adaptertest.Object{"artifact": adaptertest.Object{"digest": "sha256:1"}, "sbom": adaptertest.Object{"a": 1}}, ""},
	} {
		s := adaptertest.New(t)
		s.Metadata = adaptertest.Metadata("", sbom, adaptertest.Typed("vulnerability", adaptertest.TypeReport))
		s.Fault["GET /report"] = func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("sbom_media_type") == "" {
				adaptertest.Answer(w, http.StatusOK, adaptertest.TypeReport, adaptertest.Object{"vulnerabilities": []string{}})
				return
			}
			adaptertest.Answer(w, http.StatusOK, adaptertest.TypeSBOM, tt.report)
		}
		var log bytes.Buffer
		a := newAdapter(t, s, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		found, err := a.Scan(t.Context(), img)
		if err != nil || string(found.Documents[scan.TypeSPDX]) != tt.want || (log.Len() == 0) != (tt.want != "") {
			t.Errorf("%s: %s, %v; logged %s", name, found.Documents, err, &log)
		}
	}
}
