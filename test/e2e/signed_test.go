package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// crowdSize is one more than the referrers, and the signatures under a tag, that are looked at beside an image.
const crowdSize = 33

// signedCases are images of docker.io/library, what lies beside each, and the words with which the policy of its name's
// first part (see signedPolicy) refuses it, "" when it does not.
var signedCases = []signedCase{
	{name: "key-unsigned", refused: `no valid signature (release: none found)`},
	{name: "key-right-tag", deeds: []deed{{do: "sign", way: asTag, by: "release"}}},
	{name: "key-right-bundle", deeds: []deed{{do: "sign", way: asBundle, by: "release"}}},
	{name: "key-wrong-tag", deeds: []deed{{do: "sign", way: asTag, by: "stranger"}}, refused: `(release: 1 found, not made by this key)`},
	{name: "key-wrong-bundle", deeds: []deed{{do: "sign", way: asBundle, by: "stranger"}}, refused: `(release: 1 found, not made by this key)`},
	{name: "key-certificate", deeds: []deed{{do: "sign", way: asBundle, by: "ci"}}, refused: `(release: 1 found, made with a certificate, not with a key)`},
	{name: "key-several", deeds: []deed{{do: "sign", way: asTag, by: "release"}, {do: "sign", way: asTag, by: "stranger"}, {do: "sign", way: asBundle, by: "stranger"}}},
	{name: "key-copied-tag", deeds: []deed{{do: "copy", way: asTag, by: "release"}}, refused: `(release: 1 found, signs another image, sha256:`},
	{name: "key-copied-bundle", deeds: []deed{{do: "copy", way: asBundle, by: "release"}}, refused: `(release: 1 found, signs another image, sha256:`},
	{name: "key-attested-tag", deeds: []deed{{do: "attest", way: asTag, by: "slsa by release"}}, refused: `(release: none found)`},
	{name: "key-attested-bundle", deeds: []deed{{do: "attest", way: asBundle, by: "slsa by release"}}, refused: `(release: 1 found, 1 attestation, no signature)`},

	{name: "key-index-tag", index: true, deeds: []deed{{do: "sign", way: asTag, by: "release"}}},
	{name: "key-index-bundle", index: true, deeds: []deed{{do: "sign", way: asBundle, by: "release"}}},
	{name: "key-child-tag", index: true, deeds: []deed{{do: "sign", way: asTag, by: "release", on: arch}}},
	{name: "key-child-bundle", index: true, deeds: []deed{{do: "sign", way: asBundle, by: "release", on: arch}}},
	{name: "key-other-child", index: true, deeds: []deed{{do: "sign", way: asBundle, by: "release", on: otherArch}}, refused: `(release: none found)`},
	{name: "key-wrong-child", index: true, deeds: []deed{{do: "sign", way: asBundle, by: "stranger"}, {do: "sign", way: asTag, by: "stranger", on: arch}},
		refused: `(release: 2 found, not made by this key)`},

	{name: "key-papers", deeds: []deed{{do: "papers", many: crowdSize}, {do: "sign", way: asBundle, by: "release"}}},
	{name: "key-attested-often", deeds: []deed{{do: "sign", way: asBundle, by: "release"}, {do: "attest often", by: "slsa by release", many: crowdSize}}},
	{name: "key-crowd-tag", deeds: []deed{{do: "crowd", way: asTag, by: "stranger", many: crowdSize}, {do: "sign", way: asTag, by: "release"}}},
	// Those who may put that many beside it may as well take away what is there.
	{name: "key-buried-tag", deeds: []deed{{do: "sign", way: asTag, by: "release"}, {do: "crowd", way: asTag, by: "stranger", many: crowdSize}}, refused: `2 more were not looked at, only the likeliest 32 are)`},
	{name: "key-buried-bundle", deeds: []deed{{do: "sign", way: asBundle, by: "release"}, {do: "crowd", way: asBundle, by: "stranger", many: crowdSize}}, refused: `2 more were not looked at, only the likeliest 32 are)`},
	{name: "key-huge", deeds: []deed{{do: "huge"}}, refused: `(release: 1 found, not looked at: 10 MiB is more than the 1.0 MiB a signature may have)`},
	{name: "key-huge-right", deeds: []deed{{do: "huge"}, {do: "sign", way: asBundle, by: "release"}}},

	{name: "ci-right-tag", deeds: []deed{{do: "sign", way: asTag, by: "ci"}}},
	{name: "ci-right-bundle", deeds: []deed{{do: "sign", way: asBundle, by: "ci"}}},
	{name: "ci-other-repo-tag", deeds: []deed{{do: "sign", way: asTag, by: "other-repo"}}, refused: `(ci: 1 found, subject mismatch: got https://github.com/evil/app/`},
	{name: "ci-other-repo-bundle", deeds: []deed{{do: "sign", way: asBundle, by: "other-repo"}}, refused: `(ci: 1 found, subject mismatch: got https://github.com/evil/app/`},
	{name: "ci-other-issuer", deeds: []deed{{do: "sign", way: asBundle, by: "other-issuer"}}, refused: `(ci: 1 found, issuer mismatch: got https://token.evil.test, want ` + ciIssuer + `)`},
	{name: "ci-key", deeds: []deed{{do: "sign", way: asTag, by: "release"}}, refused: `(ci: 1 found, made with a key, not with a certificate)`},
	{name: "ci-expired-tag", deeds: []deed{{do: "sign", way: asTag, by: "expired"}}, refused: `(ci: 1 found, its certificate expired `},
	{name: "ci-expired-bundle", deeds: []deed{{do: "sign", way: asBundle, by: "expired"}}, refused: `(ci: 1 found, its certificate expired `},
	{name: "ci-copied", deeds: []deed{{do: "copy", way: asBundle, by: "ci"}}, refused: `(ci: 1 found, signs another image, sha256:`},

	{name: "dated-inside-tag", deeds: []deed{{do: "sign", way: asTag, by: "expired-stamped"}}},
	{name: "dated-inside-bundle", deeds: []deed{{do: "sign", way: asBundle, by: "expired-stamped"}}},
	{name: "dated-later-tag", deeds: []deed{{do: "sign", way: asTag, by: "expired-stamped-later"}}, refused: `, with a certificate for `},
	{name: "dated-later-bundle", deeds: []deed{{do: "sign", way: asBundle, by: "expired-stamped-later"}}, refused: `, with a certificate for `},
	{name: "dated-never-tag", deeds: []deed{{do: "sign", way: asTag, by: "ci"}}, refused: `(ci-dated: 1 found, no signed timestamp, which trusted root "dated" asks for)`},
	{name: "dated-never-bundle", deeds: []deed{{do: "sign", way: asBundle, by: "ci"}}, refused: `(ci-dated: 1 found, no signed timestamp, which trusted root "dated" asks for)`},

	{name: "either-unsigned", refused: `no valid signature (release: none found; ci: none found)`},
	{name: "either-ci", deeds: []deed{{do: "sign", way: asTag, by: "ci"}}},
	{name: "either-wrong", deeds: []deed{{do: "sign", way: asTag, by: "other-issuer"}}, refused: `(release: 1 found, not made by this key; ci: 1 found, issuer mismatch: `},

	{name: "built-right-tag", deeds: []deed{{do: "attest", way: asTag, by: "slsa by release"}}},
	{name: "built-right-bundle", deeds: []deed{{do: "attest", way: asBundle, by: "slsa by release"}}},
	{name: "built-elsewhere", deeds: []deed{{do: "attest", way: asBundle, by: "slsa-other by release"}}, refused: `no valid attestation (release: 1 found, condition is false)`},
	{name: "built-wrong-key", deeds: []deed{{do: "attest", way: asBundle, by: "slsa by stranger"}}, refused: `(release: 1 found, not made by this key)`},
	{name: "built-other-type", deeds: []deed{{do: "attest", way: asBundle, by: "spdx by release"}}, refused: `(release: none found)`},
	{name: "built-only-signed", deeds: []deed{{do: "sign", way: asBundle, by: "release"}, {do: "sign", way: asTag, by: "release"}}, refused: `(release: none found)`},

	{name: "audited-wrong", deeds: []deed{{do: "sign", way: asTag, by: "stranger"}}, audit: `(release: 1 found, not made by this key)`},
	{name: "audited-right", deeds: []deed{{do: "sign", way: asTag, by: "release"}}},
	{name: "unnamed", ungated: true},
}

