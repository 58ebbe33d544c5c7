package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// blind lists referrers as they are listed under a tag by cosign: sorted by digest, and of no kind. What is called last
// comes last.
type blind struct {
	Fetcher
	last oci.Digest
}

func (b blind) Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	all, err := b.Fetcher.Referrers(ctx, repo, d, "")
	for i := range all {
		all[i].ArtifactType, all[i].Annotations = ocispec.MediaTypeEmptyJSON, nil
	}
	slices.SortFunc(all, func(x, y oci.Descriptor) int { return strings.Compare(string(x.Digest), string(y.Digest)) })
	if at := slices.IndexFunc(all, func(r oci.Descriptor) bool { return r.Digest == b.last }); at >= 0 {
		all = append(slices.Delete(slices.Clone(all), at, at+1), all[at])
	}
	if artifactType != "" {
		all = nil
	}
	return all, err
}

// A signature is found among the attestations of many days, in a list that does not say which is which.
func TestSignatureInABlindList(t *testing.T) {
	k := newKey(t)
	s := newShelf(t)
	img := s.image(1)
	last := s.bundle(img, k.bundle(img.Digest, signPredicateType, `{}`), signPredicateType)
	for day := range 3 * MaxReferrers {
		s.bundle(img, k.bundle(img.Digest, vulns, fmt.Sprintf(`{"day":%d}`, day)), vulns)
	}
	wantValid(t, check(t, blind{s.reg, last}, signed(keyed(t, k), s.repo, img.Digest)), 1)
}
