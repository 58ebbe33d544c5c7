package judge

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
	"github.com/breakwater-oci/breakwater/hub/scan"
	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/policytest"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const rules = `
apiVersion: breakwater.dev/v1alpha1
kind: PolicyBundle
revision: 1
default: allow
policies:
- {name: clean, mode: enforce, match: {images: ["reg.test/scan/**"]}, rules: [{name: cve, onError: deny, vulnerabilities: {block: HIGH, unknownAs: LOW, unscanned: {wait: 10s, then: deny}}}]}
`

// scans is a scanner whose answer a test sets.
type scans struct {
	facts scan.Facts
	err   error
	asked []scan.Image // by Wait
}

func (s *scans) Facts(context.Context, scan.Image) (scan.Facts, error) { return s.facts, s.err }

func (s *scans) Wait(_ context.Context, img scan.Image, _ time.Time) (scan.Facts, error) {
	s.asked = append(s.asked, img)
	return s.facts, s.err
}

func (s *scans) StatementOf(_ context.Context, d oci.Digest) (policy.ScanStatement, string, error) {
	if len(s.facts.Scans) == 0 || s.facts.Scans[0].State != policy.ScanDone {
		return policy.ScanStatement{}, "", meta.ErrNotFound
	}
	return policy.ScanStatement{Scan: s.facts.Scans[0], Until: time.Now().Add(time.Hour)}, "", nil
}

func key(t testing.TB) crypto.Signer {
	_, k, err := ed25519.GenerateKey(nil)
	must(t, err)
	return k
}

// newJudge has the image 1 in scan/app, and a document when there is text.
func newJudge(t testing.TB, s Scans, text string) (*Judge, ocitest.Tree) {
	t.Helper()
	images, image, signing := ocitest.NewMemory(), ocitest.Image(1, 1, 1000), key(t)
	must(t, image.Push(t.Context(), images, "scan/app", "1"))
	j, err := New(t.Context(), Options{
		Rows: metatest.Open(t, "sqlite", meta.Config{}), Images: images, Scans: s,
		Subject: func(repo string, ref oci.Reference) (policy.Subject, error) {
			return policy.NewSubject("reg.test", repo, ref)
		},
		Repo:       func(name string) (string, bool) { return strings.CutPrefix(name, "reg.test/") },
		SigningKey: func() (string, crypto.Signer) { return "k", signing }, Metrics: prometheus.NewRegistry(),
	})
	must(t, err)
	if text != "" {
		_, err := j.Set(t.Context(), text, "kim")
		must(t, err)
	}
	return j, image
}

func TestOutcomes(t *testing.T) {
	s := &scans{}
	j, image := newJudge(t, s, rules)
	vuln := policy.Vuln{ID: "CVE-1", Package: "x", Severity: policy.High, Fixed: "2"}
	fact := func(s policy.Scan) scan.Facts {
		s.Digest = image.Digest
		return scan.Facts{Kind: policy.KindImage, Scans: []policy.Scan{s}}
	}
	for _, tt := range []struct {
		name  string
		facts scan.Facts
		err   error
		want  policy.Outcome
		text  string
	}{
		{"clean", fact(policy.Scan{State: policy.ScanDone, At: time.Now()}), nil, policy.Allow, ""},
		{"vulnerable", fact(policy.Scan{State: policy.ScanDone, At: time.Now(), Vulns: []policy.Vuln{vuln}}), nil, policy.Deny, "CVE-1"},
		{"queued", fact(policy.Scan{State: policy.ScanPending, Since: time.Now()}), nil, policy.Wait, "first scan not done"},
		{"late", fact(policy.Scan{State: policy.ScanPending, Since: time.Now().Add(-time.Minute)}), nil, policy.Deny, "scan"},
		{"database away", scan.Facts{}, errors.New("secret cause"), policy.Deny, "cannot be read"},
	} {
		s.facts, s.err = tt.facts, tt.err
		j.gate.Reset()
		d, err := j.Explain(t.Context(), "reg.test/scan/app:1")
		if err != nil || d.Outcome != tt.want || !strings.Contains(d.Message(), tt.text) || strings.Contains(d.Message(), "secret") {
			t.Errorf("%s: %s %s %v, want %s", tt.name, d.Outcome, d.Message(), err, tt.want)
		}
	}
	if len(s.asked) == 0 {
		t.Error("no scan was asked for")
	}
	asked := len(s.asked)
	if r, err := j.DryRun(t.Context(), strings.Replace(rules, "revision: 1", "revision: 2", 1), time.Now().Add(-time.Hour), time.Second); err != nil || len(s.asked) != asked {
		t.Errorf("a dry run: %+v %v, asked for %d scans", r, err, len(s.asked)-asked)
	}
}

func TestWithoutScans(t *testing.T) {
	j, image := newJudge(t, nil, rules)
	d, err := j.Explain(t.Context(), "reg.test/scan/app:1")
	must(t, err)
	if d.Outcome != policy.Deny || !strings.Contains(d.Message(), "scan.enabled") {
		t.Errorf("a policy wants scans of a hub that makes none: %s %s", d.Outcome, d.Message())
	}
	n, err := j.NodeScans(t.Context(), "scan/app", hubapi.NodeScanRequest{Image: "reg.test/scan/app", Digest: image.Digest}, time.Now())
	if err != nil || len(n.Scans) != 1 || n.Scans[0].State != policy.ScanError {
		t.Errorf("for a node: %+v %v", n, err)
	}
}

func TestWithoutPolicy(t *testing.T) {
	j, _ := newJudge(t, nil, "")
	if d, err := j.Explain(t.Context(), "reg.test/scan/app:1"); err != nil || d.Outcome != policy.Allow || d.ID != "" {
		t.Errorf("without a policy: %+v %v", d, err)
	}
	if _, _, ok, err := j.Sealed(); ok || err != nil {
		t.Errorf("it seals one: %v", err)
	}
}

// What could let an image through is signed, and nothing else.
func TestNodeScans(t *testing.T) {
	s := &scans{}
	j, image := newJudge(t, s, rules)
	_, signing := j.o.SigningKey()
	signer, err := verify.NewSigner(signing)
	must(t, err)
	keys, err := verify.ParseKeys(signer.PublicKeyPEM())
	must(t, err)
	for state, signed := range map[policy.ScanState]bool{
		policy.ScanDone: true, policy.ScanUnscannable: true, policy.ScanPending: false, policy.ScanError: false,
	} {
		s.facts = scan.Facts{Kind: policy.KindImage, Scans: []policy.Scan{{Digest: image.Digest, State: state, Since: time.Now().Add(-time.Minute)}}}
		n, err := j.NodeScans(t.Context(), "scan/app", hubapi.NodeScanRequest{Image: "reg.test/scan/app", Digest: image.Digest}, time.Now())
		must(t, err)
		if len(n.Scans) != 1 || n.Scans[0].State != state || (n.Scans[0].Statement != nil) != signed {
			t.Fatalf("%s: %+v", state, n)
		}
		if signed {
			if _, err := verify.OpenStatement(n.Scans[0].Statement, keys, policy.ScanStatementType, image.Digest); err != nil {
				t.Errorf("%s: %v", state, err)
			}
		} else if state == policy.ScanPending && n.Scans[0].WaitedMS < 60_000 {
			t.Errorf("%s: waited %d ms", state, n.Scans[0].WaitedMS)
		}
	}
}

func TestNodeDecided(t *testing.T) {
	j, image := newJudge(t, nil, rules)
	good := policy.Decision{ID: "d-1", At: policy.Pull, Subject: policy.Subject{Name: "reg.test/scan/app", Digest: image.Digest}, Outcome: policy.Deny, Would: policy.Deny}
	bad := []policy.Decision{good, good, good, good}
	bad[0].ID = "x"
	bad[1].Subject.Name = "nginx" // not canonical
	bad[2].Subject.Digest = "sha256:1"
	bad[3].Note = strings.Repeat("x", maxToldBytes)
	unseen := good
	unseen.ID, unseen.Subject.Digest, unseen.Subject.Tag = "d-2", "", "1"
	if n, err := j.NodeDecided("n1", "robot$nodes", append(bad, good, unseen)); n != 2 || err != nil {
		t.Errorf("%d of them were noted (%v), want the good ones", n, err)
	}
	for _, node := range []string{"", "a b", "a\n", strings.Repeat("n", 254)} {
		if n, _ := j.NodeDecided(node, "", []policy.Decision{good}); n != 0 {
			t.Errorf("node %.20q is believed", node)
		}
	}
	if _, err := j.NodeDecided("n1", "kim", []policy.Decision{good}); err != nil {
		t.Error(err)
	}
	for id, want := range map[string][]string{"d-1": {"kim", "robot$nodes"}, "d-2": {"robot$nodes"}} {
		all, err := j.Decision(t.Context(), id)
		must(t, err)
		var accounts []string
		for _, d := range all {
			accounts = append(accounts, d.Account)
			if d.Node != "n1" {
				t.Errorf("%s is of node %q", id, d.Node)
			}
		}
		if !slices.Equal(accounts, want) {
			t.Errorf("%s is told by %q, want %q", id, accounts, want)
		}
	}
	j.record.write(t.Context(), true)
	pulls, _, err := j.o.Rows.PolicyPulls(t.Context(), time.Time{}, 10, meta.PolicyPull{})
	if err != nil || len(pulls) != 2 || pulls[0].Digest == "" || pulls[1].Digest == "" {
		t.Errorf("pulls %+v %v, want those of what was seen", pulls, err)
	}
}

// What nodes tell is kept without what is too much of it: a node's decision by
// its rules alone, and all that waits to be written down within a bound.
func TestNodeDecidedAtLength(t *testing.T) {
	j, image := newJudge(t, nil, rules)
	d := policy.Decision{ID: "d-1", At: policy.Pull, Subject: policy.Subject{Name: "reg.test/scan/app", Digest: image.Digest}, Policies: []policy.PolicyResult{{
		Name: "clean", Rules: []policy.RuleResult{{Name: "cve", Reason: "it says so", BlockedCount: 400,
			Evidence: []policy.AuthorityEvidence{{Authority: "a", Err: strings.Repeat("x", maxToldBytes)}}}},
	}}}
	d.Policies[0].Rules[0].Blocked = []policy.BlockedVuln{{ID: "CVE-1"}, {ID: "CVE-2"}}
	if n, err := j.NodeDecided("n1", "kim", []policy.Decision{d}); n != 1 || err != nil {
		t.Fatalf("%d %v", n, err)
	}
	if d.Policies[0].Rules[0].Evidence == nil {
		t.Error("the teller's own was changed")
	}
	all, err := j.Decision(t.Context(), "d-1")
	must(t, err)
	var kept policy.Decision
	must(t, json.Unmarshal(all[0].Body, &kept))
	if r := kept.Policies[0].Rules[0]; len(all[0].Body) > maxToldBytes || r.Evidence != nil || r.Reason == "" || len(r.Blocked) != 2 || r.BlockedCount != 400 {
		t.Errorf("kept: %d bytes, %+v", len(all[0].Body), r)
	}

	j.record.writing.Lock() // the database hangs
	defer j.record.writing.Unlock()
	d.Policies, d.Note = nil, strings.Repeat("x", maxToldBytes-500)
	some := make([]policy.Decision, hubapi.MaxNodeDecisions)
	for i := range some {
		some[i] = d
	}
	for range maxPending / len(some) {
		_, err := j.NodeDecided("n1", "kim", some)
		must(t, err)
	}
	j.record.mu.Lock()
	defer j.record.mu.Unlock()
	if n := len(j.record.decisions); j.record.all.bytes > maxPendingBytes/2 || n < maxPendingBytes/2/maxToldBytes {
		t.Errorf("%d bytes of %d decisions wait", j.record.all.bytes, n)
	}
}

// However much nodes tell, what the hub has decided and seen pulled itself is
// written down, and in its log even where there is no room for a row.
func TestNodesCrowdNothingOut(t *testing.T) {
	j, image := newJudge(t, nil, rules)
	j.o.DecisionLog = filepath.Join(t.TempDir(), "decisions")
	d := policy.Decision{ID: "d-1", At: policy.Pull, Subject: policy.Subject{Name: "reg.test/scan/app", Digest: image.Digest}, Outcome: policy.Deny, Would: policy.Deny}
	q := enforce.Question{Repo: "scan/app", Subject: d.Subject}
	own := func(id string) {
		d := d
		d.ID = id
		j.record.decided(q, d)
	}
	j.record.writing.Lock() // the database hangs
	some := make([]policy.Decision, hubapi.MaxNodeDecisions)
	for i := 0; i < maxPending+len(some); i += len(some) {
		for k := range some {
			some[k] = d
			some[k].Subject.Digest = oci.FromBytes(fmt.Append(nil, i+k))
		}
		_, err := j.NodeDecided("n1", "kim", some)
		must(t, err)
	}
	own("d-first")
	j.record.pulled(q, d)
	if told := len(j.record.decisions) - 1; told != maxPending/2 || len(j.record.pulls) != maxPending/2+1 {
		t.Errorf("%d decisions and %d pulls of nodes wait, want %d each", told, len(j.record.pulls)-1, maxPending/2)
	}
	for len(j.record.decisions) < maxPending {
		own("d-more")
	}
	own("d-last")
	j.record.writing.Unlock()
	if rows, err := j.Decision(t.Context(), "d-first"); err != nil || len(rows) != 1 {
		t.Errorf("the hub's own: %+v %v", rows, err)
	}
	if rows, err := j.Decision(t.Context(), "d-last"); err != nil || len(rows) != 0 {
		t.Errorf("beyond the bound: %+v %v", rows, err)
	}
	log, err := os.ReadFile(j.o.DecisionLog)
	if err != nil || !strings.Contains(string(log), `"d-last"`) {
		t.Errorf("of %d bytes the log has no d-last (%v)", len(log), err)
	}
	j.record.write(t.Context(), true)
	if n, err := j.NodeDecided("n1", "bob", some); n != len(some) || err != nil || len(j.record.decisions) != n || len(j.record.pulls) != n {
		t.Errorf("once written, %d decisions and %d pulls wait (%v)", len(j.record.decisions), len(j.record.pulls), err)
	}
}

// Nobody tells more than there is room for, and nobody is kept from telling by
// another who does.
func TestNodeDecidedTooMuch(t *testing.T) {
	now := time.Now()
	j, image := newJudge(t, nil, rules)
	j.o.Now = func() time.Time { return now }
	some := make([]policy.Decision, hubapi.MaxNodeDecisions)
	for i := range some {
		some[i] = policy.Decision{ID: "x"} // which none is
	}
	good := policy.Decision{ID: "d-1", At: policy.Pull, Subject: policy.Subject{Name: "reg.test/scan/app", Digest: image.Digest}}
	tell := func(caller string) (told int, err error) {
		for {
			if _, err := j.NodeDecided("n1", caller, some); err != nil {
				return told, err
			}
			told += len(some)
		}
	}
	named, err := tell("kim")
	if e, ok := errors.AsType[*oci.Error](err); !ok || e.Code != oci.TooManyRequests || e.RetryAfter == 0 {
		t.Errorf("too many are %v", err)
	}
	anonymous, _ := tell("")
	if named != tellBurst || anonymous != anonymousBurst {
		t.Errorf("%d were taken of an account, %d of nobody", named, anonymous)
	}
	if n, err := j.NodeDecided("n1", "robot$nodes", []policy.Decision{good}); n != 1 || err != nil {
		t.Errorf("of another account: %d %v", n, err)
	}
	now = now.Add(time.Minute)
	if n, err := j.NodeDecided("n1", "kim", []policy.Decision{good}); n != 1 || err != nil {
		t.Errorf("a minute later: %d %v", n, err)
	}
}

// What nodes cannot start without is let through by every document, and so is
// what is in it.
func TestExempt(t *testing.T) {
	j, image := newJudge(t, nil, strings.Replace(rules, "default: allow", "default: deny", 1))
	index := ocitest.Index(5, 1, 100, "amd64", "arm64")
	must(t, index.Push(t.Context(), j.o.Images, "scan/pause", "1"))
	other := ocitest.Image(7, 1, 100)
	must(t, other.Push(t.Context(), j.o.Images, "scan/other", "1"))
	j.o.Exempt = []oci.Digest{image.Digest, index.Digest}
	for name, want := range map[string]policy.Outcome{
		"scan/app:1": policy.Allow, "scan/pause:1": policy.Allow, "scan/other:1": policy.Deny,
	} {
		d, err := j.Explain(t.Context(), "reg.test/"+name)
		if err != nil || d.Outcome != want || (want == policy.Allow) != strings.Contains(d.Note, "policy.exempt") {
			t.Errorf("%s: %s %q %v", name, d.Outcome, d.Note, err)
		}
	}
}

// The golden files are judged the same by a document as it is stored.
func TestGolden(t *testing.T) {
	j, _ := newJudge(t, nil, "")
	policytest.GoldenBy(t, func(document []byte, facts policy.Facts, now time.Time) (d policy.Decision, err error) {
		b, err := policy.Load("golden", document)
		if err != nil {
			return d, err
		}
		_, err = j.o.Rows.PutPolicy(t.Context(), meta.Policy{
			Revision: b.Revision(), Digest: b.Digest(), Source: meta.PolicyAPI, Text: string(document), Body: string(b.JSON()),
		})
		if err != nil {
			return d, err
		}
		row, err := j.o.Rows.Policy(t.Context())
		if err != nil {
			return d, err
		}
		if b, err = policy.Load("policy", []byte(row.Body)); err != nil {
			return d, err
		}
		return b.Evaluate(facts, now), nil
	})
}

// The seal is renewed long before nodes think the policy old, and when the key
// changes.
func TestSealIsRenewed(t *testing.T) {
	now, k, id := time.Now(), key(t), "a"
	j, _ := newJudge(t, nil, rules)
	j.o.Now = func() time.Time { return now }
	j.o.SigningKey = func() (string, crypto.Signer) { return id, k }
	etag := func() string {
		_, etag, ok, err := j.Sealed()
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		return etag
	}
	first := etag()
	now = now.Add(time.Minute)
	if again := etag(); again != first {
		t.Error("it is sealed anew each time")
	}
	now = now.Add(hubapi.PolicySealedFor / 2)
	second := etag()
	k, id = key(t), "b"
	if third := etag(); slices.Contains([]string{first, second}, third) || first == second {
		t.Error("it is not sealed anew")
	}
}

func BenchmarkJudge(b *testing.B) {
	s := &scans{}
	j, image := newJudge(b, s, rules)
	s.facts = scan.Facts{Kind: policy.KindImage, Scans: []policy.Scan{{Digest: image.Digest, State: policy.ScanDone, At: time.Now()}}}
	b.ReportAllocs()
	for b.Loop() {
		j.gate.Forget(image.Digest)
		if _, err := j.gate.Resolve(b.Context(), "scan/app", oci.Tagged("1")); err != nil {
			b.Fatal(err)
		}
	}
}
