package judge

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

// exemption is why an image of Options.Exempt is never gated.
const exemption = "this node cannot start without it (policy.exempt)"

// base are the facts that need no looking for.
func (j *Judge) base(h *held, s policy.Subject) policy.Facts {
	f := policy.Facts{Subject: s, At: policy.Pull, Platforms: []string{j.machine.name}, PolicyAt: h.confirmedAt}
	if slices.Contains(j.o.Exempt, s.Digest) {
		f.Exempt = exemption
	}
	return f
}

// facts finds out what the document wants to know of an image. What cannot be
// found out is said in them.
func (j *Judge) facts(ctx context.Context, h *held, q enforce.Question) policy.Facts {
	f := j.base(h, q.Subject)
	if f.Exempt != "" {
		return f
	}
	needs := h.bundle.Needs(q.Subject, policy.Pull)
	f.Parents = q.Parents
	shape, err := q.Look(ctx)
	if err != nil {
		// The hub may hold the manifest back until it is scanned.
		unknown(&f, needs, told(err))
		if needs.Scan == nil {
			return f
		}
		f.Scans = j.scan(ctx, needs, f, nil)
		if shape, err = q.Look(ctx); err != nil {
			return f
		}
	}
	f.Kind, f.Children, f.More = shape.Kind, shape.Children, shape.More
	if f.Kind == policy.KindOther {
		return f
	}
	var g errgroup.Group
	var scans []policy.Scan
	if needs.Scan != nil {
		targets, about := j.targets(h, f), f
		g.Go(func() error { scans = j.scan(ctx, needs, about, targets); return nil })
	}
	f = j.signatures(ctx, h, q.Repo, needs, f, 0)
	_ = g.Wait() // the facts say what went wrong
	f.Scans = scans
	return f
}

// targets are the manifests that are judged.
func (j *Judge) targets(h *held, f policy.Facts) []policy.Child {
	if f.Kind == policy.KindIndex {
		return h.bundle.Judged(f)
	}
	return []policy.Child{{Digest: f.Subject.Digest}}
}

// signatures is f with what is verified of what is beside the image. The answer may be as old as
// maxAge says; 0 leaves it to the verifier.
func (j *Judge) signatures(ctx context.Context, h *held, repo string, needs policy.Needs, f policy.Facts, maxAge time.Duration) policy.Facts {
	if len(needs.Signatures)+len(needs.Attestations) == 0 {
		return f
	}
	r := verify.Request{Repo: repo, Needs: needs, Authorities: h.authorities, Parents: f.Parents, MaxAge: maxAge}
	for _, c := range h.bundle.Judged(f) {
		r.Children = append(r.Children, c.Digest)
	}
	res, err := j.verifier.Check(ctx, j.images, r)
	if err != nil {
		needs.Scan = nil // what is known of that stays
		unknown(&f, needs, told(err))
		return f
	}
	res.Into(&f)
	return f
}

// unknown puts into f that nothing could be found out.
func unknown(f *policy.Facts, needs policy.Needs, why string) {
	f.Signatures = make(map[string]policy.SignatureFact)
	for _, name := range needs.Signatures {
		f.Signatures[name] = policy.SignatureFact{Err: why}
	}
	f.Attestations = make(map[string]policy.AttestationFact)
	for _, n := range needs.Attestations {
		for _, name := range n.Authorities {
			f.Attestations[name] = policy.AttestationFact{Err: why}
		}
	}
	if needs.Scan != nil {
		f.Scans = []policy.Scan{{Digest: f.Subject.Digest, State: policy.ScanError, Reason: why}}
	}
}
