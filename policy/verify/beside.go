package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// The most that is looked at beside one image.
const (
	MaxReferrers   = 32      // referrers, the likeliest first; and entries of a .sig or .att tag, the newest first
	MaxObjectBytes = 1 << 20 // of a bundle, a payload or an envelope; a larger one is not read at all
)

// Fetcher is what verification reads images through: the reading half of
// an oci.Registry. Its answers may be stale or hostile.
type Fetcher interface {
	Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error)
	Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error)
	Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error)
	Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) ([]oci.Descriptor, error)
}

// form is how a signed object lies beside an image.
type form int

const (
	tagSignature   form = iota // a layer of the tag sha256-<hex>.sig: a "simple signing" payload, its signature in annotations
	tagAttestation             // a layer of the tag sha256-<hex>.att: a DSSE envelope
	asBundle                   // the layer of a referrer: a sigstore bundle
)

// object is one signed thing as it was found. Nothing in it is proven.
type object struct {
	form        form
	holder      oci.Digest // the manifest that has it as a layer
	image       oci.Digest // what it lies beside
	payload     []byte     // of the tag forms
	annotations map[string]string
	bundle      *bundle.Bundle
	statement   inToto // of attestations and bundles
	err         error  // why it cannot be looked at; then only form, holder and image are set
}

// source is a place beside an image where objects lie.
type source struct {
	objects []object
	unseen  int   // objects beyond the caps
	err     error // the place, or part of it, could not be read
}

// tagOf is the tag that cosign 2 derives from an image's digest.
func tagOf(image oci.Digest, form form) string {
	suffix := ".sig"
	if form == tagAttestation {
		suffix = ".att"
	}
	return image.Algorithm().String() + "-" + image.Encoded() + suffix
}

// readTag reads the layers of a tag beside an image. No such tag is no objects.
func readTag(ctx context.Context, f Fetcher, repo string, image oci.Digest, form form) source {
	tag := tagOf(image, form)
	m, err := f.Manifest(ctx, repo, oci.Tagged(tag))
	switch {
	case oci.IsAbsent(err):
		return source{}
	case oci.CodeOf(err) == oci.ManifestTooLarge:
		return source{objects: []object{{form: form, image: image, err: errors.New("its manifest is too large")}}}
	case err != nil:
		return source{err: fmt.Errorf("read %s:%s: %w", repo, tag, err)}
	}
	links, err := oci.ParseManifest(m.MediaType, m.Bytes)
	if err != nil {
		return source{objects: []object{{form: form, holder: m.Digest, image: image, err: err}}}
	}
	layers := links.Blobs[min(1, len(links.Blobs)):] // the config comes first
	src := source{unseen: max(0, len(layers)-MaxReferrers)}
	layers = layers[src.unseen:] // cosign adds at the end
	slices.Reverse(layers)
	src.read(ctx, len(layers), func(ctx context.Context, i int) (*object, error) {
		o := &object{form: form, holder: m.Digest, image: image, annotations: layers[i].Annotations}
		var err error
		if o.payload, err = readSmall(ctx, f, repo, layers[i]); err == nil && form == tagAttestation {
			o.statement, o.err = statementInEnvelope(o.payload)
		}
		return o, err
	})
	return src
}

// readBundles reads the sigstore bundles among referrers of an image, the first
// of them; those in read are left out and count, and those it reads are added.
// Bundles are told by the media type of their layer.
func readBundles(ctx context.Context, f Fetcher, repo string, image oci.Digest, refs []oci.Descriptor, read map[oci.Digest]bool) source {
	var some []oci.Digest
	var src source
	for _, r := range refs {
		switch {
		case read[r.Digest]:
		case len(read) == MaxReferrers:
			src.unseen++
		default:
			read[r.Digest] = true
			some = append(some, r.Digest)
		}
	}
	src.read(ctx, len(some), func(ctx context.Context, i int) (*object, error) {
		return readReferrer(ctx, f, repo, image, some[i])
	})
	return src
}

// readReferrer returns the bundle in a referrer; nil when it holds none.
func readReferrer(ctx context.Context, f Fetcher, repo string, image, d oci.Digest) (*object, error) {
	o := &object{form: asBundle, holder: d, image: image}
	m, err := f.Manifest(ctx, repo, oci.Digested(d))
	if oci.CodeOf(err) == oci.ManifestTooLarge {
		return nil, nil // no bundle's manifest is
	}
	if err != nil {
		return o, err
	}
	links, _ := oci.ParseManifest(m.MediaType, m.Bytes) // what is no manifest holds none
	at := slices.IndexFunc(links.Blobs, func(l oci.Descriptor) bool { return strings.HasPrefix(l.MediaType, bundlePrefix) })
	if at < 0 {
		return nil, nil
	}
	data, err := readSmall(ctx, f, repo, links.Blobs[at])
	if err != nil {
		return o, err
	}
	o.err = o.parse(data)
	return o, nil
}

