package policy_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/policytest"
)

const minimal = `apiVersion: breakwater.dev/v1alpha1
kind: PolicyBundle
revision: 1
default: allow
`

const withKey = minimal + `authorities:
- name: release
  key:
    pem: |
      -----BEGIN PUBLIC KEY-----
      MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
      -----END PUBLIC KEY-----
`

// Each document is minimal and a mistake; the whole error is what a person sees.
func TestLoadFaults(t *testing.T) {
	for name, tt := range map[string]struct{ doc, want string }{
		"empty":       {"", "p.yaml: the document is empty"},
		"comment":     {"# nothing\n", "p.yaml: the document is empty"},
		"not a map":   {"- a\n", "p.yaml:1:1: got a list, want a mapping with apiVersion, kind, revision, default, maxPolicyAge, onStalePolicy, platforms, trustedRoots, authorities, policies, exceptions"},
		"two":         {minimal + "---\nkind: x\n", "p.yaml:6:1: a second document; one file holds one"},
		"unknown key": {minimal + "polices: []\n", `p.yaml:5:1: unknown key "polices"; did you mean "policies"?`},
		"misplaced key": {minimal + "policies:\n- name: a\n  mode: audit\n  match: {images: ['**']}\n  onError: deny\n",
			`p.yaml:9:3: policies[0]: unknown key "onError"; it stands in policies[].rules[]`},
		"far key": {minimal + "wibble: 1\n",
			`p.yaml:5:1: unknown key "wibble"; known here: apiVersion, kind, revision, default, maxPolicyAge, onStalePolicy, platforms, trustedRoots, authorities, policies, exceptions`},
		"enum":     {strings.Replace(minimal, "allow", "dney", 1), `p.yaml:4:10: default: got "dney", want allow, audit or deny; did you mean "deny"?`},
		"number":   {strings.Replace(minimal, "revision: 1", "revision: one", 1), `p.yaml:3:11: revision: got "one", want a whole number`},
		"high":     {strings.Replace(minimal, "revision: 1", "revision: 1000000000000000", 1), `p.yaml:3:1: revision: must be 999999999999999 at most`},
		"duration": {minimal + "maxPolicyAge: 7\n", `p.yaml:5:15: maxPolicyAge: got "7", want a duration like 10s, 72h, 7d`},
		"list":     {minimal + "policies: {}\n", "p.yaml:5:11: policies: got a mapping, want a list"},
		"merge":    {minimal + "<<: {platforms: []}\n", "p.yaml:5:1: << has no use here; write the keys out, or give a whole value an &anchor and name it by *anchor"},
		"kind":     {strings.Replace(minimal, "PolicyBundle", "Policy", 1), `p.yaml:2:1: kind: got "Policy", want PolicyBundle`},
		"missing": {"kind: PolicyBundle\n", "p.yaml: apiVersion: got \"\", want breakwater.dev/v1alpha1\n" +
			"p.yaml: default: must be given: what becomes of an image that no policy matches: allow, audit or deny\n" +
			"p.yaml: revision: must be given: a whole number from 1, higher with each change"},
		"stale without age": {minimal + "onStalePolicy: deny\n", "p.yaml:5:1: onStalePolicy: says what happens after maxPolicyAge, which is not given"},
		"platform":          {minimal + "platforms: [amd64]\n", `p.yaml:5:13: platforms[0]: got "amd64", want a platform like linux/amd64 or linux/arm64/v8`},
		"name": {minimal + "policies:\n- {name: Prod_Signed, mode: audit, match: {images: ['**']}}\n",
			`p.yaml:6:4: policies[0].name: got "Prod_Signed", want a name of up to 63 lower-case letters, digits, - and .`},
		"same name": {minimal + "policies:\n- {name: a, mode: audit, match: {images: ['**']}}\n- {name: a, mode: audit, match: {images: ['**']}}\n",
			`p.yaml:7:4: policies[1].name: "a" is the name of policies[0] already`},
		"no images": {minimal + "policies:\n- {name: a, mode: audit}\n", "p.yaml:6:3: policies[0].match.images: must be given: patterns like ghcr.io/acme/**, or ** for all images"},
		"pattern": {minimal + "policies:\n- name: a\n  mode: audit\n  match:\n    images:\n    - ghcr.io/acme/api:1\n",
			`p.yaml:10:7: policies[0].match.images[0]: "ghcr.io/acme/api:1" has a tag, and tags move: name the repository, or one image by @sha256:…`},
		"no kind of rule": {minimal + "policies:\n- {name: a, mode: audit, match: {images: ['**']}, rules: [{name: r}]}\n",
			"p.yaml:6:59: policies[0].rules[0]: one of signature, attestation and vulnerabilities must be given"},
		"two kinds": {withKey + "policies:\n- name: a\n  mode: audit\n  match: {images: ['**']}\n  rules:\n  - name: r\n    signature: {anyOf: [release]}\n    vulnerabilities: {block: HIGH, unknownAs: LOW}\n",
			"p.yaml:17:5: policies[0].rules[0]: signature and vulnerabilities are given, want one: a rule is one demand, and all rules of a policy must hold"},
		"authority": {withKey + "policies:\n- name: a\n  mode: audit\n  match: {images: ['**']}\n  rules:\n  - name: r\n    signature: {anyOf: [relaese]}\n",
			`p.yaml:18:25: policies[0].rules[0].signature.anyOf[0]: no authority is called "relaese"; did you mean "release"?`},
		"condition": {withKey + "policies:\n- name: a\n  mode: audit\n  match: {images: ['**']}\n  rules:\n  - name: r\n    attestation:\n      predicateType: t\n      anyOf: [release]\n      condition: predicates.x == 1\n",
			"p.yaml:21:7: policies[0].rules[0].attestation.condition: not a condition: undeclared reference to 'predicates' (in container '') (line 1, column 1 of the expression); want CEL over predicate and statement, as predicate.runDetails.builder.id == \"…\""},
		"severity": {minimal + "policies:\n- name: a\n  mode: audit\n  match: {images: ['**']}\n  rules:\n  - name: r\n    vulnerabilities: {block: hihg}\n",
			"p.yaml:11:5: policies[0].rules[0].vulnerabilities.unknownAs: must be given: what a vulnerability without a severity, as many new ones are, counts as: LOW, MEDIUM, HIGH or CRITICAL\n" +
				"p.yaml:11:30: policies[0].rules[0].vulnerabilities.block: got \"hihg\", want UNKNOWN, LOW, MEDIUM, HIGH or CRITICAL; did you mean \"HIGH\"?"},
		"private key": {minimal + "authorities:\n- name: a\n  key:\n    pem: |\n      -----BEGIN PRIVATE KEY-----\n      AAAA\n      -----END PRIVATE KEY-----\n",
			"p.yaml:8:5: authorities[0].key.pem: this is a PRIVATE key, and belongs in no document; want a public key, -----BEGIN PUBLIC KEY----- (cosign public-key prints it)"},
		"keyless": {minimal + "authorities:\n- name: a\n  keyless: {trustedRoot: corp, issuer: x, subjectRegExp: '('}\n",
			"p.yaml:7:13: authorities[0].keyless.trustedRoot: no trusted root is called \"corp\"; trustedRoots has none\n" +
				"p.yaml:7:43: authorities[0].keyless.subjectRegExp: not a regular expression (RE2): error parsing regexp: missing closing ): `(`"},
		"anybody": {minimal + "trustedRoots: [{name: corp, file: root.json}]\nauthorities:\n- name: a\n  keyless: {trustedRoot: corp}\n",
			"p.yaml:8:3: authorities[0].keyless.issuer: issuer or issuerRegExp must be given: any other way, whoever the authority knows could sign\n" +
				"p.yaml:8:3: authorities[0].keyless.subject: subject or subjectRegExp must be given: any other way, whoever the authority knows could sign"},
		"root": {minimal + "trustedRoots: [{name: corp, json: '{}'}]\n",
			`p.yaml:5:29: trustedRoots[0].json: the mediaType is ""; a Sigstore trusted_root.json has application/vnd.dev.sigstore.trustedroot+json;version=0.1`},
		"exception": {withKey + "policies:\n- name: a\n  mode: audit\n  match: {images: ['**']}\n  rules:\n  - name: signed\n    signature: {anyOf: [release]}\nexceptions:\n- id: EX-1\n  policy: a\n  rule: singed\n  images: ['**']\n- id: EX-2\n  policy: a\n  rule: signed\n  images: [x]\n  cves: [CVE-2026-1]\n  reason: r\n  owner: o\n  expires: tomorrow\n",
			"p.yaml:20:3: exceptions[0].expires: must be given: a time like 2026-12-31T00:00:00Z, 180 days ahead at most\n" +
				"p.yaml:20:3: exceptions[0].owner: must be given: who answers for it\n" +
				"p.yaml:20:3: exceptions[0].reason: must be given: why this is no danger, or where that is written\n" +
				"p.yaml:22:3: exceptions[0].rule: no rule of a is called \"singed\"; did you mean \"signed\"?\n" +
				"p.yaml:28:3: exceptions[1].cves: signed is a rule about signatures, which knows no CVEs\n" +
				"p.yaml:31:12: exceptions[1].expires: got \"tomorrow\", want a time like 2026-12-31T00:00:00Z"},
		"cve": {minimal + "policies:\n- name: a\n  mode: audit\n  match: {images: ['**']}\n  rules:\n  - name: r\n    vulnerabilities: {block: HIGH, unknownAs: LOW}\nexceptions:\n- {id: E, policy: a, rule: r, images: [x], cves: [all of them], reason: r, owner: o, expires: 2026-12-31T00:00:00Z}\n",
			`p.yaml:13:51: exceptions[0].cves[0]: got "all of them", want an id like CVE-2026-12345 or GHSA-xxxx-xxxx-xxxx`},
		"test document": {"apiVersion: breakwater.dev/v1alpha1\nkind: PolicyTest\n", "p.yaml: this is a test document (kind: PolicyTest), want a policy (kind: PolicyBundle)"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := policy.Load("p.yaml", []byte(tt.doc))
			var faults policy.Faults
			if !errors.As(err, &faults) {
				t.Fatalf("%v is not a list of faults", err)
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What the hub sends is what it was given: every field survives the canonical
// form, which is its own.
func TestLoadCanonical(t *testing.T) {
	b := load(t, filepath.Join(policytest.Dir(t), "bundle.yaml"))
	again, err := policy.Load("sent", b.JSON())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.Document(), again.Document()); diff != "" {
		t.Errorf("(-given +sent):\n%s", diff)
	}
	if again.Digest() != b.Digest() {
		t.Errorf("its digest was %s and is %s", b.Digest(), again.Digest())
	}
	if wait := b.Document().Policies[2].Rules[0].Vulnerabilities.Unscanned; *wait.Wait != policy.Duration(10e9) || wait.Then != policy.ActionDeny {
		t.Errorf("defaults of unscanned are %+v", wait)
	}
}

func TestLoadAnchors(t *testing.T) {
	doc := minimal + "policies:\n- name: a\n  mode: audit\n  match: {images: &ours [ghcr.io/acme/**]}\n- name: b\n  mode: audit\n  match: {images: *ours}\n"
	b, err := policy.Load("p.yaml", []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	if got := b.Document().Policies[1].Match.Images; len(got) != 1 || got[0] != "ghcr.io/acme/**" {
		t.Errorf("the alias is %v", got)
	}
}

func TestResolve(t *testing.T) {
	doc := minimal + "trustedRoots: [{name: corp, file: root.json}]\nauthorities:\n- name: a\n  keyless: {trustedRoot: corp, issuer: i, subject: s}\n"
	b, err := policy.Load("p.yaml", []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := b.TrustedRoot("corp"); ok {
		t.Error("a root that was not read is there")
	}
	if _, err := b.Resolve(os.ReadFile); err == nil || !strings.HasPrefix(err.Error(), "p.yaml:5:29: trustedRoots[0].file: open root.json: no such file") {
		t.Errorf("a root that is not there: %v", err)
	}
	if _, err := b.Resolve(func(string) ([]byte, error) { return []byte(`{"keys":[]}`), nil }); err == nil || !strings.HasPrefix(err.Error(), "p.yaml:5:29: trustedRoots[0].file: root.json: ") {
		t.Errorf("a file that is no trusted root: %v", err)
	}
	const root = `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "note": "a\/b \u00e9 \"q\"` + "\\n" + `"}`
	whole, err := b.Resolve(func(file string) ([]byte, error) {
		if file != "root.json" {
			t.Errorf("asked for %s", file)
		}
		return []byte(root), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sent, err := policy.Load("sent", whole.JSON())
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := sent.TrustedRoot("corp"); !ok || string(got) != root {
		t.Errorf("the root arrives as %s", got)
	}
}

// No document makes Load panic or hang; each fault has a place in it; and what
// is read is read again from its canonical form.
func FuzzLoad(f *testing.F) {
	golden, err := os.ReadFile("testdata/golden/bundle.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	for _, s := range []string{minimal, withKey, "a: &a [*a]\n", "<<: *x", "? {a: b}\n: c\n", "policies: [{match: {images: [\"*\", '?', ~]}}]\n", "{\"kind\": \"PolicyBundle\", \"revision\": 1e3}", "--- !!x\n",
		minimal + "exceptions: [{expires: 2026-12-31, cves: [1]}]\n", minimal + "policies:\n- rules: [{attestation: {condition: 'a.b(c, x, x > 1)'}}]\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := policy.Load("p.yaml", data)
		if err != nil {
			var faults policy.Faults
			if !errors.As(err, &faults) || len(faults) == 0 {
				t.Fatalf("%T: %v", err, err)
			}
			lines := strings.Count(string(data), "\n") + strings.Count(string(data), "\r") + 2
			for _, one := range faults {
				if one.Message == "" || one.Line < 0 || one.Line > lines {
					t.Fatalf("%q: %+v in %d lines", data, one, lines)
				}
			}
			return
		}
		again, err := policy.Load("sent", b.JSON())
		if err != nil {
			t.Fatalf("%s: %v", b.JSON(), err)
		}
		if again.Digest() != b.Digest() {
			t.Fatalf("%s\nbecomes\n%s", b.JSON(), again.JSON())
		}
		b.Lint(policy.LintOptions{})
	})
}

func BenchmarkLoad(b *testing.B) {
	text, err := os.ReadFile("testdata/golden/bundle.yaml")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := policy.Load("p.yaml", text); err != nil {
			b.Fatal(err)
		}
	}
}
