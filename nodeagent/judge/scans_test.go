package judge

import (
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
)

var (
	critical = policy.Scan{State: policy.ScanDone, DBRevision: "db-1", Vulns: []policy.Vuln{{ID: "CVE-2019-18224", Package: "libidn2-0", Installed: "2.0.5-1", Fixed: "2.0.5-1+deb10u1", Severity: policy.Critical}}}
	clean    = policy.Scan{State: policy.ScanDone, DBRevision: "db-1"}
)

// says has the hub answer with the same for each image.
func (h *house) says(scans ...hubapi.NodeScan) {
	h.hub.set(func() { h.hub.scans = func(hubapi.NodeScanRequest) []hubapi.NodeScan { return scans } })
}

func TestScanStatement(t *testing.T) {
	h := newHouse(t)
	h.seal(1, noCriticals)
	image := h.push(ocitest.Image(1, 1, 100)).Digest
	j := h.started()

	h.says(hubapi.NodeScan{Digest: image, State: policy.ScanDone, Statement: h.scanned(h.hub.Signer, image, h.now.Add(time.Hour), critical)})
	first := h.decide(j, image)
	wantOutcome(t, first, policy.Deny)
	if m := first.Message(); !strings.Contains(m, "CVE-2019-18224") || !strings.Contains(m, "libidn2-0") || first.DBRevision != "db-1" {
		t.Errorf("%s by %q", m, first.DBRevision)
	}
	q := h.hub.asked[0]
	if q.Image != "docker.io/team/app" || q.Digest != image || q.WaitMS != 10_000 || len(q.Platforms) != 1 {
		t.Errorf("the hub was asked %+v", q)
	}

	// The same while the hub is away, and after a restart.
	h.hub.set(func() { h.hub.away = true })
	for _, j := range []*Judge{j, h.open()} {
		if d := h.decide(j, image); d.ID != first.ID {
			t.Errorf("away: %s", d.Explain())
		}
	}
	// Until it has expired.
	h.now = h.now.Add(time.Hour)
	d := h.decide(j, image)
	wantOutcome(t, d, policy.Deny)
	if r := d.Policies[0].Rules[0]; r.Verdict != policy.VerdictError || !strings.Contains(r.Reason, "expired") {
		t.Errorf("%s %s", r.Verdict, r.Reason)
	}
	if h.metric("breakwater_policy_scan_failures_total") == 0 {
		t.Error("no failure was counted")
	}

	// The database has changed its mind: the next pull knows.
	h.hub.set(func() { h.hub.away = false })
	h.says(hubapi.NodeScan{Digest: image, State: policy.ScanDone, Statement: h.scanned(h.hub.Signer, image, h.now.Add(time.Hour), clean)})
	wantOutcome(t, h.decide(j, image), policy.Allow)
	if last := h.hub.asked[len(h.hub.asked)-1]; last.WaitMS != 0 {
		t.Errorf("with its last word at hand the hub is waited for, %d ms", last.WaitMS)
	}
}

// Only what the hub has signed lets an image through.
func TestScanMustBeSigned(t *testing.T) {
	h := newHouse(t)
	h.seal(1, noCriticals)
	image, other := h.push(ocitest.Image(1, 1, 100)).Digest, oci.FromBytes([]byte("other"))
	until := h.now.Add(time.Hour)
	unscannable := policy.Scan{State: policy.ScanUnscannable}
	for name, tt := range map[string]struct {
		scan hubapi.NodeScan
		want policy.Outcome
	}{
		"signed":              {hubapi.NodeScan{State: policy.ScanDone, Statement: h.scanned(h.hub.Signer, image, until, clean)}, policy.Allow},
		"unscannable, signed": {hubapi.NodeScan{State: policy.ScanUnscannable, Statement: h.scanned(h.hub.Signer, image, until, unscannable)}, policy.Allow},
		"unscannable, told":   {hubapi.NodeScan{State: policy.ScanUnscannable}, policy.Deny},
		"done, told":          {hubapi.NodeScan{State: policy.ScanDone}, policy.Deny},
		"by another":          {hubapi.NodeScan{State: policy.ScanDone, Statement: h.scanned(newSigner(t), image, until, clean)}, policy.Deny},
		"about another":       {hubapi.NodeScan{State: policy.ScanDone, Statement: h.scanned(h.hub.Signer, other, until, clean)}, policy.Deny},
		"expired":             {hubapi.NodeScan{State: policy.ScanDone, Statement: h.scanned(h.hub.Signer, image, h.now, clean)}, policy.Deny},
		"failed":              {hubapi.NodeScan{State: policy.ScanError, Reason: "too-large"}, policy.Deny},
	} {
		t.Run(name, func(t *testing.T) {
			h.o.Dir = t.TempDir()
			h.seal(1, noCriticals)
			tt.scan.Digest = image
			h.says(tt.scan)
			wantOutcome(t, h.decide(h.started(), image), tt.want)
		})
	}
}

