package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// A bundle of 50 policies and an image that three of them match: signatures,
// an attestation with a condition, 200 vulnerabilities.
func benchmarkWorld(b testing.TB) (*Bundle, Facts, time.Time) {
	text, err := os.ReadFile(filepath.Join("testdata", "golden", "bundle.yaml"))
	if err != nil {
		b.Fatal(err)
	}
	var doc Document
	if d := decode("bundle.yaml", text, &doc); d.err() != nil {
		b.Fatal(d.err())
	}
	fillDefaults(&doc)
	doc.Policies[1].Match.Images = []string{"ghcr.io/**"}
	doc.Policies[2].Match.Images = []string{"**"}
	for i := range 47 {
		p := doc.Policies[i%3]
		p.Name = fmt.Sprintf("other-%d", i)
		p.Match.Images = []string{fmt.Sprintf("registry-%d.example/team/**", i), fmt.Sprintf("ghcr.io/team-%d/*-service", i)}
		doc.Policies = append(doc.Policies, p)
	}
	bundle, err := compile(doc)
	if err != nil {
		b.Fatal(err)
	}
	st, err := DecodeStatement([]byte(`{"predicateType":"https://slsa.dev/provenance/v1","predicate":{"runDetails":{"builder":{"id":"https://ci.acme/linux"}}}}`))
	if err != nil {
		b.Fatal(err)
	}
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	f := Facts{
		Subject: Subject{Name: "ghcr.io/acme/api", Tag: "1.4", Digest: oci.FromBytes(nil)},
		Kind:    KindImage,
		Signatures: map[string]SignatureFact{
			"release-2026": {Valid: []Evidence{{Digest: oci.FromBytes([]byte("s")), On: oci.FromBytes(nil), Form: "tag"}}},
			"gh-main":      {Rejected: []Evidence{{Digest: oci.FromBytes([]byte("r")), Reason: "subject mismatch"}}},
		},
		Attestations: map[string]AttestationFact{"gh-main": {Valid: []Statement{st}}},
		Scans:        []Scan{{State: ScanDone, Platform: "linux/amd64", At: now, DBTime: now, DBRevision: "db"}},
	}
	for i := range 200 {
		f.Scans[0].Vulns = append(f.Scans[0].Vulns, Vuln{
			ID: fmt.Sprintf("CVE-2026-%d", i), Package: fmt.Sprintf("lib%d", i%40), Installed: "1.0", Fixed: "1.1", Severity: Severity(i % 4), Published: now.AddDate(0, -1, 0),
		})
	}
	return bundle, f, now
}

// BenchmarkEvaluate is the decision with warm facts: under 50 µs is promised.
func BenchmarkEvaluate(b *testing.B) {
	bundle, f, now := benchmarkWorld(b)
	if d := bundle.Evaluate(f, now); d.Outcome != Allow || len(d.Policies) != 3 || d.Would != Deny {
		b.Fatal(d.Explain())
	}
	measure(b, func() { bundle.Evaluate(f, now) })
}

// measure also tells the processor time, which a busy machine does not change
// as it does the time on the wall.
func measure(b *testing.B, f func()) {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	b.ReportAllocs()
	before := used()
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op")
}

// BenchmarkEvaluateBlocked has 50 critical ones, twice.
func BenchmarkEvaluateBlocked(b *testing.B) {
	bundle, f, now := benchmarkWorld(b)
	for i := range f.Scans[0].Vulns {
		f.Scans[0].Vulns[i].Severity++
	}
	if d := bundle.Evaluate(f, now); d.Outcome != Deny {
		b.Fatal(d.Explain())
	}
	measure(b, func() { bundle.Evaluate(f, now) })
}

func BenchmarkMessage(b *testing.B) {
	bundle, f, now := benchmarkWorld(b)
	f.Scans[0].Vulns[3].Severity = Critical
	d := bundle.Evaluate(f, now)
	b.ReportAllocs()
	for b.Loop() {
		d.Message()
	}
}

func BenchmarkNeeds(b *testing.B) {
	bundle, f, _ := benchmarkWorld(b)
	b.ReportAllocs()
	for b.Loop() {
		bundle.Needs(f.Subject, Pull)
	}
}
