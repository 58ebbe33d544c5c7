package adapter

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/policy"
)

func TestFindings(t *testing.T) {
	const text = `{"severity": "Critical", "vulnerabilities": [
		{"id": "CVE-1", "package": "a", "version": "1", "severity": "Low", "links": ["javascript:alert(1)", "https://x.example/1"]},
		{"id": "CVE-2", "package": "a", "version": "1", "fix_version": "2", "severity": "Critical", "status": "fixed",
		 "description": "one\ntwo", "layer": {"digest": "sha256:b", "diff_id": "sha256:a"}, "preferred_cvss": {"score_v3": 7.5, "vector_v3": "x"}},
		{"id": "CVE-2", "package": "a", "version": "1", "fix_version": "2", "severity": "Critical"},
		{"id": "CVE-3", "package": "b", "severity": "Negligible", "links": "https://x.example/2", "layer": 1, "preferred_cvss": "7.5"},
		{"id": "CVE-4", "severity": "None", "preferred_cvss": {"score_v3": "7.5"}},
		{"id": "CVE-5", "severity": "HIGH", "preferred_cvss": null, "layer": null, "links": null},
		{"severity": "Medium"},
		{"id": "CVE-6"}]}`
	var r report
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	got, err := r.findings(task)
	want := []match.Finding{
		{Vuln: policy.Vuln{ID: "CVE-2", Package: "a", Installed: "1", Fixed: "2", Severity: policy.Critical, Severities: map[string]policy.Severity{"cvss": policy.High}},
			Status: "fixed", Title: "one two", DiffID: "sha256:a"},
		{Vuln: policy.Vuln{ID: "CVE-5", Severity: policy.High}},
		{Vuln: policy.Vuln{ID: unnamed, Severity: policy.Medium}},
		{Vuln: policy.Vuln{ID: "CVE-1", Package: "a", Installed: "1", Severity: policy.Low}, URL: "https://x.example/1"},
		{Vuln: policy.Vuln{ID: "CVE-3", Package: "b", Severity: policy.Low}},
		{Vuln: policy.Vuln{ID: "CVE-4"}},
		{Vuln: policy.Vuln{ID: "CVE-6"}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
}

func TestScore(t *testing.T) {
	for score, want := range map[float64]policy.Severity{
		0.1: policy.Low, 3.9: policy.Low, 4: policy.Medium, 6.9: policy.Medium, 7: policy.High, 8.9: policy.High, 9: policy.Critical, 10: policy.Critical,
	} {
		if got := ofScore(score); got != want {
			t.Errorf("%v is %s, want %s", score, got, want)
		}
	}
}

func FuzzReport(f *testing.F) {
	f.Add([]byte(`{"vulnerabilities":[{"id":"CVE-1","severity":"High","links":["https://x"],"preferred_cvss":{"score_v3":9}}]}`))
	f.Add([]byte(`{"vulnerabilities":null,"artifact":{"digest":"` + image.String() + `"},"scanner":{"name":"x"}}`))
	f.Add([]byte("{\"vulnerabilities\":[{\"id\":\"\xff\\u0000\\n\"},{\"severity\":\"low\"}]}"))
	f.Fuzz(func(t *testing.T, body []byte) {
		var r report
		if json.Unmarshal(body, &r) != nil {
			return
		}
		all, err := r.findings(task)
		if err != nil {
			return
		}
		if r.Vulnerabilities == nil && r.Artifact.Digest != image.String() {
			t.Error("a report on nothing is believed")
		}
		if r.Vulnerabilities != nil && len(*r.Vulnerabilities) > 0 && len(all) == 0 {
			t.Error("vulnerabilities are lost")
		}
		if !slices.IsSortedFunc(all, func(a, b match.Finding) int { return int(b.Severity) - int(a.Severity) }) {
			t.Errorf("not the worst first: %+v", all)
		}
		for _, v := range all {
			for _, text := range []string{v.ID, v.Package, v.Installed, v.Fixed, v.Status, v.Title, v.DiffID, v.URL} {
				if !utf8.ValidString(text) || strings.ContainsAny(text, "\n\x00") || len(text) > 2500 {
					t.Errorf("not for people: %q", text)
				}
			}
			if v.ID == "" {
				t.Error("a finding without a name")
			}
		}
	})
}
