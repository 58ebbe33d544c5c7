package registry

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// put pushes a manifest that names no blobs but one that is there.
func put(t *testing.T, r *Registry, ref oci.Reference, mediaType string, m any) oci.Descriptor {
	t.Helper()
	body, err := json.Marshal(m)
	must(t, err)
	d, err := r.PutManifest(t.Context(), repo, ref, mediaType, body)
	must(t, err)
	return d
}

// A client that did not look whether referrers are listed here keeps them under
// a tag. They are listed with the others, each once, as long as they are there.
func TestReferrersUnderATag(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		r := fresh(t).registry(t, newClock())
		img := ocitest.Image(1, 1, 100)
		must(t, img.Push(t.Context(), r, repo, "v1"))
		artifact := func(artifactType, note string, subject bool) oci.Descriptor {
			must(t, ocitest.PushBlob(t.Context(), r, repo, []byte("{}")))
			m := ocispec.Manifest{
				Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: oci.MediaTypeImage, ArtifactType: artifactType,
				Config:      oci.Descriptor{MediaType: ocispec.MediaTypeEmptyJSON, Digest: oci.FromBytes([]byte("{}")), Size: 2},
				Annotations: map[string]string{"note": note},
			}
			if subject {
				m.Subject = &img.Descriptor
			}
			body, err := json.Marshal(m)
			must(t, err)
			d := put(t, r, oci.Digested(oci.FromBytes(body)), oci.MediaTypeImage, m)
			d.ArtifactType, d.Annotations = artifactType, m.Annotations
			return d
		}
		bySubject := artifact("application/sbom", "by its subject", true)
		both := artifact("application/sig", "by both", true)
		byTag := artifact("application/sig", "by the tag", false)
		gone := artifact("application/sig", "deleted", false)
		tag := oci.ReferrersTag(img.Digest)
		put(t, r, oci.Tagged(tag), oci.MediaTypeIndex, ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: oci.MediaTypeIndex, Manifests: []oci.Descriptor{both, byTag, gone},
		})
		check := func(artifactType string, want ...oci.Descriptor) {
			t.Helper()
			all, err := r.Referrers(t.Context(), repo, img.Digest, artifactType)
			must(t, err)
			got, exp := make(map[oci.Digest]oci.Descriptor), make(map[oci.Digest]oci.Descriptor)
			for _, d := range all {
				got[d.Digest] = d
			}
			for _, d := range want {
				exp[d.Digest] = d
			}
			if diff := cmp.Diff(exp, got); diff != "" || len(all) != len(want) {
				t.Errorf("%d referrers of type %q (-want +got):\n%s", len(all), artifactType, diff)
			}
		}
		check("", bySubject, both, byTag, gone)
		check("application/sig", both, byTag, gone)
		check("application/sbom", bySubject)

		must(t, r.DeleteManifest(t.Context(), repo, oci.Digested(gone.Digest)))
		check("", bySubject, both, byTag)
		must(t, r.DeleteManifest(t.Context(), repo, oci.Tagged(tag)))
		check("", bySubject, both)

		// A tag that looks like it, but is an image's.
		must(t, img.Push(t.Context(), r, repo, tag))
		check("", bySubject, both)
	})
}
