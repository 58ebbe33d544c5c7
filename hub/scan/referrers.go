package scan

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

// Annotations of what Referrers attaches, by which it finds what it replaces.
const (
	// The one that cosign puts on the manifest around a bundle.
	annotationPredicate = "dev.sigstore.bundle.predicateType"
	annotationSBOM      = verify.AnnotationSBOM
)

// Referrers is the Publisher of a registry: what it puts beside an image are
// manifests that refer to it (image-spec v1.1, "subject"), as cosign and oras
// find them. Its documents are not signed, its statements are.
type Referrers struct {
	Images oci.Registry
	Signer *verify.Signer
	Now    func() time.Time // nil is time.Now
}

// Document implements [Publisher].
func (p Referrers) Document(ctx context.Context, repo string, image oci.Descriptor, mediaType string, body []byte) error {
	layer := oci.Descriptor{
		MediaType: mediaType, Digest: oci.FromBytes(body), Size: int64(len(body)),
		Annotations: map[string]string{ocispec.AnnotationTitle: fileNames[mediaType]},
	}
	m := ocispec.Manifest{
		MediaType: oci.MediaTypeImage, ArtifactType: mediaType, Config: ocispec.DescriptorEmptyJSON, Layers: []oci.Descriptor{layer},
		Subject:     &oci.Descriptor{MediaType: image.MediaType, Digest: image.Digest, Size: image.Size},
		Annotations: map[string]string{annotationSBOM: "true"},
	}
	m.SchemaVersion = 2
	m.Config.Data = nil
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	for _, b := range [][]byte{ocispec.DescriptorEmptyJSON.Data, body} {
		if err := p.put(ctx, repo, b); err != nil {
			return fmt.Errorf("attach %s to %s: %w", mediaType, image.Digest, err)
		}
	}
	now, err := p.Images.PutManifest(ctx, repo, oci.Digested(oci.FromBytes(text)), oci.MediaTypeImage, text)
	if err != nil {
		return fmt.Errorf("attach %s to %s: %w", mediaType, image.Digest, err)
	}
	return p.replace(ctx, repo, image.Digest, now.Digest, mediaType, annotationSBOM, "true")
}

var fileNames = map[string]string{TypeSPDX: "sbom.spdx.json", TypeCycloneDX: "sbom.cdx.json"}

func (p Referrers) put(ctx context.Context, repo string, b []byte) error {
	up, err := p.Images.StartUpload(ctx, repo, "")
	if err != nil {
		return err
	}
	_, err = p.Images.FinishUpload(ctx, repo, up.ID, oci.FromBytes(b), 0, bytes.NewReader(b), int64(len(b)))
	return err
}

// Statement implements [Publisher].
func (p Referrers) Statement(ctx context.Context, repo string, image oci.Descriptor, predicateType string, predicate json.RawMessage) error {
	bundle, err := p.Signer.Sign(verify.Statement{
		PredicateType: predicateType, Subjects: []verify.StatementSubject{{Name: repo, Digest: image.Digest}}, Predicate: predicate,
	})
	if err != nil {
		return err
	}
	now := time.Now
	if p.Now != nil {
		now = p.Now
	}
	made, err := verify.Attach(ctx, p.Images, repo, image, bundle, predicateType, now())
	if err != nil {
		return err
	}
	return p.replace(ctx, repo, image.Digest, made.Digest, verify.BundleType, annotationPredicate, predicateType)
}

// replace removes what was attached before of a kind. What cannot be removed
// stays: readers take what is newest of what verifies.
func (p Referrers) replace(ctx context.Context, repo string, image, keep oci.Digest, artifactType, annotation, value string) error {
	all, err := p.Images.Referrers(ctx, repo, image, artifactType)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range all {
		if r.Digest == keep || r.Annotations[annotation] != value {
			continue
		}
		if err := p.Images.DeleteManifest(ctx, repo, oci.Digested(r.Digest)); err != nil && !oci.IsAbsent(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
