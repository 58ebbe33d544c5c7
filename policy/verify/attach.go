package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// BundleType is the media type of a sigstore bundle as written today, and the
// artifact type of the manifest around it. Readers go by bundlePrefix.
const BundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"

const bundlePrefix = "application/vnd.dev.sigstore.bundle"

// The annotations cosign puts on the manifest around a bundle.
const (
	annotationContent       = "dev.sigstore.bundle.content"
	annotationPredicateType = "dev.sigstore.bundle.predicateType"
)

// Attach puts a signed statement beside the image that subject describes, as
// cosign 3 does: a referrer whose one layer is the bundle. It returns the
// referrer's descriptor. The same bundle and time make the same manifest.
func Attach(ctx context.Context, reg oci.Pusher, repo string, subject oci.Descriptor, bundle []byte, predicateType string, created time.Time) (oci.Descriptor, error) {
	layer := oci.Descriptor{MediaType: BundleType, Digest: oci.FromBytes(bundle), Size: int64(len(bundle))}
	m := ocispec.Manifest{
		MediaType:    oci.MediaTypeImage,
		ArtifactType: BundleType,
		Config:       ocispec.DescriptorEmptyJSON,
		Layers:       []oci.Descriptor{layer},
		Subject:      &oci.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		Annotations: map[string]string{
			ocispec.AnnotationCreated: created.UTC().Format(time.RFC3339),
			annotationContent:         "dsse-envelope",
			annotationPredicateType:   predicateType,
		},
	}
	m.SchemaVersion = 2
	m.Config.Data = nil // the blob is there; some registries refuse embedded data
	body, err := json.Marshal(m)
	if err != nil {
		return oci.Descriptor{}, fmt.Errorf("attach to %s: %w", subject.Digest, err)
	}
	for _, blob := range [][]byte{ocispec.DescriptorEmptyJSON.Data, bundle} {
		if err := put(ctx, reg, repo, blob); err != nil {
			return oci.Descriptor{}, fmt.Errorf("attach to %s: %w", subject.Digest, err)
		}
	}
	d, err := reg.PutManifest(ctx, repo, oci.Digested(oci.FromBytes(body)), oci.MediaTypeImage, body)
	if err != nil {
		return oci.Descriptor{}, fmt.Errorf("attach to %s: %w", subject.Digest, err)
	}
	return d, nil
}

// put uploads a small blob in one piece.
func put(ctx context.Context, reg oci.Pusher, repo string, b []byte) error {
	up, err := reg.StartUpload(ctx, repo, "")
	if err != nil {
		return err
	}
	_, err = reg.FinishUpload(ctx, repo, up.ID, oci.FromBytes(b), 0, bytes.NewReader(b), int64(len(b)))
	return err
}

// Statements returns the statements of predicateType beside image that one of
// keys signed. Those that keys did not sign are passed over. An error says that
// not all could be read; what was found comes with it. Which of several is the
// latest, the statements themselves must say: times beside them are not signed.
func Statements(ctx context.Context, f Fetcher, repo string, image oci.Digest, keys *Keys, predicateType string) ([]Statement, error) {
	refs, err := f.Referrers(ctx, repo, image, "")
	switch {
	case oci.IsAbsent(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("list referrers of %s@%s: %w", repo, image, err)
	}
	var found []Statement
	src := readBundles(ctx, f, repo, image, likeliestFirst(refs, []string{predicateType}), map[oci.Digest]bool{})
	for _, o := range src.objects {
		if o.err != nil || o.statement.PredicateType != predicateType {
			continue
		}
		about, err := artifact(image)
		if err != nil {
			return nil, err
		}
		if st, err := keys.open(o.bundle, predicateType, about); err == nil {
			found = append(found, st)
		}
	}
	return found, src.err
}
