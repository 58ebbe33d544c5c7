package scan

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/shape"
)

// Facts is what scans know of an image, as [policy.Facts] has it.
type Facts struct {
	Kind     policy.Kind
	Children []policy.Child // all of an index
	Scans    []policy.Scan  // of the manifests that are scanned; none of what cannot run
}

// Settled says that no scan is still to come, of those that were asked for.
func (f *Facts) Settled() bool {
	for _, s := range f.Scans {
		if s.State == policy.ScanNone || s.State == policy.ScanPending {
			return false
		}
	}
	return true
}

// known says that nothing is left to find out, by another try neither.
func (f *Facts) known() bool {
	for _, s := range f.Scans {
		if s.State != policy.ScanDone && s.State != policy.ScanUnscannable {
			return false
		}
	}
	return true
}

// Facts says what is known of an image now; it begins nothing.
func (s *Service) Facts(ctx context.Context, img Image) (Facts, error) {
	m, err := s.look(asService(ctx), img)
	if err != nil {
		return Facts{}, err
	}
	return s.facts(ctx, m, s.selected(img, m))
}

func (s *Service) facts(ctx context.Context, m shape.Shape, targets []target) (f Facts, err error) {
	f = Facts{Kind: m.Kind, Children: m.Children}
	if len(targets) == 0 {
		return f, nil
	}
	digests := make([]oci.Digest, len(targets))
	for i, t := range targets {
		digests[i] = t.Digest
	}
	results, err := s.rows.ScanResults(ctx, digests, true)
	if err != nil {
		return f, err
	}
	byDigest := make(map[oci.Digest]*meta.ScanResult, len(results))
	for i := range results {
		byDigest[results[i].Digest] = &results[i]
	}
	for _, t := range targets {
		fact := policy.Scan{Digest: t.Digest, Platform: t.Platform, State: policy.ScanNone}
		if r := byDigest[t.Digest]; r != nil {
			if err := s.fill(&fact, r); err != nil {
				return f, err
			}
			if fact.State == policy.ScanPending {
				if fact.Reason, err = s.missing(ctx, r.State); err != nil {
					return f, err
				}
			}
		}
		f.Scans = append(f.Scans, fact)
	}
	return f, nil
}

// missing is what the hub has not got, so that a scan in that state does not go
// on by itself; "" for nothing.
func (s *Service) missing(ctx context.Context, state meta.ScanState) (string, error) {
	switch state {
	case meta.ScanDone: // only findings are not there yet
		_, has, err := s.by.database(ctx)
		if err != nil || has {
			return "", err
		}
		return policy.NoDatabase, nil
	case meta.ScanQueued:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.program == "" && s.o.Workers > 0 {
			return policy.NoScanner, nil
		}
	}
	return "", nil
}

// fill turns a scan's row into a fact. What was found before counts while the
// image is scanned again, and when that fails.
func (s *Service) fill(fact *policy.Scan, r *meta.ScanResult) error {
	if r.Findings.DatabaseID > 0 {
		fact.At, fact.DBRevision, fact.DBTime = r.Findings.MatchedAt, r.Database.Revision, r.Database.MadeAt
		if why, failed := strings.CutPrefix(r.Findings.Verdict, unmatchable); failed {
			if fact.State, fact.Reason = policy.ScanError, why; r.State == meta.ScanQueued || r.State == meta.ScanRunning {
				fact.State, fact.Reason, fact.Since = policy.ScanPending, "", r.QueuedAt
			}
			return nil
		}
		fact.State = policy.ScanDone
		found, err := s.findings(r.Findings.Body)
		for _, f := range found {
			fact.Vulns = append(fact.Vulns, f.Vuln)
		}
		return err
	}
	switch {
	case r.State == meta.ScanQueued, r.State == meta.ScanRunning, r.State == meta.ScanDone: // done: no database yet
		fact.State, fact.Since = policy.ScanPending, r.QueuedAt
	case r.Reason == string(scanproto.ReasonUnscannable):
		fact.State, fact.Reason = policy.ScanUnscannable, r.Message
	default:
		fact.State, fact.Reason = policy.ScanError, r.Reason+": "+r.Message
	}
	return nil
}

func (s *Service) findings(body []byte) (all []match.Finding, err error) {
	return all, s.unpackFindings(body, &all)
}

