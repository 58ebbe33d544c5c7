package enforce

import (
	"context"
	"slices"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// named is what is known of a blob by the manifests that name it.
type named struct {
	allowed bool      // one of them is
	refused *verdict  // one of them is
	until   time.Time // when to find out anew
}

// maxNaming is how many manifests are asked about for one blob, the latest that
// name it. To these come maxSeen that this gate has let through: a layer of a
// whole fleet is not lost to an image of it for a row of refused ones.
const maxNaming, maxSeen = 64, 4

// Stat implements [oci.Puller].
func (g *Gate) Stat(ctx context.Context, repo string, d oci.Digest) (oci.BlobInfo, error) {
	id, err := g.blob(ctx, repo, d, true)
	if err != nil {
		return oci.BlobInfo{}, err
	}
	b, err := g.inner.Stat(ctx, repo, d)
	if id != "" {
		b.Policy = id
	}
	return b, err
}

// Blob implements [oci.Puller]. A blob is refused when all manifests that name
// it are.
func (g *Gate) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	id, err := g.blob(ctx, repo, d, false)
	if err != nil {
		return nil, err
	}
	b, err := g.inner.Blob(ctx, repo, d)
	if err == nil && id != "" {
		b.Policy = id
	}
	return b, err
}

// blob returns the refusal of a blob, or nil and the id of the decision in spite
// of which it is let through, "" for none. head says that only whether it is
// there is asked: that every push asks, also one of a container runtime.
func (g *Gate) blob(ctx context.Context, repo string, d oci.Digest, head bool) (id string, err error) {
	if r, ok := g.asked(d); ok {
		return "", r.err
	}
	// What containerd 1.7 was refused by its digest it then asks for as a blob, and
	// tells of no other answer.
	if s, err := g.o.Subject(repo, oci.Digested(d)); err == nil && oci.ForContainerd(ctx) {
		if r, ok := g.refused.Get(key(s.Name, d)); ok && g.o.Now().Before(r.until) {
			return "", r.err
		}
	}
	if g.o.Gated != nil {
		subject, err := g.o.Subject(repo, oci.Digested(d))
		if err != nil || !g.o.Gated(ctx, subject.Name) {
			return "", err
		}
	}
	n, err := g.named(ctx, repo, d)
	switch {
	case err == nil && (n.allowed || n.refused == nil):
		return "", nil
	case head && g.entitled(ctx, repo):
		return n.refused.get().ID, nil
	case g.exempt(ctx, repo):
		about := d // itself, when nobody can say what names it
		if n.refused != nil {
			about = n.refused.decision.Subject.Digest
		}
		m := oci.Manifest{Descriptor: oci.Descriptor{Digest: about}}
		return g.letThrough(ctx, repo, oci.Digested(about), m, n.refused, err), nil
	case err != nil:
		return "", g.fault(ctx, repo, oci.Manifest{Descriptor: oci.Descriptor{Digest: d}}, err)
	}
	g.tellBy(ctx, repo, n.refused)
	return "", g.refuse(ctx, n.refused, 0)
}

// named finds out what the manifests that name a blob say of it.
func (g *Gate) named(ctx context.Context, repo string, d oci.Digest) (n named, err error) {
	k := key(repo, d)
	if n, ok := g.blobs.Get(k); ok && g.o.Now().Before(n.until) {
		return n, nil
	}
	generation := g.generation.Load()
	manifests, err := g.namers(ctx, repo, d)
	if err != nil {
		return n, err
	}
	n.until = g.o.Now().Add(g.o.RememberFor)
	var unknown error
	for _, m := range manifests {
		if n.allowed {
			break
		}
		v, err := g.decide(ctx, repo, oci.Digested(m), oci.Manifest{Descriptor: oci.Descriptor{Digest: m}})
		switch {
		case err != nil:
			unknown = err // another may allow it
			continue
		case v != nil && v.until.Before(n.until):
			n.until = v.until
		}
		if n.allowed = !v.refuses(); !n.allowed {
			n.refused = v
		}
	}
	if !n.allowed && unknown != nil {
		return n, unknown
	}
	if g.generation.Load() == generation {
		g.blobs.Add(k, n)
	}
	return n, nil
}

// namers lists manifests that name a blob.
func (g *Gate) namers(ctx context.Context, repo string, d oci.Digest) ([]oci.Digest, error) {
	seen, _ := g.naming.Get(key(repo, d))
	if g.o.Naming == nil {
		return seen, nil
	}
	all, err := g.o.Naming(ctx, repo, d)
	return slices.Concat(seen, all[:min(len(all), maxNaming)]), err
}
