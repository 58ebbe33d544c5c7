package verify

import (
	"context"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// proof is where something valid was found. What was proven stays so; but who
// takes a signature away wants it to count no more.
type proof struct {
	form          form
	image, holder oci.Digest
}

// still says whether all proofs lie where they were found. Nothing is read of
// them: a tag has one digest, and a list names referrers by theirs. A place that
// cannot be looked at is believed to be as it was, so that pulls go on while a
// registry is away.
func still(ctx context.Context, f Fetcher, repo string, proofs []proof) bool {
	var gone atomic.Bool
	var g errgroup.Group
	g.SetLimit(8)
	seen := map[proof]bool{}
	for _, p := range proofs {
		if seen[p] {
			continue
		}
		seen[p] = true
		g.Go(func() error {
			if !p.lies(ctx, f, repo) {
				gone.Store(true)
			}
			return nil
		})
	}
	_ = g.Wait() // none fails
	return !gone.Load()
}

func (p proof) lies(ctx context.Context, f Fetcher, repo string) bool {
	if p.form != asBundle {
		m, err := f.Resolve(ctx, repo, oci.Tagged(tagOf(p.image, p.form)))
		return err != nil && !oci.IsAbsent(err) || err == nil && m.Digest == p.holder
	}
	for _, artifactType := range []string{BundleType, ""} { // as it was found
		refs, err := f.Referrers(ctx, repo, p.image, artifactType)
		switch {
		case err != nil && !oci.IsAbsent(err):
			return true
		case slices.ContainsFunc(refs, func(d oci.Descriptor) bool { return d.Digest == p.holder }):
			return true
		}
	}
	return false
}