// parse reads a bundle into o.
func (o *object) parse(data []byte) (err error) {
	defer rescue(&err)
	if o.bundle, err = parseBundle(data); err != nil {
		return err
	}
	o.statement, err = payloadOf(o.bundle)
	return err
}

// read fills src with n objects, eight at a time. An error of get that leaves
// open what the object is makes the place unreadable; any other is the
// object's own.
func (src *source) read(ctx context.Context, n int, get func(ctx context.Context, i int) (*object, error)) {
	found := make([]*object, n)
	errs := make([]error, n)
	var g errgroup.Group
	g.SetLimit(8)
	for i := range n {
		g.Go(func() error {
			found[i], errs[i] = get(ctx, i)
			return nil
		})
	}
	_ = g.Wait() // none fails
	for i, o := range found {
		switch err := errs[i]; {
		case err == nil:
		case oci.IsAbsent(err):
			o.err = errors.New("it is listed, and gone from the registry")
		case errors.Is(err, errHostile):
			o.err = err
		default:
			src.err = errors.Join(src.err, fmt.Errorf("read %s: %w", o.holder, err))
			continue
		}
		if o != nil {
			src.objects = append(src.objects, *o)
		}
	}
}

// errHostile is in the chain of the error of content that will not become
// better by asking again.
var errHostile = errors.New("not looked at")

// readSmall reads a layer of at most MaxObjectBytes and holds it to its digest.
func readSmall(ctx context.Context, f Fetcher, repo string, l oci.Descriptor) ([]byte, error) {
	if l.Size > MaxObjectBytes {
		return nil, tooLarge(l.Size)
	}
	b, err := f.Blob(ctx, repo, l.Digest)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	if b.Size > MaxObjectBytes { // the manifest may say less than there is
		return nil, tooLarge(b.Size)
	}
	r, err := b.Section(ctx, 0, b.Size)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, MaxObjectBytes))
	if err != nil {
		return nil, err
	}
	if l.Digest.Algorithm().FromBytes(data) != l.Digest {
		return nil, fmt.Errorf("%w: its bytes do not have the digest %s", errHostile, l.Digest)
	}
	return data, nil
}

func tooLarge(n int64) error {
	return fmt.Errorf("%w: %s is more than the %s a signature may have",
		errHostile, humanize.IBytes(uint64(n)), humanize.IBytes(MaxObjectBytes))
}

// How likely a referrer is a bundle that is wanted. The artifact type in lists
// and the annotations prove nothing: they only say which to look at first.
const (
	rankWanted  = iota
	rankBundle  // of what, it does not say
	rankUntold  // it does not say what it is
	rankOther   // a bundle of something else
	rankNothing // something else
)

func rankOf(d oci.Descriptor, wanted []string) int {
	predicate := d.Annotations[annotationPredicateType]
	switch {
	case slices.Contains(wanted, predicate):
		return rankWanted
	case strings.HasPrefix(d.ArtifactType, bundlePrefix) && predicate == "":
		return rankBundle
	case d.ArtifactType == "", d.ArtifactType == ocispec.MediaTypeEmptyJSON:
		return rankUntold
	case strings.HasPrefix(d.ArtifactType, bundlePrefix):
		return rankOther
	}
	return rankNothing
}

// likeliestFirst sorts referrers by their rank, the newest first among equals,
// and leaves out what the hub itself has put there.
func likeliestFirst(refs []oci.Descriptor, wanted []string) []oci.Descriptor {
	refs = slices.DeleteFunc(slices.Clone(refs), func(d oci.Descriptor) bool { return ourOwn(d) && rankOf(d, wanted) != rankWanted })
	slices.SortStableFunc(refs, func(a, b oci.Descriptor) int {
		return cmp.Or(
			cmp.Compare(rankOf(a, wanted), rankOf(b, wanted)),
			strings.Compare(b.Annotations[ocispec.AnnotationCreated], a.Annotations[ocispec.AnnotationCreated]))
	})
	return refs
}