var otherArch = map[string]string{"amd64": "arm64", "arm64": "amd64"}[arch]

// signedPolicy is the document: a policy for the images whose names begin with its own.
func signedPolicy(s *signers) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
apiVersion: breakwater.dev/v1alpha1
kind: PolicyBundle
revision: 7
default: allow
platforms: [linux/%s]
trustedRoots:
- {name: acme, file: acme.json}
- {name: dated, json: %q}
authorities:
- {name: release, key: {pem: %q}}
- {name: ci, keyless: {trustedRoot: acme, issuer: %[4]q, subjectRegExp: "^https://github[.]com/acme/"}}
- {name: ci-dated, keyless: {trustedRoot: dated, issuerRegExp: "^https://token[.]ci[.]", subject: %[5]q}}
policies:
`, arch, s.trustedRoot(true), s.pem["release"], ciIssuer, ciSubject)
	for _, p := range []struct{ name, mode, rule string }{
		{"own", "enforce", `signature: {anyOf: [release]}`},
		{"key", "enforce", `signature: {anyOf: [release]}`},
		{"ci", "enforce", `signature: {anyOf: [ci]}`},
		{"dated", "enforce", `signature: {anyOf: [ci-dated]}`},
		{"either", "enforce", `signature: {anyOf: [release, ci]}`},
		{"audited", "audit", `signature: {anyOf: [release]}`},
		{"built", "enforce", `attestation: {predicateType: "https://slsa.dev/provenance/v1", anyOf: [release],
      condition: 'predicate.runDetails.builder.id.startsWith("https://ci.acme.test/")'}`},
	} {
		fmt.Fprintf(&b, `
