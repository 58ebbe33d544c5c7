// Package shape says what a manifest is, by its structure, and what of an index
// can run. Who pushed it has no say in that: neither what a descriptor calls the
// manifest nor where in an index it is put keeps it from being judged.
package shape

import (
	"context"
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// Shape is what a manifest is. What it holds is shared; do not change it.
type Shape struct {
	Kind     policy.Kind
	Children []policy.Child // of an index: the images in it, those of indexes in it too
	More     string         // see [policy.Facts]
	Blobs    []oci.Digest   // of what is no index: config and layers, the first 256
}

// How much of an index is looked at; the largest of Docker Hub has some 20
// images. What lies beyond is in Shape.More.
const (
	maxDepth    = 3   // of indexes in indexes
	maxIndexes  = 8   // in one
	maxChildren = 200 // images, each once
	maxReads    = 128 // manifests in all, of indexes and of what does not say what it is for
)

// maxBlobs is how many of a manifest's blobs are told.
const maxBlobs = 256

// Looker looks at the manifests of a registry and remembers what they are, which
// does not change. Its methods may be called concurrently.
type Looker struct {
	images oci.Puller
	known  *lru.Cache[oci.Digest, Shape]
}

// New returns a Looker that remembers so many manifests of images.
func New(images oci.Puller, remember int) *Looker {
	known, err := lru.New[oci.Digest, Shape](remember)
	if err != nil {
		panic(err) // remember is not positive
	}
	return &Looker{images, known}
}

// Known is what d is, if it was looked at.
func (l *Looker) Known(d oci.Digest) (Shape, bool) { return l.known.Peek(d) }

// Look says what m is, of which the digest is enough. What else is needed is read
// from repo.
func (l *Looker) Look(ctx context.Context, repo string, m oci.Manifest) (Shape, error) {
	w := walk{Looker: l, repo: repo, reads: maxReads}
	s, _, err := w.look(ctx, m, 0)
	return s, err
}

// A walk is one look at a manifest and what is below it.
type walk struct {
	*Looker
	repo  string
	reads int // how many more manifests may be read
}

// look says what m is, and whether that is final: something that could not be
// read may be there another time.
func (w *walk) look(ctx context.Context, m oci.Manifest, depth int) (s Shape, final bool, err error) {
	if s, ok := w.known.Get(m.Digest); ok {
		return s, true, nil
	}
	if m.Bytes == nil {
		if m, err = w.images.Manifest(ctx, w.repo, oci.Digested(m.Digest)); err != nil {
			return s, false, err
		}
	}
	links, err := oci.ParseManifest(m.MediaType, m.Bytes)
	if err != nil {
		return s, false, err
	}
	if !oci.IsIndexType(links.MediaType) {
		s, err = w.single(ctx, m.Digest, links)
		return s, err == nil, err
	}
	if s, final, err = w.index(ctx, links.Children, depth); err != nil {
		return s, false, err
	}
	if final && (depth == 0 || s.More == "") { // by itself it may be looked into deeper
		w.known.Add(m.Digest, s)
	}
	return s, final, nil
}

// single says what a manifest is that is no index.
func (w *walk) single(ctx context.Context, d oci.Digest, links oci.Links) (s Shape, err error) {
	s.Kind = policy.KindOther
	if links.Runs() {
		cache, err := buildCache(ctx, w.images, w.repo, links)
		if err != nil {
			return s, err
		}
		if !cache {
			s.Kind = policy.KindImage
		}
	}
	for _, b := range links.Blobs[:min(len(links.Blobs), maxBlobs)] {
		s.Blobs = append(s.Blobs, b.Digest)
	}
	w.known.Add(d, s)
	return s, nil
}

// entries collects what an index holds.
type entries struct {
	Shape
	seen map[policy.Child]bool
}

func (e *entries) add(c policy.Child) {
	switch {
	case e.seen[c]:
	case len(e.Children) == maxChildren:
		e.more(fmt.Sprintf("more than %d images", maxChildren))
	default:
		e.seen[c] = true
		e.Children = append(e.Children, c)
	}
}

// more notes that there is more than is looked at; what was noted first stays.
func (e *entries) more(what string) {
	if e.More == "" {
		e.More = what
	}
}

// index lists what can run of an index. An entry for no platform that there is
// is taken by no runtime; one that does not say what it is for may be taken by
// any, and is left out only when it is seen that it cannot run, as are those
// that are said to be artifacts.
func (w *walk) index(ctx context.Context, list []oci.Descriptor, depth int) (s Shape, final bool, err error) {
	e := entries{seen: make(map[policy.Child]bool)}
	kinds, final, err := w.kinds(ctx, list, &e)
	if err != nil {
		return s, false, err
	}
	indexes := make(map[oci.Digest]bool)
	for _, d := range list {
		c := child(d)
		switch {
		case c.Platform == policy.NoPlatform:
		case !oci.IsIndexType(d.MediaType):
			if kind, ok := kinds[d.Digest]; isManifest(d) && (!ok && !doubtful(d) || ok && kind != policy.KindOther) {
				e.add(c)
			}
		case indexes[d.Digest]:
		case depth == maxDepth:
			e.more(fmt.Sprintf("indexes in indexes, more than %d deep", maxDepth))
		case len(indexes) == maxIndexes:
			e.more(fmt.Sprintf("more than %d indexes", maxIndexes))
		default:
			indexes[d.Digest] = true
			sure, err := w.nested(ctx, c, depth, &e)
			if err != nil {
				return s, false, err
			}
			final = final && sure
		}
	}
	e.Kind = policy.KindIndex
	if len(e.Children) == 0 && e.More == "" {
		e.Kind = policy.KindOther
	}
	return e.Shape, final, nil
}

// nested adds what is in an index of an index.
func (w *walk) nested(ctx context.Context, c policy.Child, depth int, e *entries) (final bool, err error) {
	if _, known := w.known.Peek(c.Digest); !known {
		if w.reads == 0 {
			e.more(unread)
			return true, nil
		}
		w.reads--
	}
	inner, final, err := w.look(ctx, oci.Manifest{Descriptor: oci.Descriptor{Digest: c.Digest}}, depth+1)
	switch {
	case unreadable(err):
		e.more("an index that cannot be read")
		return false, nil
	case err != nil:
		return false, err
	case inner.Kind == policy.KindImage: // so it is none
		e.add(c)
	}
	for _, c := range inner.Children {
		c.Conditional = true
		e.add(c)
	}
	if inner.More != "" {
		e.more(inner.More)
	}
	return final, nil
}

// child is an entry of an index as policies see it.
func child(d oci.Descriptor) policy.Child {
	c := policy.Child{Digest: d.Digest, Platform: Platform(d.Platform)}
	if p := d.Platform; p != nil {
		c.Conditional = p.OSVersion != "" || len(p.OSFeatures) > 0
	}
	return c
}

// Platform is p as people write it, "" for none.
func Platform(p *ocispec.Platform) string {
	switch {
	case p == nil || p.OS == "" && p.Architecture == "":
		return ""
	case p.Variant == "":
		return p.OS + "/" + p.Architecture
	}
	return p.OS + "/" + p.Architecture + "/" + p.Variant
}

// isManifest says that an entry is of something that may run.
func isManifest(d oci.Descriptor) bool { return d.MediaType == "" || oci.IsManifestType(d.MediaType) }

// doubtful says that an entry does not tell what it is for.
func doubtful(d oci.Descriptor) bool { return child(d).Platform == "" }
