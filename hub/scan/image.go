package scan

import (
	"context"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/shape"
)

// Image names an image: an index, or a manifest.
type Image struct {
	Repo   string
	Digest oci.Digest
	// Platforms are those of an index that matter to who asks; none is those the
	// service was told of.
	Platforms []string
}

// target is a manifest to scan.
type target = policy.Child

// maxShapes is of how many manifests is known what they are.
const maxShapes = 4096

// look says what a manifest is.
func (s *Service) look(ctx context.Context, img Image) (shape.Shape, error) {
	return s.shapes.Look(ctx, img.Repo, oci.Manifest{Descriptor: oci.Descriptor{Digest: img.Digest}})
}

// selected lists which of an image's manifests are scanned: those that are
// judged, by the same code, for a rule must find scanned what it asks about.
func (s *Service) selected(img Image, m shape.Shape) []target {
	switch m.Kind {
	case policy.KindImage:
		return []target{{Digest: img.Digest}}
	case policy.KindOther:
		return nil
	}
	wanted := img.Platforms
	if len(wanted) == 0 {
		wanted = s.o.Platforms
	}
	return policy.JudgedOf(m.Children, wanted)
}
