package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLoadTestsFaults(t *testing.T) {
	const head = "apiVersion: breakwater.dev/v1alpha1\nkind: PolicyTest\n"
	for doc, want := range map[string]string{
		"":   "t.yaml: the document is empty",
		head: "t.yaml: cases: must be given: a list of name, image, facts and want",
		head + "cases: [{name: a, image: 'x:', want: {outcome: refuse}}]\n": `t.yaml:3:19: cases[0].image: image "x:": "" is not a tag: up to 128 of A-Z a-z 0-9 _ . -, not beginning with . or -` + "\n" +
			`t.yaml:3:48: cases[0].want.outcome: got "refuse", want allow, wait or deny`,
		head + "cases: [{name: a, image: x, facts: {scan: []}, want: {outcome: deny, verdict: failed}}]\n": `t.yaml:3:37: cases[0].facts: unknown key "scan"; did you mean "scans"?` + "\n" +
			`t.yaml:3:79: cases[0].want.verdict: got "failed", want pass, fail, error, unscanned, unscannable, stale or skipped; did you mean "fail"?`,
		head + "cases: [{}]\n": "t.yaml:3:9: cases[0].image: must be given: an image like ghcr.io/acme/api:1\nt.yaml:3:9: cases[0].name: must be given: a few words\nt.yaml:3:9: cases[0].want.outcome: must be given: allow, wait or deny",
	} {
		_, err := LoadTests("t.yaml", []byte(doc))
		if err == nil {
			t.Errorf("%q was read", doc)
		} else if diff := cmp.Diff(want, err.Error()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", doc, diff)
		}
	}
	policy := worldHead + "policies: []\n"
	if _, err := LoadTests("t.yaml", []byte(policy)); err == nil || !strings.Contains(err.Error(), "want PolicyTest") {
		t.Errorf("a policy as a test: %v", err)
	}
}

// A case that does not hold says what is not as wanted.
func TestRunProblems(t *testing.T) {
	b, err := Load("p.yaml", []byte(worldHead+"policies:\n- name: signed\n  mode: enforce\n  match: {images: ['**']}\n  rules: [{name: r, signature: {anyOf: [one]}}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	tests, err := LoadTests("t.yaml", []byte(`apiVersion: breakwater.dev/v1alpha1
kind: PolicyTest
cases:
- {name: holds, image: nginx, want: {outcome: deny, policy: signed, rule: r, verdict: fail}}
- {name: misspelt, image: nginx, facts: {signatures: {oen: {valid: [{}]}}}, want: {outcome: deny}}
- {name: wrong, image: nginx, want: {outcome: allow, policy: other, rule: s, verdict: pass, cves: [CVE-1], message: hello}}
`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range tests.Run(b, time.Time{}) {
		if r.OK != (len(r.Problems) == 0) {
			t.Errorf("%s: %v with %v", r.Name, r.OK, r.Problems)
		}
		for _, p := range r.Problems {
			p, _, _ = strings.Cut(p, " breakwater d-") // the message itself is seen elsewhere
			got = append(got, r.Name+": "+p)
		}
	}
	want := []string{
		`misspelt: the policy has no authority "oen"; did you mean "one"?`,
		`wrong: outcome is "deny", want "allow"`,
		`wrong: policy is "signed", want "other"`,
		`wrong: rule is "r", want "s"`,
		`wrong: verdict is "fail", want "pass"`,
		`wrong: cves is "", want "CVE-1"`,
	}
	if len(got) != len(want)+1 || !strings.HasPrefix(got[len(got)-1], "wrong: message is") {
		t.Fatalf("got %q", got)
	}
	if diff := cmp.Diff(want, got[:len(want)]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