- name: %[1]s
  mode: %[2]s
  match: {images: ["docker.io/library/%[1]s-*", "localhost:*/team/%[1]s-*"]}
  rules:
  - name: is-%[1]s
    %[3]s
`, p.name, p.mode, p.rule)
	}
	return b.String()
}

// What was signed by the real cosign, and what was not, is judged alike by the hub, by a node through it, and by a node
// that has lost its hub, and each says the same words.
func TestSigned(t *testing.T) {
	s := newSignedHouse(t)
	t.Run("sign", func(t *testing.T) {
		for i := range s.cases {
			c := &s.cases[i]
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				s.prepare(t, c)
			})
		}
	})
	if t.Failed() {
		return
	}
	each := func(t *testing.T, prefix string, check func(t *testing.T, c *signedCase)) {
		for i := range s.cases {
			if c := &s.cases[i]; strings.HasPrefix(c.name, prefix) {
				t.Run(c.name, func(t *testing.T) { check(t, c) })
			}
		}
	}

	t.Run("hub", func(t *testing.T) { each(t, "", s.atHub) })
	t.Run("node", func(t *testing.T) {
		each(t, "", s.new.atNode)
		// What lies beside images has come through the hub.
		if n := asked(s.upstream, byAgent, "", ""); n > 0 {
			t.Errorf("docker.io had %d requests of the agent:%s", n, lines(s.upstream))
		}
		for path, n := range s.given("/v2/library/key-right-tag/") {
			if n != 1 {
				t.Errorf("docker.io has given %s %d times", path, n)
			}
		}
		huge := 0
		for _, r := range s.upstream.Requests() {
			if strings.HasPrefix(r.Path, "/v2/library/key-huge") && r.Bytes > 5<<20 {
				huge++
			}
		}
		if huge > 0 {
			t.Errorf("what is too large was fetched all the same, %d times", huge)
		}
	})
	t.Run("node with containerd "+rig.Containerd17, func(t *testing.T) { each(t, "key-", s.old.atNode) })
	t.Run("overwritten", s.overwritten)
	t.Run("audit", s.audit)
	t.Run("blobs", s.blobs)
	t.Run("own", s.own)

	s.hub.Kill9()
	s.door.Refuse(true)
	s.new.forgetAll(t)
	s.old.forgetAll(t)
	t.Run("node without hub", func(t *testing.T) {
		s.upstream.ResetLog()
		each(t, "", s.new.atNode)
		if n := asked(s.upstream, byAgent, "HEAD", `/manifests/sha256-[0-9a-f]{64}(\.sig|\.att)?$`); n == 0 {
			t.Errorf("the agent did not look for signatures itself:%s", lines(s.upstream))
		}
	})
	t.Run("node without hub, containerd "+rig.Containerd17, func(t *testing.T) { each(t, "key-", s.old.atNode) })
}

// overwritten has a signed image's tag moved to one that is not: the tag is refused, what was signed is not.
func (s *signedHouse) overwritten(t *testing.T) {
	c := signedCase{name: "key-overwritten", deeds: []deed{{do: "sign", way: asTag, by: "release"}}}
	s.prepare(t, &c)
	s.atHub(t, &c)
	s.new.atNode(t, &c)
	old := signedCase{name: c.name, ref: "@" + c.digest, digest: c.digest, id: c.id}

	moved := signedCase{name: c.name, refused: "(release: none found)"}
	s.prepare(t, &moved)
	s.noticed(t, &moved, s.hub.URL+"/v2/docker.io/library/"+c.name+"/manifests/1")
	s.atHub(t, &moved)
	s.noticed(t, &moved, s.new.node.URL+"/v2/library/"+c.name+"/manifests/1?ns=docker.io")
	s.new.atNode(t, &moved)
	s.atHub(t, &old)
	s.new.atNode(t, &old)
	s.cases = append(s.cases, moved, old)
}

// audit looks for what is told of a pull that a policy in audit mode would refuse.
func (s *signedHouse) audit(t *testing.T) {
	c := s.byName("audited-wrong")
	metric := `breakwater_policy_decisions_total{mode="audit",outcome="deny",policy="audited",rule="is-audited"} `
	for who, of := range map[string]struct{ log, metrics string }{
		"hub":  {s.decisionLog, s.hub.MetricsURL + "/metrics"},
		"node": {s.new.node.Dir + "/state/policy/decisions.jsonl", s.new.node.StatusURL + "/metrics"},
	} {
		text, err := os.ReadFile(of.log)
		if err != nil {
			t.Fatal(err)
		}
		var found []loggedDecision
		for _, l := range parsedLines[loggedDecision](t, text) {
			if l.Decision.ID == c.id {
				found = append(found, l)
			}
		}
		if len(found) != 1 || !strings.Contains(found[0].Message, "audit only, would be refused: ") || !strings.Contains(found[0].Message, c.audit) {
			t.Errorf("%s: the decision log has %+v, want one line that says what would be refused", who, found)
		}
		a := ask(t, "GET", of.metrics)
		if a.status != http.StatusOK || !strings.Contains(string(a.body), "\n"+metric) {
			t.Errorf("%s: no metric %s", who, metric)
		}
	}
}

// blobs asks the hub for the layers of an image that it refuses, and of one that it does not.
func (s *signedHouse) blobs(t *testing.T) {
	for name, status := range map[string]int{"key-wrong-tag": http.StatusForbidden, "key-right-tag": http.StatusOK} {
		c := s.byName(name)
		m, err := inRegistry(t, s.registry, c.name, c.digest).image().Manifest()
		if err != nil {
			t.Fatal(err)
		}
		for _, blob := range append(m.Layers, m.Config) {
			a := ask(t, "GET", s.hub.URL+"/v2/docker.io/library/"+c.name+"/blobs/"+blob.Digest.String())
			if a.status != status || status == http.StatusForbidden && refusalIn(t, a).Message != c.message {
				t.Errorf("%s: the hub says %v, want %d and %q", name, a, status, c.message)
			}
		}
	}
}

// own has images signed that are the hub's own, by the real cosign: who may push them may look at them for that, and who
// pulls may as soon as they are signed.
func (s *signedHouse) own(t *testing.T) {
	login := func(robot string, rights ...string) (env []string) {
		secret := s.robot(t, robot, rights...)
		env = clientEnv(t)
		run(t, env, s.crane, "auth", "login", s.hub.Host, "-u", "robot$"+robot, "-p", secret)
		return env
	}
	ci, reader := login("ci", "pull", "push"), login("reader", "pull")
	for _, tt := range []struct {
		way, by string
		valid   bool
	}{{asTag, "release", true}, {asBundle, "release", true}, {asTag, "stranger", false}, {asBundle, "stranger", false}} {
		name := "team/own-" + tt.by + "-" + tt.way
		image := s.hub.Host + "/" + name
		run(t, ci, s.crane, "copy", strings.TrimPrefix(s.registry.URL, "http://")+"/library/key-unsigned:1", image+":1")
		refused := func(words string) {
			t.Helper()
			_, err := try(t, reader, s.crane, "manifest", image+":1")
			if err == nil || !strings.Contains(err.Error(), `policy "own" rule "is-own": no valid signature (release: `+words+`)`) {
				t.Errorf("%s: %v, want %q", image, err, words)
			}
		}
		refused("none found")
		by := *s.signers
		signing := *s.signing
		signing.env = append(ci, "COSIGN_PASSWORD=x")
		by.signing = &signing
		by.do(shelvedAt(t, image+"@"+s.byName("key-unsigned").digest), deed{do: "sign", way: tt.way, by: tt.by})
		if !tt.valid {
			refused("1 found, not made by this key")
			continue
		}
		run(t, reader, s.crane, "pull", image+":1", os.DevNull)
	}
}
