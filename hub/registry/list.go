package registry

import (
	"context"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

const (
	defaultPage = 1000
	maxPage     = 10_000
)

// pageSize bounds what a client asks for.
func pageSize(n int) int {
	if n <= 0 {
		return defaultPage
	}
	return min(n, maxPage)
}

// Tags implements [oci.Lister].
func (r *Registry) Tags(ctx context.Context, repo string, n int, last string) ([]string, bool, error) {
	if _, err := r.existing(ctx, repo); err != nil {
		return nil, false, err
	}
	tags, more, err := r.meta.Tags(ctx, repo, pageSize(n), last)
	if err != nil {
		return nil, false, absent(err, oci.NameUnknown)
	}
	names := make([]string, len(tags))
	for i, t := range tags {
		names[i] = t.Name
	}
	return names, more, nil
}

// Repositories implements [oci.Lister]. It leaves out what holds no manifest.
func (r *Registry) Repositories(ctx context.Context, n int, last string) ([]string, bool, error) {
	return r.meta.Repositories(ctx, meta.RepoFilter{Kind: meta.Local}, pageSize(n), last)
}

// Referrers implements [oci.Lister]. What clients keep under the tag for
// registries that cannot list referrers is listed too: it was put there by one
// that did not look first.
func (r *Registry) Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	switch _, err := r.existing(ctx, repo); {
	case oci.CodeOf(err) == oci.NameUnknown:
		return nil, nil // nothing refers to anything in what is not there
	case err != nil:
		return nil, err
	}
	return r.meta.Referrers(ctx, repo, d, artifactType)
}