// Report is what scans found in one manifest, for people.
type Report struct {
	Platform string
	meta.ScanResult
	Fact     policy.Scan
	Findings []match.Finding
}

// Reports says all that is known of an image, a report for each of its manifests
// that was asked to be scanned.
func (s *Service) Reports(ctx context.Context, img Image) (all []Report, err error) {
	m, err := s.look(asService(ctx), img)
	if err != nil {
		return nil, err
	}
	for _, t := range s.selected(img, m) {
		rows, err := s.rows.ScanResults(ctx, []oci.Digest{t.Digest}, true)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			report := Report{Platform: t.Platform, ScanResult: r, Fact: policy.Scan{Digest: t.Digest, Platform: t.Platform}}
			found, err := s.findings(r.Findings.Body)
			if err = errors.Join(err, s.fill(&report.Fact, &r)); err != nil {
				return nil, err
			}
			report.Findings = found
			all = append(all, report)
		}
	}
	return all, nil
}

// Request asks for the scans of an image, as far as it was not scanned yet.
func (s *Service) Request(ctx context.Context, img Image, cause meta.ScanCause) error {
	m, err := s.look(asService(ctx), img)
	if err != nil {
		return err
	}
	return s.request(ctx, img.Repo, s.selected(img, m), cause)
}

// retryFailed is after how long a pull has a scan that failed done again.
const retryFailed = 10 * time.Minute

// final are reasons for which a scan is not done again by itself.
var final = []string{string(scanproto.ReasonUnscannable), string(scanproto.ReasonTooLarge), string(scanproto.ReasonCorrupt), reasonStopped}

func (s *Service) request(ctx context.Context, repo string, targets []target, cause meta.ScanCause) error {
	for _, t := range targets {
		n := meta.NewScan{Repo: repo, Digest: t.Digest, Cause: cause, Final: final}
		switch cause {
		case meta.ScanHand:
			n.Again = true
		case meta.ScanPull:
			n.RetryFailed = s.rows.Now().Add(-retryFailed)
		case meta.ScanPush:
			n.RetryFailed = s.rows.Now()
		}
		if _, err := s.rows.QueueScan(ctx, n); err != nil {
			return err
		}
	}
	s.jobs.now()
	return nil
}

// Wait asks for the scans of an image, urgently, and waits until they have ended
// or until comes. It says what is known then. One that failed a while ago is
// tried again.
func (s *Service) Wait(ctx context.Context, img Image, until time.Time) (f Facts, err error) {
	m, err := s.look(asService(ctx), img)
	if err != nil {
		return f, err
	}
	targets := s.selected(img, m)
	if f, err = s.facts(ctx, m, targets); err != nil || f.known() {
		return f, err
	}
	s.metrics.waits.Inc()
	defer s.metrics.waits.Dec()
	if err := s.request(ctx, img.Repo, targets, meta.ScanPull); err != nil {
		return f, err
	}
	if !time.Now().Before(until) {
		return s.facts(ctx, m, targets)
	}
	return s.await(ctx, m, targets, until)
}

// Why a scan has failed, beside the reasons of scanproto.
const (
	reasonStopped = "stopped" // by hand
	reasonGone    = "gone"    // no repository has the image any more
	reasonMemory  = "memory"  // it used more than it may
	reasonKilled  = "killed"  // by another: the kernel, for want of memory
	reasonCrashed = "crashed"
	reasonScanner = "scanner" // it did not answer, or not as one
	reasonLost    = "lost"    // the hub that ran it has died
)

// Stop ends the scans of an image that are queued or running. It says how many.
func (s *Service) Stop(ctx context.Context, img Image) (n int, err error) {
	m, err := s.look(asService(ctx), img)
	if err != nil {
		return 0, err
	}
	for _, t := range s.selected(img, m) {
		switch err := s.rows.StopScan(ctx, t.Digest, reasonStopped, "stopped by hand"); {
		case err == nil:
			n++
		case !errors.Is(err, meta.ErrNotFound):
			return n, err
		}
	}
	s.checkRuns(ctx)
	return n, nil
}

// StopQueued takes all scans out of the queue, or only those nobody has asked
// for. It says how many.
func (s *Service) StopQueued(ctx context.Context, all bool) (int64, error) {
	return s.rows.StopScans(ctx, all, reasonStopped, "stopped by hand")
}
