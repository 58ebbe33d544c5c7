package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/breakwater-oci/breakwater/nodeagent/judge"
	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// verify answers breakwater-verifier.
func (g *gated) verify(ctx context.Context, q judge.Question) judge.Answer {
	s, err := policy.ParseSubject(q.Name)
	if err != nil {
		return judge.Answer{Message: "breakwater: " + err.Error()}
	}
	if s.Digest, err = oci.ParseDigest(q.Digest); err != nil {
		return judge.Answer{Message: "breakwater: " + err.Error()}
	}
	d, err := g.judged(ctx, s)
	if err != nil {
		return judge.Answer{Message: "breakwater: the policy for " + s.Name + " could not be asked; try again"}
	}
	g.judge.Pulled(enforce.Question{Subject: s}, d)
	if d.Outcome == policy.Allow {
		return judge.Answer{Allow: true, ID: d.ID}
	}
	return judge.Answer{ID: d.ID, Message: d.Message()}
}

// judged is the decision about an image of any registry.
func (g *gated) judged(ctx context.Context, s policy.Subject) (policy.Decision, error) {
	registry, name, _ := strings.Cut(s.Name, "/")
	repo, err := g.mirror.Name(registry, name)
	if err == nil {
		var d policy.Decision
		private := &oci.Error{Code: oci.Unauthorized} // whether or not: it is for the agent's eyes
		d, err = g.judgedWhole(context.WithValue(ctx, unhad{}, error(private)), repo, s)
		if err == nil {
			return d, nil
		}
		if d, ok := enforce.DecisionIn(err); ok {
			return d, nil
		}
	}
	decide := g.judge.DecideUnseen
	if errors.Is(err, enforce.ErrLate) {
		decide = g.judge.DecideLate
	}
	actx := context.WithoutCancel(ctx) // it has no time left, perhaps; this takes none
	d, judged, uerr := decide(actx, s, err)
	if uerr != nil {
		return d, uerr
	}
	if !judged {
		d = policy.Decision{Subject: s, At: policy.Pull, Outcome: policy.Allow, Would: policy.Allow}
	}
	return d, nil
}

// judgedWhole is the decision about an image that can be looked at. containerd
// asks about an index once, and takes of it what suits this node without asking
// again: so what it takes is judged now, unless it was judged with the index.
func (g *gated) judgedWhole(ctx context.Context, repo string, s policy.Subject) (d policy.Decision, err error) {
	d, err = g.Decide(ctx, repo, oci.Digested(s.Digest))
	if err != nil || d.Outcome != policy.Allow || !g.judge.Gated(ctx, s.Name) {
		return d, err
	}
	defer func() {
		if err != nil && ctx.Err() != nil { // it was seen: time has run out with the judging
			err = errors.Join(enforce.ErrLate, err)
		}
	}()
	// By the gate, which then knows whose images they are.
	m, err := g.Gate.Manifest(ctx, repo, oci.Digested(s.Digest))
	if err != nil {
		return d, err
	}
	images, err := g.taken(ctx, repo, m, 0)
	if err != nil {
		return d, err
	}
	for _, image := range images {
		if image == s.Digest || d.Holds(image) {
			continue
		}
		one, err := g.Decide(ctx, repo, oci.Digested(image))
		if err != nil || one.Outcome != policy.Allow {
			return one, err
		}
	}
	return d, nil
}

// maxIndexes is how deep indexes in indexes are looked into.
const maxIndexes = 4

// taken lists the images that containerd takes on this node of what it was given.
func (g *gated) taken(ctx context.Context, repo string, m oci.Manifest, depth int) ([]oci.Digest, error) {
	links, err := oci.ParseManifest(m.MediaType, m.Bytes)
	if err != nil {
		return nil, err
	}
	if !oci.IsIndexType(links.MediaType) {
		return []oci.Digest{m.Digest}, nil
	}
	if depth == maxIndexes {
		return nil, fmt.Errorf("%s holds indexes in indexes, more than %d deep", m.Digest, maxIndexes)
	}
	var all []oci.Digest
	for _, c := range g.judge.Taken(links.Children) {
		if !oci.IsIndexType(c.MediaType) {
			all = append(all, c.Digest)
			continue
		}
		inner, err := g.view.Manifest(ctx, repo, oci.Digested(c.Digest))
		if err != nil {
			return nil, err
		}
		images, err := g.taken(ctx, repo, inner, depth+1)
		if err != nil {
			return nil, err
		}
		all = append(all, images...)
	}
	return all, nil
}
