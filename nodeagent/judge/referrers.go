package judge

import (
	"context"
	"encoding/json"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

// maxReferrers is of how many images the list of referrers is kept, some 1 KB
// each; and maxListed how many of a list, more than a verifier looks at.
const (
	maxReferrers = 8192
	maxListed    = 256
)

// remembering is a Fetcher that knows lists of referrers while nobody can be
// asked. What they name lies in the node's cache, as all content does.
type remembering struct {
	verify.Fetcher
	lists *shelf
}

func rememberReferrers(f verify.Fetcher, dir string) (*remembering, error) {
	lists, err := openShelf(dir, maxReferrers)
	return &remembering{f, lists}, err
}

// Referrers implements [verify.Fetcher].
func (r *remembering) Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	key := repo + "@" + d.String() + " " + artifactType
	all, err := r.Fetcher.Referrers(ctx, repo, d, artifactType)
	if err == nil {
		if b, err := json.Marshal(all[:min(len(all), maxListed)]); err == nil {
			_ = r.lists.put(key, b) // a full disk is no reason not to verify
		}
		return all, nil
	}
	if oci.IsAbsent(err) {
		return nil, err
	}
	b, ok := r.lists.get(key)
	if !ok || json.Unmarshal(b, &all) != nil {
		return nil, err
	}
	return all, nil
}
