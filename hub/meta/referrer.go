package meta

import (
	"context"
	"encoding/json"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Referrers lists the manifests of a repository whose subject is d, by digest,
// as distribution-spec v1.1 describes them ("Listing Referrers"): with
// artifact type and annotations. artifactType "" is any. ErrNotFound when
// there is no such repository.
func (s *Store) Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) (all []oci.Descriptor, err error) {
	defer wrap(&err, "meta.Referrers(%q, %s)", repo, d)
	rs, err := s.db.Query(ctx, `
		SELECT m.digest, m.media_type, m.size_bytes, m.artifact_type, m.annotations
		  FROM repos r JOIN manifests m ON m.repo_id = r.id
		 WHERE r.name = $1 AND m.subject = $2 AND m.subject <> '' AND ($3 = '' OR m.artifact_type = $3)
		 ORDER BY m.digest`, repo, d, artifactType)
	all, err = collect(rs, err, func(r row, m *oci.Descriptor) error {
		var annotations string
		if err := r.Scan(&m.Digest, &m.MediaType, &m.Size, &m.ArtifactType, &annotations); err != nil || annotations == "" {
			return err
		}
		return json.Unmarshal([]byte(annotations), &m.Annotations)
	})
	if err == nil && len(all) == 0 {
		err = s.hasRepo(ctx, repo)
	}
	return all, err
}
