package verify

import (
	"context"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// maxDescribed is how many manifests are read, of one list, for what it leaves
// out. They are small, and kept by whoever fetches them.
const maxDescribed = 256

// described completes a list that has more than is looked at by what it does not
// say of referrers: lists that cosign keeps under a tag, for registries without
// the API, say neither what they are nor when they were made, and one signature
// would be anywhere among the attestations of many days.
func described(ctx context.Context, f Fetcher, repo string, refs []oci.Descriptor) []oci.Descriptor {
	if len(refs) <= MaxReferrers {
		return refs
	}
	refs = slices.Clone(refs)
	var g errgroup.Group
	g.SetLimit(8)
	left := maxDescribed
	for i := range refs {
		r := &refs[i]
		if left == 0 || len(r.Annotations) > 0 || r.ArtifactType != "" && r.ArtifactType != ocispec.MediaTypeEmptyJSON {
			continue
		}
		left--
		g.Go(func() error {
			if m, err := f.Manifest(ctx, repo, oci.Digested(r.Digest)); err == nil { // else who looks at it says so
				if links, err := oci.ParseManifest(m.MediaType, m.Bytes); err == nil {
					r.ArtifactType, r.Annotations = links.ArtifactType, links.Annotations
				}
			}
			return nil
		})
	}
	_ = g.Wait() // none fails
	return refs
}
