package enforce

import (
	"context"
	"errors"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// Resolve implements [oci.Puller]. A refusal is told to containerd as a
// manifest without digest and length, see the package comment.
func (g *Gate) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	if _, ok := g.asked(ref.Digest); ok && oci.ForContainerd(ctx) {
		return nameless(oci.Manifest{}), nil
	}
	ctx = g.begin(ctx)
	m, err := g.inner.Resolve(ctx, repo, ref)
	if err != nil {
		err = g.behind(ctx, repo, ref, err, &m)
		return m, err
	}
	v, err := g.decide(ctx, repo, ref, m)
	switch {
	case (err != nil || v.refuses()) && g.exempt(ctx, repo):
		m.Policy = g.letThrough(ctx, repo, ref, m, v, err)
		return m, nil
	case err != nil && oci.ForContainerd(ctx) && ctx.Err() == nil:
		return nameless(m), nil // the reason is the GET's to tell
	case err != nil:
		return oci.Manifest{}, g.fault(ctx, repo, m, err)
	}
	g.tellBy(ctx, repo, v)
	g.pulled(ctx, repo, ref, m, v)
	if v.refuses() {
		if oci.ForContainerd(ctx) {
			g.refusal(ctx, v.decision, m.Size) // it may be asked for by its digest
			return nameless(m), nil
		}
		if v.decision.Outcome == policy.Wait {
			return m, nil // a HEAD hands nothing out, and a node asks about its digest
		}
		return oci.Manifest{}, g.refuse(ctx, v, m.Size)
	}
	m.Policy = audited(v)
	return m, nil
}

// Manifest implements [oci.Puller].
func (g *Gate) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	if r, ok := g.asked(ref.Digest); ok {
		return oci.Manifest{}, r.err
	}
	ctx = g.begin(ctx)
	m, err := g.inner.Manifest(ctx, repo, ref)
	if err != nil {
		return m, g.behind(ctx, repo, ref, err, nil)
	}
	v, err := g.decide(ctx, repo, ref, m)
	if v != nil {
		g.saw(ctx, repo, m, !v.refuses())
	}
	if (err != nil || v.refuses()) && g.exempt(ctx, repo) {
		m.Policy = g.letThrough(ctx, repo, ref, m, v, err)
		return m, nil
	}
	if err != nil {
		m.Size = int64(len(m.Bytes))
		return oci.Manifest{}, g.fault(ctx, repo, m, err)
	}
	g.tellBy(ctx, repo, v)
	if !ref.IsDigest() { // else it is a part of one, or a HEAD was before it
		g.pulled(ctx, repo, ref, m, v)
	}
	if v.refuses() {
		return oci.Manifest{}, g.refuse(ctx, v, int64(len(m.Bytes)))
	}
	m.Policy = audited(v)
	return m, nil
}

// nameless is what containerd is told of a manifest that it does not get.
func nameless(m oci.Manifest) oci.Manifest {
	var n oci.Manifest
	n.MediaType, n.Source, n.Visibility = m.MediaType, m.Source, m.Visibility
	if n.MediaType == "" {
		n.MediaType = oci.MediaTypeImage
	}
	return n
}

// audited is the id of a decision that audit mode would refuse by.
func audited(v *verdict) string {
	if d := v.get(); d.Would != "" && d.Would != d.Outcome {
		return d.ID
	}
	return ""
}

// refuse is the error of a refused pull.
func (g *Gate) refuse(ctx context.Context, v *verdict, manifestBytes int64) error {
	r := g.refusal(ctx, v.decision, manifestBytes)
	if v.decision.Outcome == policy.Wait && !oci.ForContainerd(ctx) {
		return comeBack(r, v.decision)
	}
	return r.err
}

// fault is the error of a question without an answer.
func (g *Gate) fault(ctx context.Context, repo string, m oci.Manifest, err error) error {
	why := "the policy could not be asked"
	switch {
	case ctx.Err() != nil:
		return err
	case errors.Is(err, ErrLate):
		why = "the check is under way"
	}
	if oci.ForContainerd(ctx) {
		e := *g.undecided(repo, m, why).err
		e.Err = err
		return &e
	}
	return &oci.Error{Code: oci.Unavailable, Message: "breakwater: " + why + "; try again in a few seconds", RetryAfter: 5 * time.Second, Err: err}
}

// behind handles an error of the registry behind. When that refused by a
// policy of its own, as a hub does to its agents, the refusal is this gate's
// too. A HEAD does not tell, so that the GET is asked; resolved is then what to
// answer instead of an error, if it can be.
func (g *Gate) behind(ctx context.Context, repo string, ref oci.Reference, err error, resolved *oci.Manifest) error {
	if !oci.ForContainerd(ctx) || oci.CodeOf(err) != oci.Denied {
		return err
	}
	d, ok := DecisionIn(err)
	if !ok && resolved != nil {
		_, full := g.inner.Manifest(ctx, repo, ref)
		d, ok = DecisionIn(full)
	}
	if !ok {
		return err
	}
	r := g.refusal(ctx, d, 0)
	if resolved != nil {
		*resolved = nameless(*resolved)
		return nil
	}
	return r.err
}

// saw remembers what a manifest is made of.
func (g *Gate) saw(ctx context.Context, repo string, m oci.Manifest, allowed bool) {
	s, err := g.shapes.Look(ctx, repo, m)
	if err != nil {
		return // no manifest that could run
	}
	for _, c := range s.Children {
		if allowed || g.o.Parents == nil {
			remember(g.parents, key(repo, c.Digest), m.Digest, maxParents)
		}
	}
	n := maxNaming
	if g.o.Naming != nil {
		if n = maxSeen; !allowed {
			return
		}
	}
	for _, d := range s.Blobs {
		k := key(repo, d)
		remember(g.naming, k, m.Digest, n)
		if known, ok := g.blobs.Peek(k); ok && allowed && !known.allowed {
			g.blobs.Remove(k)
		}
	}
}

// remember puts d in front of the n digests kept under k.
func remember(in *lru.Cache[string, []oci.Digest], k string, d oci.Digest, n int) {
	known, _ := in.Get(k)
	if !slices.Contains(known, d) {
		in.Add(k, append([]oci.Digest{d}, known[:min(len(known), n-1)]...))
	}
}
