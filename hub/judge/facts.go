package judge

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/hub/scan"
	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

// exemption is why an image of Options.Exempt is never gated.
const exemption = "nodes cannot start without it (policy.exempt)"

// about is what is to be judged.
type about struct {
	repo    string
	subject policy.Subject
	at      policy.Point
	parents []oci.Digest
	shape   enforce.Shape
	ask     bool // for scans, where there are none yet
}

func (a about) needs(doc *document) policy.Needs { return doc.bundle.Needs(a.subject, a.at) }

// facts finds out what a document wants to know of an image. What cannot be
// found out is said in them; the only error is ctx's.
func (j *Judge) facts(ctx context.Context, doc *document, a about) (policy.Facts, error) {
	f := policy.Facts{Subject: a.subject, At: a.at, Kind: a.shape.Kind, Children: a.shape.Children, More: a.shape.More, Parents: a.parents, Platforms: j.o.Platforms}
	if slices.Contains(j.o.Exempt, a.subject.Digest) {
		f.Exempt = exemption
	}
	if f.Kind == policy.KindOther || f.Exempt != "" {
		return f, nil
	}
	needs := a.needs(doc)
	g, gctx := errgroup.WithContext(ctx)
	if needs.Scan != nil {
		g.Go(func() error { f.Scans = j.scans(gctx, doc, a, needs); return nil })
	}
	var signed verify.Result
	g.Go(func() (err error) {
		signed, err = j.signatures(gctx, doc, a, policy.Facts{Kind: f.Kind, Children: f.Children, Subject: f.Subject, Platforms: f.Platforms}, needs, 0)
		return err
	})
	if err := g.Wait(); err != nil {
		return f, err
	}
	signed.Into(&f)
	return f, ctx.Err()
}

// signatures verifies what is beside an image. The answer may be as old as
// maxAge says; 0 leaves it to the verifier.
func (j *Judge) signatures(ctx context.Context, doc *document, a about, f policy.Facts, needs policy.Needs, maxAge time.Duration) (verify.Result, error) {
	if len(needs.Signatures)+len(needs.Attestations) == 0 {
		return verify.Result{}, nil
	}
	r := verify.Request{Repo: a.repo, Needs: needs, Authorities: doc.authorities, Parents: a.parents, MaxAge: maxAge}
	if !j.o.Proxied(a.repo) {
		r.Recheck = fresh // that a signature is there still is a row of ours
	}
	for _, c := range doc.bundle.Judged(f) {
		r.Children = append(r.Children, c.Digest)
	}
	return j.verifier.Check(ctx, j.o.Images, r)
}

// scans says what is known of an image by scanning it.
func (j *Judge) scans(ctx context.Context, doc *document, a about, needs policy.Needs) []policy.Scan {
	unknown := func(why string) []policy.Scan {
		targets := []policy.Child{{Digest: a.subject.Digest}}
		if a.shape.Kind == policy.KindIndex {
			targets = doc.bundle.Judged(policy.Facts{Kind: a.shape.Kind, Children: a.shape.Children, Platforms: j.o.Platforms})
		}
		var all []policy.Scan
		for _, t := range targets {
			all = append(all, policy.Scan{Digest: t.Digest, Platform: t.Platform, State: policy.ScanError, Reason: why})
		}
		return all
	}
	if j.o.Scans == nil {
		return unknown("this hub does not scan images (scan.enabled)")
	}
	img := scan.Image{Repo: a.repo, Digest: a.subject.Digest, Platforms: needs.Platforms}
	var f scan.Facts
	var err error
	if a.ask {
		f, err = j.o.Scans.Wait(ctx, img, j.o.Now()) // which waits for nothing: who pulls is told to come back
	} else {
		f, err = j.o.Scans.Facts(ctx, img)
	}
	if err != nil {
		if ctx.Err() == nil {
			j.o.Log.Error("what a scan has found cannot be read", "image", a.subject.Name, "digest", a.subject.Digest, "err", err)
		}
		return unknown("what it has found cannot be read")
	}
	return f.Scans
}

// deletion says whether an image is protected from being deleted.
func (j *Judge) deletion(ctx context.Context, q enforce.Question) (policy.Deletion, error) {
	doc := j.current.Load()
	if doc == nil {
		return policy.Deletion{}, nil
	}
	needs := doc.bundle.DeletionNeeds(q.Subject)
	if needs.None() {
		return policy.Deletion{}, nil
	}
	ctx = asJudge(ctx)
	shape, err := q.Look(ctx)
	if err != nil {
		return policy.Deletion{}, err
	}
	a := about{repo: q.Repo, subject: q.Subject, parents: q.Parents, shape: shape}
	f := policy.Facts{Subject: q.Subject, Kind: shape.Kind, Children: shape.Children, Parents: q.Parents}
	if f.Kind == policy.KindOther {
		return policy.Deletion{}, nil
	}
	found, err := j.signatures(ctx, doc, a, f, needs, fresh) // one may have been added just now
	if err != nil {
		return policy.Deletion{}, err
	}
	f.Signatures = found.Signatures
	return doc.bundle.Deletion(f), nil
}

// CheckRepository returns the refusal of who would delete all of a repository
// with a protected image in it.
func (j *Judge) CheckRepository(ctx context.Context, repo string) error {
	s, err := j.o.Subject(repo, oci.Reference{})
	named := err == nil // else the registry says so
	if doc := j.current.Load(); !named || doc == nil || doc.bundle.DeletionNeeds(s).None() {
		return nil
	}
	for last, more := oci.Digest(""), true; more; {
		var all []oci.Digest
		if all, more, err = j.o.Rows.ManifestDigests(ctx, repo, 100, last); err != nil {
			return err
		}
		for _, d := range all {
			if err := j.gate.CheckDeletion(ctx, repo, oci.Digested(d)); err != nil {
				return err
			}
			last = d
		}
	}
	return nil
}
