package policy

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// However long and hostile the parts are, the message is short, one line,
// names rule and decision and ends in what to do.
func TestMessageBounds(t *testing.T) {
	long := func(s string) string { return strings.Repeat(s, 600/len(s)) }
	for _, part := range []string{long("a"), long("é"), long("\U0001F600"), long("\x00\n"), long("\xff"), long(`"\`), "", "short"} {
		for _, outcome := range []Outcome{Deny, Wait, Allow} {
			for _, kind := range []RuleKind{KindSignature, KindAttestation, KindVulnerabilities, KindDefault, KindPolicyAge} {
				r := RuleResult{
					Name: part, Kind: kind, Verdict: VerdictFail, Outcome: outcome, Reason: part,
					Evidence: []AuthorityEvidence{{Authority: part}, {Authority: part}},
					Lapsed:   []ExceptionUse{{ID: part, Owner: part}},
				}
				if kind == KindVulnerabilities {
					r.Blocked, r.BlockedCount = []BlockedVuln{{ID: part, Package: part, Installed: part, Fixed: part}}, 1e9
				}
				d := Decision{
					ID: "d-0123456789ab", Subject: Subject{Name: part, Tag: part, Digest: testDigest}, Outcome: outcome, Would: Deny, Note: part,
					Policies: []PolicyResult{{Name: part, Mode: Enforce, Outcome: outcome, Rules: []RuleResult{r, r}}, {Name: part, Mode: Audit, Outcome: Deny, Rules: []RuleResult{r}}},
				}
				checkMessage(t, &d)
				d.Explain()
			}
		}
	}
}

func checkMessage(t *testing.T, d *Decision) {
	t.Helper()
	m := d.Message()
	if len(m) > MaxMessage || !utf8.ValidString(m) || strings.ContainsFunc(m, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Fatalf("%d bytes: %q", len(m), m)
	}
	if !strings.Contains(m, "breakwater "+d.ID) {
		t.Errorf("no id in %q", m)
	}
	if d.Outcome != Allow && !strings.HasSuffix(m, "; see: breakwater policy explain "+d.ID) {
		t.Errorf("no way on in %q", m)
	}
}

// The longest of what is real is all there.
func TestMessageNamesAll(t *testing.T) {
	d := Decision{
		ID: "d-0123456789ab", Outcome: Deny, Would: Deny,
		Subject: Subject{Name: "registry.eu-central-1.corp.example:5000/platform/team-payments/" + strings.Repeat("service-", 20) + "api", Tag: strings.Repeat("t", 128), Digest: testDigest},
		Policies: []PolicyResult{{Name: "no-critical-vulnerabilities-in-production", Mode: Enforce, Outcome: Deny, Rules: []RuleResult{{
			Name: "critical-vulnerabilities-with-a-fix", Kind: KindVulnerabilities, Verdict: VerdictFail, Outcome: Deny, BlockedCount: 214,
			Blocked: []BlockedVuln{{ID: "GHSA-xvch-5gv4-984h", Severity: Critical, Package: "golang.org/x/crypto", Installed: "v0.0.0-20220622", Fixed: "0.17.0"}},
		}}}},
	}
	m := d.Message()
	for _, part := range []string{"GHSA-xvch-5gv4-984h", "CRITICAL", "golang.org/x/crypto", "fixed in 0.17.0", "and 213 more", "no-critical-", "critical-vuln", "service-api@sha256:aaaa", d.ID} {
		if !strings.Contains(m, part) {
			t.Errorf("no %q in %q", part, m)
		}
	}
	checkMessage(t, &d)
	if s := d.Summary(); !strings.HasPrefix(s, `policy "no-crit`) || strings.Contains(s, d.ID) || strings.Contains(s, "service-api") || !strings.HasSuffix(s, "; rebuild with the fixed version") {
		t.Errorf("of what nobody was told: %q", s)
	}
}

// Each rule that refuses is seen to: one alone would not do.
func TestExplainAllThatRefuse(t *testing.T) {
	signature := func(name, authority string) RuleResult {
		return RuleResult{Name: name, Kind: KindSignature, Verdict: VerdictFail, Outcome: Deny, Evidence: []AuthorityEvidence{{Authority: authority}}}
	}
	d := Decision{ID: "d-0123456789ab", Outcome: Deny, Would: Deny, Policies: []PolicyResult{
		{Name: "one", Mode: Enforce, Outcome: Deny, Rules: []RuleResult{signature("a", "us"), {Name: "b", Kind: KindVulnerabilities, Verdict: VerdictUnscanned, Outcome: Deny}}},
		{Name: "seen", Mode: Audit, Outcome: Deny, Rules: []RuleResult{signature("c", "them")}},
		{Name: "two", Mode: Enforce, Outcome: Deny, Rules: []RuleResult{signature("d", "us"), {Name: "e", Kind: KindSignature, Verdict: VerdictPass, Outcome: Allow}}},
	}}
	want := "What to do, all of it:\n  one/a, two/d: sign it as us\n  one/b: " + d.advice(&d.Policies[0].Rules[1]) + "\n"
	if got := d.Explain(); !strings.HasSuffix(got, want) {
		t.Errorf("got\n%s\nwant at its end\n%s", got, want)
	}
	none := Decision{Subject: Subject{Name: "ghcr.io/acme/api"}, Outcome: Allow, Would: Allow, Note: "there is no policy"}
	if got := none.Explain(); got != "ALLOW  ghcr.io/acme/api\nthere is no policy.\n" {
		t.Errorf("without a policy: %q", got)
	}
	if got := none.Message(); got != "breakwater: allowed ghcr.io/acme/api; there is no policy" {
		t.Errorf("without a policy: %q", got)
	}
}

// An image that waits for what the hub has not got is not scanned by waiting.
func TestAdviceWhereSomethingIsMissing(t *testing.T) {
	for reason, want := range map[string]string{"": "try again when it is scanned", NoDatabase: "check breakwater scan status", NoScanner: "check breakwater scan status"} {
		r := RuleResult{Kind: KindVulnerabilities, Verdict: VerdictUnscanned, Outcome: Deny, Reason: because("no scan yet", &Scan{Platform: "linux/arm64", Reason: reason})}
		if got := (&Decision{}).advice(&r); got != want || !strings.Contains(r.Reason, reason) {
			t.Errorf("%s: %q, want %q", r.Reason, got, want)
		}
	}
}

func TestClip(t *testing.T) {
	for _, tt := range []struct {
		s    string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"abcdef", 5, "ab…"}, {"ééé", 5, "é…"}, {"ééé", 4, "…"}, {"abcdef", 2, ""}, {"", 0, ""}} {
		if got := clip(tt.s, tt.n); got != tt.want {
			t.Errorf("clip(%q, %d) = %q, want %q", tt.s, tt.n, got, tt.want)
		}
	}
}

