package shape

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// unread is what is in an index of which too much would have to be read.
var unread = fmt.Sprintf("more than %d manifests to look at", maxReads)

// readers is how many manifests are read at once.
const readers = 8

// kinds looks at the entries of an index that do not say what they are for, and
// at those that say they are no images. What cannot be read may run: it may be
// shown to others, or tomorrow.
func (w *walk) kinds(ctx context.Context, list []oci.Descriptor, e *entries) (kinds map[oci.Digest]policy.Kind, final bool, err error) {
	kinds = make(map[oci.Digest]policy.Kind)
	var todo []oci.Digest
	for _, d := range list {
		if _, again := kinds[d.Digest]; again || !isManifest(d) || oci.IsIndexType(d.MediaType) || child(d).Platform == policy.NoPlatform || !doubtful(d) && d.ArtifactType == "" {
			continue
		}
		known, ok := w.known.Get(d.Digest)
		switch {
		case ok:
			kinds[d.Digest] = known.Kind
		case w.reads > 0:
			w.reads--
			kinds[d.Digest] = ""
			todo = append(todo, d.Digest)
		case doubtful(d):
			e.more(unread)
		}
	}
	found, sure := make([]policy.Kind, len(todo)), make([]bool, len(todo))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for i, d := range todo {
		g.Go(func() (err error) { found[i], sure[i], err = w.kind(ctx, d); return err })
	}
	if err := g.Wait(); err != nil {
		return nil, false, err
	}
	final = true
	for i, d := range todo {
		kinds[d], final = found[i], final && sure[i]
	}
	return kinds, final, nil
}

// kind is what d is, without a look at what is below it.
func (w *walk) kind(ctx context.Context, d oci.Digest) (k policy.Kind, final bool, err error) {
	m, err := w.images.Manifest(ctx, w.repo, oci.Digested(d))
	if err == nil {
		var links oci.Links
		if links, err = oci.ParseManifest(m.MediaType, m.Bytes); err == nil {
			if oci.IsIndexType(links.MediaType) {
				return policy.KindIndex, true, nil
			}
			s, err := w.single(ctx, d, links)
			return s.Kind, err == nil, err
		}
	}
	if unreadable(err) {
		return policy.KindImage, false, nil
	}
	return "", false, err
}

// unreadable says that a manifest is not to be had, or is none to us. A runtime
// may be shown what we are not, and is not as strict.
func unreadable(err error) bool {
	return err != nil && (oci.IsAbsent(err) || oci.CodeOf(err) == oci.ManifestInvalid)
}