// A first scan is waited for as long as the document says, and no longer,
// whatever the hub's clock.
func TestScanPending(t *testing.T) {
	h := newHouse(t)
	h.seal(1, noCriticals)
	image := h.push(ocitest.Image(1, 1, 100)).Digest
	j := h.started()
	h.says(hubapi.NodeScan{Digest: image, State: policy.ScanPending})
	d := h.decide(j, image)
	wantOutcome(t, d, policy.Wait)
	if d.RetryAfter != policy.Duration(10*time.Second) {
		t.Errorf("again after %s", d.RetryAfter)
	}
	h.now = h.now.Add(9 * time.Second)
	wantOutcome(t, h.decide(j, image), policy.Wait)
	h.now = h.now.Add(time.Second)
	wantOutcome(t, h.decide(j, image), policy.Deny)

	// Another node has waited for it already.
	other := h.push(ocitest.Image(2, 1, 100)).Digest
	h.says(hubapi.NodeScan{Digest: other, State: policy.ScanPending, WaitedMS: 11_000})
	wantOutcome(t, h.decide(j, other), policy.Deny)

	// The hub leaves it out.
	third := h.push(ocitest.Image(3, 1, 100)).Digest
	h.says()
	wantOutcome(t, h.decide(j, third), policy.Wait)
}

// Of an index the judged platforms count, and no other.
func TestScanIndex(t *testing.T) {
	h := newHouse(t)
	h.seal(1, noCriticals) // platforms: linux/amd64
	tree := ocitest.Index(1, 1, 100)
	index := h.push(tree).Digest
	var amd, arm oci.Digest
	for _, c := range tree.Children {
		if c.Platform.Architecture == "amd64" {
			amd = c.Digest
		} else {
			arm = c.Digest
		}
	}
	until := h.now.Add(time.Hour)
	good, bad := h.scanned(h.hub.Signer, amd, until, clean), h.scanned(h.hub.Signer, arm, until, critical)
	h.says(hubapi.NodeScan{Digest: amd, State: policy.ScanDone, Statement: good}, hubapi.NodeScan{Digest: arm, State: policy.ScanDone, Statement: bad})
	wantOutcome(t, h.decide(h.started(), index), policy.Allow)

	// A hub in the middle that leaves the bad one out gains nothing.
	bad = h.scanned(h.hub.Signer, amd, until, critical)
	h.says(hubapi.NodeScan{Digest: arm, State: policy.ScanDone, Statement: h.scanned(h.hub.Signer, arm, until, clean)})
	h.o.Dir = t.TempDir()
	if d := h.decide(h.started(), index); d.Outcome == policy.Allow {
		t.Error(d.Explain())
	}
	h.says(hubapi.NodeScan{Digest: amd, State: policy.ScanDone, Statement: bad})
	wantOutcome(t, h.decide(h.open(), index), policy.Deny)
}

func TestScanWithoutHub(t *testing.T) {
	h := newHouse(t)
	h.seal(1, noCriticals)
	image := h.push(ocitest.Image(1, 1, 100)).Digest
	j := h.started()
	h.hub.set(func() { h.hub.away = true })
	d := h.decide(j, image)
	wantOutcome(t, d, policy.Deny)
	if r := d.Policies[0].Rules[0]; r.Verdict != policy.VerdictError || !strings.Contains(r.Reason, "cannot be asked") {
		t.Errorf("%s %s", r.Verdict, r.Reason)
	}
}

// What is late is waited for as long as the document says, and counted anew once
// it was scanned: an index too, about which the hub says nothing.
func TestLate(t *testing.T) {
	h := newHouse(t)
	h.seal(1, strings.Replace(noCriticals, "then: deny", "then: allow", 1))
	j := h.started()
	amd64 := ocitest.Image(1, 1, 500)
	amd64.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	index := h.push(ocitest.IndexOf(amd64))
	late := func() policy.Decision {
		t.Helper()
		d, judged, err := j.DecideLate(t.Context(), policy.Subject{Name: "docker.io/team/app", Digest: index.Digest}, enforce.ErrLate)
		if err != nil || !judged {
			t.Fatal(judged, err)
		}
		return d
	}
	wantOutcome(t, late(), policy.Wait)
	h.now = h.now.Add(9 * time.Second)
	wantOutcome(t, late(), policy.Wait)
	h.now = h.now.Add(time.Second)
	wantOutcome(t, late(), policy.Allow)
	if h.metric("breakwater_policy_unseen_total") != 0 {
		t.Error("it is counted as unseen")
	}
	h.hub.scans = func(hubapi.NodeScanRequest) []hubapi.NodeScan {
		return []hubapi.NodeScan{{Digest: amd64.Digest, State: policy.ScanDone, Statement: h.scanned(h.hub.Signer, amd64.Digest, h.now.Add(time.Hour), policy.Scan{State: policy.ScanDone})}}
	}
	wantOutcome(t, h.decide(j, index.Digest), policy.Allow)
	wantOutcome(t, late(), policy.Wait)
}
