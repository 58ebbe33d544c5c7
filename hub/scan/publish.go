package scan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// Media types of the documents that say what is in an image.
const (
	TypeSPDX      = "application/spdx+json"
	TypeCycloneDX = "application/vnd.cyclonedx+json"
)

// Publisher puts beside an image, as referrers, what is known of it. Where a
// repository takes nothing, as a proxy's, it returns an [oci.Error] with
// [oci.Unsupported] or [oci.Denied], and that is that. Each is called again
// with the same when it is not known whether it was done.
type Publisher interface {
	// Document attaches what an image contains. There is one of a media type: it
	// replaces another.
	Document(ctx context.Context, repo string, image oci.Descriptor, mediaType string, body []byte) error
	// Statement attaches a signed statement with that predicate, in place of the
	// one before.
	Statement(ctx context.Context, repo string, image oci.Descriptor, predicateType string, predicate json.RawMessage) error
}

const (
	// statementFor is how long a statement holds, and statementAgain after how
	// long there is another, even when nothing has changed.
	statementFor, statementAgain = 72 * time.Hour, 24 * time.Hour
	// maxStated bounds how many findings a statement names: 2,000 have 300 KB.
	maxStated = 2000

	publishBatch = 10
	publishClaim = 5 * time.Minute // then it is tried again
	publishPoll  = time.Minute
	// publishRepos is in how many repositories an image's statement is put.
	publishRepos = 100
)

// StatementOf is what the hub would state of a manifest now; ErrNotFound of meta
// when it has no findings.
func (s *Service) StatementOf(ctx context.Context, d oci.Digest) (st policy.ScanStatement, verdict string, err error) {
	rows, err := s.rows.ScanResults(ctx, []oci.Digest{d}, true)
	if err != nil {
		return st, "", err
	}
	if len(rows) == 0 || rows[0].Findings.DatabaseID == 0 {
		return st, "", meta.ErrNotFound
	}
	r := rows[0]
	counts := policy.SeverityCounts(r.Findings.Counts)
	st = policy.ScanStatement{Scan: policy.Scan{Digest: d}, Counts: &counts, Until: s.rows.Now().Add(statementFor).UTC().Truncate(time.Second)}
	if err := s.fill(&st.Scan, &r); err != nil {
		return st, "", err
	}
	if st.Scan.State == policy.ScanPending { // it is being looked at again, for what is there cannot be matched
		return st, "", meta.ErrNotFound
	}
	if n := len(st.Scan.Vulns); n > maxStated { // the worst come first
		st.Scan.Vulns, st.Dropped = st.Scan.Vulns[:maxStated], n-maxStated
	}
	for i := range st.Scan.Vulns {
		st.Scan.Vulns[i].Severities = nil
	}
	return st, r.Findings.Verdict, nil
}

// publishForever puts statements beside images when there is something new to
// state, and from time to time.
func (s *Service) publishForever(ctx context.Context) {
	for {
		for {
			n, err := s.publishSome(ctx)
			if err != nil && ctx.Err() == nil {
				s.o.Log.Error("scans are not published", "err", err)
			}
			if err != nil || n == 0 {
				break
			}
		}
		if !s.statements.rest(ctx, publishPoll) {
			return
		}
	}
}

func (s *Service) publishSome(ctx context.Context) (int, error) {
	some, err := s.rows.ClaimPublications(ctx, publishBatch, s.rows.Now().Add(publishClaim))
	if err != nil {
		return 0, err
	}
	for _, d := range some {
		if err := s.publish(asService(ctx), d); err != nil {
			s.metrics.publishFailures.Inc()
			s.o.Log.Warn("a scan is not published", "digest", d, "err", err)
		}
	}
	return len(some), nil
}

func (s *Service) publish(ctx context.Context, d oci.Digest) error {
	st, verdict, err := s.StatementOf(ctx, d)
	if errors.Is(err, meta.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	predicate, err := json.Marshal(st)
	if err != nil {
		return err
	}
	repos, err := s.rows.ReposWithManifest(ctx, d, publishRepos)
	if err != nil {
		return err
	}
	var failed error // in some; it is tried again in all
	for _, repo := range repos {
		m, err := s.o.Images.Resolve(ctx, repo, oci.Digested(d))
		if oci.IsAbsent(err) {
			continue
		}
		if err == nil {
			err = refused(s.o.Publisher.Statement(ctx, repo, m.Descriptor, policy.ScanStatementType, predicate))
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", repo, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	if failed != nil {
		return failed
	}
	s.metrics.published.Inc()
	return s.rows.Published(ctx, d, verdict, s.rows.Now().Add(statementAgain))
}

// publishDocuments attaches what a run's scanner wrote. When that fails the run
// has: it is repeated, from what is kept of its layers.
func (s *Service) publishDocuments(r *run) error {
	if s.o.Publisher == nil {
		return nil
	}
	for mediaType, body := range r.documents {
		err := s.o.Publisher.Document(r.ctx, r.job.Repo, r.manifest.Descriptor, mediaType, body)
		if err := refused(err); err != nil {
			return err
		}
	}
	return nil
}

// refused drops the error of a repository that takes nothing.
func refused(err error) error {
	switch oci.CodeOf(err) {
	case oci.Unsupported, oci.Denied:
		return nil
	}
	return err
}
