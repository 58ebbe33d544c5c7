package judge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

// maxScans is of how many manifests the hub's word is kept, and maxAsked of how
// many it is known when they were first asked for.
const (
	maxScans = 4096
	maxAsked = 1024
)

// scanStore keeps the hub's statements on scans, by the digest of what they are
// about.
type scanStore struct {
	statements *shelf
	asked      *lru.Cache[oci.Digest, time.Time]
}

func openScans(dir string) (*scanStore, error) {
	statements, err := openShelf(dir, maxScans)
	if err != nil {
		return nil, err
	}
	asked, err := lru.New[oci.Digest, time.Time](maxAsked)
	return &scanStore{statements, asked}, err
}

// keptWithin is what the hub is given to answer when its last word is at hand.
const keptWithin = 2 * time.Second

// scan says what is known of the scans of targets: as the hub says now, else as
// it said last. targets are the manifests judged, f is what is known of the
// image they are of; when it could not be looked at there are none, and the hub
// says which.
func (j *Judge) scan(ctx context.Context, needs policy.Needs, f policy.Facts, targets []policy.Child) []policy.Scan {
	said, err := j.askScan(ctx, needs, f, targets)
	if err != nil && len(targets) == 0 {
		targets = []policy.Child{{Digest: f.Subject.Digest}}
	}
	if err == nil && len(targets) == 0 {
		for _, x := range said {
			targets = append(targets, policy.Child{Digest: x.Digest, Platform: x.Platform})
		}
	}
	all := make([]policy.Scan, 0, len(targets))
	for _, t := range targets {
		var fact policy.Scan
		if err != nil {
			fact = j.lastWord(t.Digest, err)
		} else {
			fact = j.word(t.Digest, said)
		}
		fact.Digest, fact.Platform = t.Digest, t.Platform
		all = append(all, fact)
	}
	if err == nil && !slices.ContainsFunc(all, func(s policy.Scan) bool { return s.State != policy.ScanDone }) {
		j.scans.asked.Remove(f.Subject.Digest) // an index, which was late: see DecideLate
	}
	return all
}

// askScan asks the hub.
func (j *Judge) askScan(ctx context.Context, needs policy.Needs, f policy.Facts, targets []policy.Child) ([]hubapi.NodeScan, error) {
	switch {
	case j.o.Hub == nil:
		return nil, errors.New("there is no hub to ask for scans (hub.url)")
	case j.trusted() == nil:
		return nil, errors.New("no key is installed to believe the hub's scans by (policy.keysFile)")
	}
	q := hubapi.NodeScanRequest{Image: f.Subject.Name, Digest: f.Subject.Digest, Platforms: f.Platforms}
	if len(needs.Platforms) > 0 {
		q.Platforms = needs.Platforms
	}
	wait := min(time.Duration(needs.Scan.Wait), hubapi.MaxNodeWait)
	within := wait + scanSlack
	if j.haveAll(targets) {
		wait, within = 0, keptWithin
	}
	q.WaitMS = wait.Milliseconds()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	said, err := j.o.Hub.NodeScan(ctx, q)
	if err != nil {
		j.metrics.scanFailures.Inc()
		return nil, fmt.Errorf("the hub cannot be asked: %w", err)
	}
	return said.Scans, nil
}

func (j *Judge) haveAll(targets []policy.Child) bool {
	for _, t := range targets {
		if _, ok := j.scans.statements.get(t.Digest.String()); !ok {
			return false
		}
	}
	return len(targets) > 0
}

// word is what the hub says of d now.
func (j *Judge) word(d oci.Digest, said []hubapi.NodeScan) policy.Scan {
	for _, x := range said {
		if x.Digest != d {
			continue
		}
		switch {
		case len(x.Statement) > 0:
			st, err := j.open(x.Statement, d)
			if err != nil {
				j.metrics.refused.Inc()
				j.o.Log.Warn("what the hub sent of a scan is not taken", "digest", d, "err", err)
				return policy.Scan{State: policy.ScanError, Reason: "what the hub says is not taken: " + err.Error()}
			}
			j.scans.asked.Remove(d)
			if err := j.scans.statements.put(d.String(), x.Statement); err != nil {
				j.o.Log.Warn("the hub's word on a scan is not kept", "digest", d, "err", err)
			}
			return st.Scan
		case x.State == policy.ScanDone || x.State == policy.ScanUnscannable:
			// That alone could let it through: it has to be signed.
			return policy.Scan{State: policy.ScanError, Reason: "the hub has not signed what it says of the scan"}
		case x.State == policy.ScanError:
			return policy.Scan{State: policy.ScanError, Reason: x.Reason}
		}
		since := j.o.Now().Add(-time.Duration(x.WaitedMS) * time.Millisecond)
		if mine := j.firstAsked(d); mine.Before(since) {
			since = mine
		}
		return policy.Scan{State: x.State, Since: since, Reason: x.Reason}
	}
	return policy.Scan{State: policy.ScanNone, Since: j.firstAsked(d)}
}

// lastWord is what the hub said of d last, while it cannot be asked.
func (j *Judge) lastWord(d oci.Digest, cause error) policy.Scan {
	text, ok := j.scans.statements.get(d.String())
	if !ok {
		return policy.Scan{State: policy.ScanError, Reason: cause.Error()}
	}
	st, err := j.open(text, d)
	if err != nil {
		return policy.Scan{State: policy.ScanError, Reason: cause.Error() + "; what it said last is no use: " + err.Error()}
	}
	return st.Scan
}

// firstAsked is when this node first asked for the scan of d.
func (j *Judge) firstAsked(d oci.Digest) time.Time {
	now := j.o.Now()
	if at, ok, _ := j.scans.asked.PeekOrAdd(d, now); ok {
		return at
	}
	return now
}

// open reads a statement about d, which the hub has signed and which still
// holds.
func (j *Judge) open(text []byte, d oci.Digest) (st policy.ScanStatement, err error) {
	keys := j.trusted()
	if keys == nil {
		return st, errors.New("no key is installed to believe it by (policy.keysFile)")
	}
	signed, err := verify.OpenStatement(text, keys, policy.ScanStatementType, d)
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(signed.Predicate, &st); err != nil {
		return st, err
	}
	return st, st.Check(d, j.o.Now())
}