// Messages of the decisions that come about are within bounds too.
func TestMessageOfWorlds(t *testing.T) {
	for i := range 500 {
		w := world{rand.New(rand.NewPCG(uint64(i), 5))}
		d := w.bundle(t, w.document(t)).Evaluate(w.facts(), w.when())
		checkMessage(t, &d)
	}
}

func TestExplain(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	d := Decision{
		ID: "d-0123456789ab", Subject: Subject{Name: "ghcr.io/acme/api", Tag: "1", Digest: testDigest}, At: Pull, Outcome: Allow, Would: Deny, Mode: Audit,
		Revision: 42, DBRevision: "2026-11-21", SignaturesAt: now.Add(-28 * time.Second), Time: now, ValidUntil: now.Add(time.Hour), StalePolicy: true,
		Policies: []PolicyResult{
			{Name: "signed", Mode: Enforce, Outcome: Allow, Rules: []RuleResult{{
				Name: "by-us", Kind: KindSignature, Verdict: VerdictSkipped, Outcome: Allow, Reason: "waived by EX-1; it was: no valid signature (release: 1 found, wrong\x1b[31m key)",
				Evidence: []AuthorityEvidence{{Authority: "release", Rejected: []Evidence{{Digest: "sha256:b", Form: "tag", On: "sha256:a", Identity: "me", Issuer: "you", Reason: "wrong key"}}}, {Authority: "ci"}, {Authority: "old", Err: "timeout"}},
				Used:     []ExceptionUse{{ID: "EX-1", Owner: "team-a", Reason: "OPS-1", Expires: now.Add(48 * time.Hour)}},
			}}},
			{Name: "cves", Mode: Audit, Outcome: Deny, Rules: []RuleResult{{
				Name: "critical", Kind: KindVulnerabilities, Verdict: VerdictFail, Outcome: Deny, Reason: "3 vulnerabilities of severity HIGH or above",
				Blocked: []BlockedVuln{{ID: "CVE-1", Severity: Critical, Package: "zlib", Installed: "1.2", Fixed: "1.3", Platform: "linux/amd64"}, {ID: "CVE-2", Severity: High, Package: "bash", Installed: "5"}}, BlockedCount: 3, InGrace: 1, Excepted: 2,
				Used:   []ExceptionUse{{ID: "EX-2", Owner: "team-b", Reason: "no way in", Expires: now.Add(time.Hour), CVEs: []string{"CVE-8", "CVE-9"}}},
				Lapsed: []ExceptionUse{{ID: "EX-3", Owner: "team-c", Reason: "soon", Expires: now.Add(-time.Hour), CVEs: []string{"CVE-1"}}},
			}}},
			{Name: "nothing", Mode: Enforce, Outcome: Allow},
		},
	}
	const want = `d-0123456789ab  ALLOW  ghcr.io/acme/api:1@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
Only audit mode says otherwise: enforced, it would be DENY.
Asked for a pull at 2026-11-21T12:00:00Z; policy revision 42 (older than its maxPolicyAge), vulnerability database 2026-11-21, signatures looked at 28s before; holds until 2026-11-21T13:00:00Z.

policy signed (enforce): allow
  rule by-us (signature): skipped, so allow
    waived by EX-1; it was: no valid signature (release: 1 found, wrong?[31m key)
    release: rejected: sha256:b (tag) on sha256:a by me vouched for by you: wrong key
    ci: none found
    old: could not find out: timeout
    exception EX-1 of team-a "OPS-1" until 2026-11-23T12:00:00Z

policy cves (audit): deny
  rule critical (vulnerabilities): fail
    3 vulnerabilities of severity HIGH or above
    CVE-1 CRITICAL in zlib 1.2, fixed in 1.3 [linux/amd64]
    CVE-2 HIGH in bash 5, no fix yet
    and 1 more
    1 more not counted yet: published a short time ago
    2 more not counted: excepted
    exception EX-2 of team-b [CVE-8, CVE-9] "no way in" until 2026-11-21T13:00:00Z
    exception EX-3 of team-c [CVE-1] "soon" LAPSED at 2026-11-21T11:00:00Z

policy nothing (enforce): allow
  it has no rules: whatever it matches is allowed

What to do: ask team-c about exception EX-3, which has lapsed.
`
	if got := d.Explain(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
