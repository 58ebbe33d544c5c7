package main

import (
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/policy"
)

func TestDrawScan(t *testing.T) {
	finding := hubapi.ScanFinding{ID: "CVE-2019-18224", Package: "libidn2-0", Installed: "2.0.5-1", Fixed: "2.0.5-1+deb10u1", Severity: "CRITICAL", Title: strings.Repeat("long ", 30)}
	many := make([]hubapi.ScanFinding, shownFindings+3)
	for i := range many {
		many[i] = finding
	}
	s := hubapi.ScanReports{Image: "docker.io/library/demo", Digest: "sha256:abc", Reports: []hubapi.ScanReport{
		{Platform: "linux/amd64", State: policy.ScanDone, Job: "done", DBRevision: "db-1", Packages: 7, Counts: hubapi.ScanCounts{Critical: 23}, Findings: many},
		{Platform: "linux/arm64", State: policy.ScanPending, Job: "queued", QueuedAt: time.Now().Add(-time.Minute)},
		{Platform: "linux/386", State: policy.ScanPending, Job: "queued", QueuedAt: time.Now().Add(time.Minute)},
		{Platform: "linux/s390x", State: policy.ScanError, Job: "failed", Reason: "too-large", Message: "2000001 files"},
		{Platform: "linux/arm", State: policy.ScanUnscannable, Job: "failed", Message: "layers hold no files"},
	}}
	draw := func(all bool) string {
		var b strings.Builder
		format := outputFormat("table")
		if err := format.print(&b, s, func(t *table) { drawScan(t, s, all) }); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	out := draw(false)
	for _, want := range []string{
		"docker.io/library/demo@sha256:abc", "23 critical, 0 high", "by database db-1", "2.0.5-1+deb10u1", "and 3 more: --all",
		"linux/386: queued just now", "linux/arm64: queued since 1 minute ago", "linux/s390x: the scan failed: too-large: 2000001 files", "linux/arm: no scan is possible: layers hold no files",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("without %q:\n%s", want, out)
		}
	}
	if n := strings.Count(draw(true), "CVE-2019-18224"); n != len(many) {
		t.Errorf("--all shows %d", n)
	}
}

func TestDrawScanState(t *testing.T) {
	looked := &hubapi.ScanDatabaseUpdate{Source: "ghcr.io/db:2", LookedAt: time.Now().Add(-time.Hour), Error: "it is cut short"}
	javaLooked := &hubapi.ScanDatabaseUpdate{Source: "ghcr.io/java:1", LookedAt: looked.LookedAt, Error: looked.Error}
	for want, s := range map[string]hubapi.ScanState{
		"ghcr.io/db:2, looked at 1 hour ago, in vain: it is cut short": {Enabled: true, Database: &hubapi.ScanDatabase{Revision: "db-1"}, DatabaseUpdate: looked},
		"being looked at now":                  {Enabled: true, DatabaseUpdate: &hubapi.ScanDatabaseUpdate{Looking: true}},
		"no Java database (scan.javaDatabase)": {Enabled: true},
		"until there is a database from ghcr.io/java:1, looked at 1 hour ago, in vain: it is cut short": {Enabled: true, JavaDatabaseUpdate: javaLooked},
		"java-1, made 2 hours ago, from ghcr.io/java:1": {Enabled: true, JavaDatabaseUpdate: javaLooked,
			JavaDatabase: &hubapi.ScanDatabase{Revision: "java-1", MadeAt: time.Now().Add(-2 * time.Hour)}},
		"does not scan images": {},
		"not installed":        {Enabled: true},
		"trivy 0.74.0":         {Enabled: true, Program: "/p", Scanner: "trivy 0.74.0", Database: &hubapi.ScanDatabase{Revision: "db-1"}},
		"database:      sha256:5aca9ec7a6c9, made": {Enabled: true, Database: &hubapi.ScanDatabase{Revision: "sha256:5aca9ec7a6c9aaaa", MadeAt: time.Now()}},
	} {
		var b strings.Builder
		format := outputFormat("table")
		if err := format.print(&b, s, func(t *table) { drawScanState(t, s) }); err != nil || !strings.Contains(b.String(), want) {
			t.Errorf("%v without %q:\n%s", err, want, b.String())
		}
	}
}
