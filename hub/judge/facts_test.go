package judge

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/scan"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

// What a scan has found is told of what lies in the repository that was named,
// and of no other: the caller's right is to that one.
func TestNodeScansOfAnothers(t *testing.T) {
	image := ocitest.Image(1, 1, 1000)
	s := &scans{facts: scan.Facts{Kind: policy.KindImage, Scans: []policy.Scan{{Digest: image.Digest, State: policy.ScanDone}}}}
	j, _ := newJudge(t, s, rules)
	n, err := j.NodeScans(t.Context(), "mine/app", hubapi.NodeScanRequest{Image: "reg.test/mine/app", Digest: image.Digest}, time.Now())
	if !oci.IsAbsent(err) || len(n.Scans) != 0 || len(s.asked) != 0 {
		t.Errorf("%+v %v, asked for %v", n, err, s.asked)
	}
}

// Nobody has an image scanned by asking as a node that no policy wants scanned,
// unless they say who they are.
func TestWhoHasImagesScanned(t *testing.T) {
	s := &scans{}
	j, image := newJudge(t, s, strings.Replace(rules, "reg.test/scan/**", "reg.test/other/**", 1))
	s.facts = scan.Facts{Kind: policy.KindImage, Scans: []policy.Scan{{Digest: image.Digest, State: policy.ScanNone}}}
	q := hubapi.NodeScanRequest{Image: "reg.test/scan/app", Digest: image.Digest}
	n, err := j.NodeScans(t.Context(), "scan/app", q, time.Now())
	must(t, err)
	if len(s.asked) != 0 || len(n.Scans) != 1 || n.Scans[0].State != policy.ScanError || !strings.Contains(n.Scans[0].Reason, "account") {
		t.Errorf("nobody: %+v, asked for %v", n, s.asked)
	}
	_, err = j.NodeScans(oci.WithCaller(t.Context(), oci.Caller{Name: "robot$nodes"}), "scan/app", q, time.Now())
	if err != nil || len(s.asked) != 1 {
		t.Errorf("an account: %v, asked for %v", err, s.asked)
	}
	_, err = j.Set(t.Context(), strings.Replace(rules, "revision: 1", "revision: 2", 1), "kim")
	must(t, err)
	if _, err = j.NodeScans(t.Context(), "scan/app", q, time.Now()); err != nil || len(s.asked) != 2 {
		t.Errorf("nobody, under a policy that wants it: %v, asked for %v", err, s.asked)
	}
}

// Nor do they fill the queue, or keep others from it; what has ended does not
// count.
func TestQueueIsShared(t *testing.T) {
	j, image := newJudge(t, &scans{}, rules)
	now := time.Now()
	j.o.Now = func() time.Time { return now }
	some := func(from, n int) (all []policy.Scan) {
		for i := range n {
			all = append(all, policy.Scan{Digest: oci.FromBytes(fmt.Append(nil, from+i)), State: policy.ScanNone})
		}
		return all
	}
	room := func(account string, all []policy.Scan) bool {
		t.Helper()
		ok, err := j.room(unlocked{t.Context(), t, &j.queued.mu}, account, all)
		must(t, err)
		return ok
	}
	_, err := j.o.Rows.PutProject(t.Context(), meta.Project{Name: "scan", Kind: meta.Proxy, Source: meta.FromFile})
	must(t, err)
	for i := 0; i < maxQueued; i += 100 {
		if !room("", some(i, 100)) {
			t.Fatalf("no room after %d", i)
		}
		for _, s := range some(i, 100) {
			_, err := j.o.Rows.QueueScan(t.Context(), meta.NewScan{Repo: "scan/app", Digest: s.Digest, Cause: meta.ScanPull})
			must(t, err)
		}
	}
	one := []policy.Scan{{Digest: image.Digest, State: policy.ScanPending}}
	if room("", one) || !room("", some(0, 10)) || !room("kim", one) {
		t.Error("the queue is full for the wrong ones")
	}
	must(t, j.o.Rows.StopScan(t.Context(), some(7, 1)[0].Digest, "stopped", ""))
	if room("", one) {
		t.Error("it is looked for each time")
	}
	now = now.Add(lookEvery)
	if !room("", one) {
		t.Error("one that has ended takes room")
	}
	if room("bob", some(0, maxQueued+1)) {
		t.Error("room for more than there may be")
	}
	one[0].State = policy.ScanDone
	if !room("kim", one) || len(j.queued.by) != 1 {
		t.Errorf("%d accounts are remembered, want the one that has asked for something", len(j.queued.by))
	}
}

// unlocked is a context of what is not to be done under a lock.
type unlocked struct {
	context.Context
	t  *testing.T
	mu *sync.Mutex
}

