package enforce

import (
	"context"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// Judge decides. An error says that it could not be asked; that rules could not
// find something out is part of its decision.
type Judge interface {
	// Judge is called without the deadline of the request, once for all who ask
	// the same at one time; ctx ends after [Options.Timeout].
	Judge(ctx context.Context, q Question) (policy.Decision, error)
}

// Question is what a judge is asked.
type Question struct {
	Repo string // as the gate's registry names it
	// Subject is the image, with its digest, and the tag if one was asked for.
	Subject policy.Subject
	At      policy.Point
	// Manifest is the image's descriptor, as far as it is known: always its
	// digest. Bytes is nil unless it was in hand; see [Question.Look].
	Manifest oci.Manifest
	// Parents are indexes known to hold the image.
	Parents []oci.Digest
	Caller  oci.Caller // who asked first

	gate *Gate
}

// Look says what the image is, by its structure. It reads its manifest through
// the gate's registry, ungated, if it is not known yet.
func (q *Question) Look(ctx context.Context) (Shape, error) {
	return q.gate.shapes.Look(ctx, q.Repo, q.Manifest)
}

// Decide asks the judge about an image for somebody who goes by the answer, or
// answers from memory. What is not gated is allowed, with a decision that has no
// id.
func (g *Gate) Decide(ctx context.Context, repo string, ref oci.Reference) (policy.Decision, error) {
	v, d, err := g.look(ctx, repo, ref)
	if err == nil {
		g.tellBy(ctx, repo, v)
	}
	return d, err
}

// Explain is what a pull of ref would be told, as [Gate.Decide] says it. Nobody
// hears of it: nothing was pulled or refused.
func (g *Gate) Explain(ctx context.Context, repo string, ref oci.Reference) (policy.Decision, error) {
	_, d, err := g.look(ctx, repo, ref)
	return d, err
}

func (g *Gate) look(ctx context.Context, repo string, ref oci.Reference) (*verdict, policy.Decision, error) {
	m, err := g.inner.Resolve(ctx, repo, ref)
	if err != nil {
		return nil, policy.Decision{}, err
	}
	v, err := g.decide(ctx, repo, ref, m)
	if err != nil || v != nil {
		return v, v.get(), err
	}
	subject, err := g.o.Subject(repo, ref)
	subject.Digest = m.Digest
	return nil, policy.Decision{Subject: subject, At: policy.Pull, Outcome: policy.Allow, Would: policy.Allow, Mode: policy.Enforce, Note: "no policy is about this image", Time: g.o.Now()}, err
}

// Look says what a manifest is, by its structure, reading it ungated if need be.
func (g *Gate) Look(ctx context.Context, repo string, d oci.Digest) (Shape, error) {
	return g.shapes.Look(ctx, repo, oci.Manifest{Descriptor: oci.Descriptor{Digest: d}})
}
