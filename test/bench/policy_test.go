package bench

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

const decisionTarget = 50.0 // µs

// policies: what it takes to decide about an image of which all is known, and to find out about one who has signed it.
func policies(t *testing.T, r *report) {
	decisions(t, r)
	signatures(t, r)
}

// decisions: policy.Evaluate, which is the same code at the hub and at the agent, in this process. The document has 50
// policies. Three of them match the image: a signature, an attestation with a condition, and two rules about the 200
// vulnerabilities of it.
func decisions(t *testing.T, r *report) {
	const each = 5000
	bundle, facts, now := world(t)
	blocked := facts
	blocked.Scans = slices.Clone(facts.Scans)
	blocked.Scans[0].Vulns = slices.Clone(facts.Scans[0].Vulns)
	for i := range blocked.Scans[0].Vulns {
		blocked.Scans[0].Vulns[i].Severity++ // each fourth is critical now
	}
	for _, c := range []struct {
		what  string
		facts policy.Facts
		want  policy.Outcome
	}{{"an image that is allowed", facts, policy.Allow}, {"an image that 50 vulnerabilities refuse", blocked, policy.Deny}} {
		if d := bundle.Evaluate(c.facts, now); d.Outcome != c.want || len(d.Policies) != 3 {
			t.Fatal(d.Explain())
		}
		var wall, cpu []float64
		for range *runs {
			w, p := timed(t, func() {
				for range each {
					bundle.Evaluate(c.facts, now)
				}
			})
			wall, cpu = append(wall, w/each*1e6), append(cpu, p/each*1e6)
		}
		fmt.Printf("    %s: %s µs, of the processor %s µs\n", c.what, digits(median(wall)), digits(median(cpu)))
		r.add(row{
			what: "decision, all facts known: " + c.what, ours: digits(median(wall)) + " µs", result: digits(median(wall)) + " µs",
			target: "< 50 µs", verdict: atMost(median(wall), decisionTarget),
			spread: fmt.Sprintf("%s … %s µs", digits(slices.Min(wall)), digits(slices.Max(wall))),
			cpu:    digits(median(cpu)) + " µs each",
		})
	}
}

// timed runs fn and returns how many seconds it took, on the clock and of the processor. The latter has the garbage
// collector's too, and nothing of what else the machine does.
func timed(t *testing.T, fn func()) (wall, cpu float64) {
	t.Helper()
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before, begun := used(), time.Now()
	fn()
	return time.Since(begun).Seconds(), (used() - before).Seconds()
}

// world is a document, and all that it wants to know about an image.
func world(t *testing.T) (*policy.Bundle, policy.Facts, time.Time) {
	t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, `
apiVersion: breakwater.dev/v1alpha1
kind: PolicyBundle
revision: 1
default: audit
authorities:
- {name: release, key: {pem: %q}}
- {name: ci, key: {pem: %q}}
policies:
`, publicKey(t), publicKey(t))
	kinds := []string{`
  mode: enforce
  match: {images: [%s], exclude: ["ghcr.io/acme/sandbox/**"]}
  rules:
  - name: signed
    signature: {anyOf: [release, ci]}
  - name: built-by-ci
    attestation:
      predicateType: https://slsa.dev/provenance/v1
      anyOf: [ci]
      condition: predicate.runDetails.builder.id.startsWith("https://ci.acme/")
`, `
  mode: enforce
  match: {images: [%s]}
  rules:
  - name: cve
    vulnerabilities: {block: CRITICAL, unknownAs: MEDIUM, fixedOnly: true, graceAfterPublish: 72h, staleAfter: 168h}
`, `
  mode: audit
  match: {images: [%s]}
  rules:
  - name: cve
    vulnerabilities: {block: HIGH, unknownAs: HIGH}
`}
	for i, images := range []string{`"ghcr.io/acme/**"`, `"ghcr.io/**"`, `"**"`} {
		fmt.Fprintf(&text, "- name: policy-%d"+kinds[i], i, images)
	}
	for i := range 47 {
		images := fmt.Sprintf(`"registry-%d.example/team/**", "ghcr.io/team-%d/*-service"`, i, i)
		fmt.Fprintf(&text, "- name: other-%d"+kinds[i%3], i, images)
	}
	bundle, err := policy.Load("policy.yaml", []byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	statement, err := policy.DecodeStatement([]byte(
		`{"predicateType":"https://slsa.dev/provenance/v1","predicate":{"runDetails":{"builder":{"id":"https://ci.acme/linux"}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	image := oci.FromBytes([]byte("image"))
	f := policy.Facts{
		Subject: policy.Subject{Name: "ghcr.io/acme/api", Tag: "1.4", Digest: image},
		Kind:    policy.KindImage,
		Signatures: map[string]policy.SignatureFact{
			"release": {Valid: []policy.Evidence{{Digest: oci.FromBytes([]byte("signature")), On: image, Form: "tag"}}},
			"ci":      {Rejected: []policy.Evidence{{Digest: oci.FromBytes([]byte("another")), Reason: "not made by this key"}}},
		},
		Attestations: map[string]policy.AttestationFact{"ci": {Valid: []policy.Statement{statement}}},
		Scans:        []policy.Scan{{State: policy.ScanDone, Platform: "linux/amd64", At: now, DBTime: now, DBRevision: "db"}},
	}
	for i := range 200 {
		f.Scans[0].Vulns = append(f.Scans[0].Vulns, policy.Vuln{
			ID: fmt.Sprintf("CVE-2026-%d", i), Package: fmt.Sprintf("lib%d", i%40), Installed: "1.0", Fixed: "1.1",
			Severity: policy.Severity(i % 4), Published: now.AddDate(0, -1, 0), // up to high
		})
	}
	return bundle, f, now
}

func publicKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}