func (u unlocked) Done() <-chan struct{} {
	if !u.mu.TryLock() {
		u.t.Error("the database is waited for under the lock of all accounts")
	} else {
		u.mu.Unlock()
	}
	return u.Context.Done()
}

// A decision says when signatures were looked at, which decides nothing.
func TestWhenSignaturesWereLookedAt(t *testing.T) {
	j, _ := newJudge(t, nil, signed(t))
	before := time.Now()
	d, err := j.Explain(t.Context(), "reg.test/scan/app:1")
	must(t, err)
	if d.Outcome != policy.Deny || d.SignaturesAt.Before(before) || d.SignaturesAt.After(time.Now()) || strings.Contains(d.Explain(), "signatures looked at") {
		t.Errorf("%s, looked at %s: %s", d.Outcome, d.SignaturesAt, d.Explain())
	}
	j.gate.Reset()
	later := time.Now().Add(10 * time.Second)
	j.o.Now, j.o.Proxied = func() time.Time { return later }, func(string) bool { return true } // where they are looked at again later
	again, err := j.Explain(t.Context(), "reg.test/scan/app:1")
	must(t, err)
	if !again.SignaturesAt.Equal(d.SignaturesAt) || again.ID != d.ID || !strings.Contains(again.Explain(), "signatures looked at 10s before") {
		t.Errorf("%s, looked at %s: %s", again.ID, again.SignaturesAt, again.Explain())
	}
}

// signed is a document with a rule about signatures, and two exceptions, one of
// which lapses soon.
func signed(t *testing.T) string {
	signer, err := verify.NewSigner(key(t))
	must(t, err)
	exception := func(id string, left time.Duration) string {
		return fmt.Sprintf("- {id: %s, policy: signed, rule: ours, images: [\"reg.test/other/app\"], reason: x, owner: y, expires: %s}\n", id, time.Now().Add(left).UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf(`
apiVersion: breakwater.dev/v1alpha1
kind: PolicyBundle
revision: 1
default: allow
authorities: [{name: release, key: {pem: %q}}]
policies:
- {name: signed, mode: enforce, match: {images: ["reg.test/**"]}, rules: [{name: ours, signature: {anyOf: [release]}}]}
exceptions:
%s`, signer.PublicKeyPEM(), exception("EX-1", 13*24*time.Hour)+exception("EX-2", 15*24*time.Hour))
}

// Exceptions are told of that lapse within 14 days.
func TestLapsingExceptions(t *testing.T) {
	j, _ := newJudge(t, nil, signed(t))
	const want = `
# HELP breakwater_policy_exceptions_lapsing Exceptions of the policy that expire within 14 days.
# TYPE breakwater_policy_exceptions_lapsing gauge
breakwater_policy_exceptions_lapsing 1
`
	if err := testutil.GatherAndCompare(j.o.Metrics.(*prometheus.Registry), strings.NewReader(want), "breakwater_policy_exceptions_lapsing"); err != nil {
		t.Error(err)
	}
}

// An image is not refused for want of a scan of a platform that the hub is not
// to scan; what is of that platform is judged when it is asked for.
func TestPlatformsThatAreNotScanned(t *testing.T) {
	index := ocitest.Index(1, 1, 100, "amd64", "s390x")
	amd64, s390x := index.Children[0], index.Children[1]
	s := &scans{facts: scan.Facts{Scans: []policy.Scan{{Digest: amd64.Digest, Platform: "linux/amd64", State: policy.ScanDone, At: time.Now()}}}}
	j, _ := newJudge(t, s, rules)
	must(t, index.Push(t.Context(), j.o.Images, "scan/multi", "1"))
	for _, tt := range []struct {
		platforms []string
		ref       oci.Reference
		want      policy.Outcome
	}{
		{nil, oci.Tagged("1"), policy.Wait},
		{[]string{"linux/amd64"}, oci.Tagged("1"), policy.Allow},
		{[]string{"linux/amd64"}, oci.Digested(amd64.Digest), policy.Allow},
		{[]string{"linux/amd64"}, oci.Digested(s390x.Digest), policy.Wait},
	} {
		j.o.Platforms = tt.platforms
		j.gate.Reset()
		if tt.ref == oci.Digested(s390x.Digest) {
			s.facts.Scans = []policy.Scan{{Digest: s390x.Digest, State: policy.ScanPending}}
			if _, err := j.gate.Decide(asJudge(t.Context()), "scan/multi", oci.Tagged("1")); err != nil {
				t.Fatal(err)
			}
		}
		if d, err := j.gate.Decide(asJudge(t.Context()), "scan/multi", tt.ref); err != nil || d.Outcome != tt.want {
			t.Errorf("%v, %s: %s %v, want %s", tt.platforms, tt.ref, d.Outcome, err, tt.want)
		}
	}
}
