package adapter

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/breakwater-oci/breakwater/hub/scan"
	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/policy"
)

const (
	// maxFindings bounds what a report can make of itself: an image of years ago
	// with everything installed has about 5,000.
	maxFindings = 30_000
	// maxName and maxTitle are how much of names, and of a description, is kept,
	// in bytes.
	maxName, maxTitle = 300, 200
	// unnamed is the id of a vulnerability that a scanner has given none.
	unnamed = "UNNAMED"
)

// isOf says whether r is on an image, as far as it says.
func (r *report) isOf(img scan.Task) error {
	if d := r.Artifact.Digest; d != "" && d != img.Manifest.Digest.String() {
		return fmt.Errorf("the report is on another image, %s", line(d, 100))
	}
	return nil
}

// findings is what a report on an image says, the worst first. One that says
// nothing at all would be good news: so it must have a list of vulnerabilities
// or, since some leave out an empty one, say whose report it is and on what.
func (r *report) findings(img scan.Task) ([]match.Finding, error) {
	if r.Vulnerabilities == nil && (r.Artifact.Digest != img.Manifest.Digest.String() || r.Scanner.Name == "") {
		return nil, errors.New("the answer is no report: it says nothing of vulnerabilities, nor of what image it is")
	}
	if r.Vulnerabilities == nil || len(*r.Vulnerabilities) == 0 {
		if s := severity(r.Severity); s != policy.Unknown {
			return nil, fmt.Errorf("the report's severity is %s, and it names no vulnerability", s)
		}
		return nil, nil
	}
	if n := len(*r.Vulnerabilities); n > maxFindings {
		return nil, fmt.Errorf("the report has %d vulnerabilities, more than %d", n, maxFindings)
	}
	all := make([]match.Finding, 0, len(*r.Vulnerabilities))
	for _, v := range *r.Vulnerabilities {
		all = append(all, v.finding())
	}
	slices.SortStableFunc(all, func(a, b match.Finding) int {
		return cmp.Or(cmp.Compare(b.Severity, a.Severity), byPackage(a, b))
	})
	return slices.CompactFunc(all, func(a, b match.Finding) bool { return a.Severity == b.Severity && byPackage(a, b) == 0 }), nil
}

func byPackage(a, b match.Finding) int {
	return cmp.Or(
		strings.Compare(a.ID, b.ID), strings.Compare(a.Package, b.Package),
		strings.Compare(a.Installed, b.Installed), strings.Compare(a.Fixed, b.Fixed),
	)
}

func (v *item) finding() match.Finding {
	f := match.Finding{
		Vuln: policy.Vuln{
			ID: cmp.Or(line(v.ID, maxName), unnamed), Package: line(v.Package, maxName),
			Installed: line(v.Version, maxName), Fixed: line(v.FixVersion, maxName), Severity: severity(v.Severity),
		},
		Status: line(v.Status, maxName), Title: line(v.Description, maxTitle),
	}
	// What only people see is no reason to refuse a report.
	var layer struct {
		DiffID string `json:"diff_id"`
	}
	if json.Unmarshal(v.Layer, &layer) == nil {
		f.DiffID = line(layer.DiffID, maxName)
	}
	var cvss struct {
		V3 float64 `json:"score_v3"`
	}
	if json.Unmarshal(v.CVSS, &cvss) == nil && cvss.V3 > 0 {
		f.Severities = map[string]policy.Severity{"cvss": ofScore(cvss.V3)}
	}
	var links []string
	if json.Unmarshal(v.Links, &links) != nil {
		links = nil
	}
	for _, link := range links {
		if u, err := url.Parse(link); err == nil && (u.Scheme == "https" || u.Scheme == "http") && len(link) <= 2000 {
			f.URL = u.String()
			break
		}
	}
	return f
}

// severity is the API's word as a policy's. Negligible is what policies have no
// word for: low. What is none of the words is nothing known.
func severity(text string) policy.Severity {
	if strings.EqualFold(text, "Negligible") {
		return policy.Low
	}
	s, err := policy.ParseSeverity(strings.ToUpper(text))
	if err != nil {
		return policy.Unknown
	}
	return s
}

// ofScore is a score's severity (CVSS v3.1 specification, section 5).
func ofScore(score float64) policy.Severity {
	switch {
	case score >= 9:
		return policy.Critical
	case score >= 7:
		return policy.High
	case score >= 4:
		return policy.Medium
	}
	return policy.Low
}
