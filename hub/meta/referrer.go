package meta

import (
	"context"
	"encoding/json"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Referrers lists what refers to d in a repository, by digest, as
// distribution-spec v1.1 describes it ("Listing Referrers"): with artifact type
// and annotations. That is each manifest whose subject is d, and each that the
// index lists which clients keep under a tag when they do not know that subjects
// are read here ([oci.ReferrersTag]). artifactType "" is any.
// ErrNotFound when there is no such repository.
func (s *Store) Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) (all []oci.Descriptor, err error) {
	defer wrap(&err, "meta.Referrers(%q, %s)", repo, d)
	// Which they are, and only then in order: SQLite would read all manifests of
	// the repository for having them in order.
	rs, err := s.db.Query(ctx, `
		SELECT m.digest, m.media_type, m.size_bytes, m.artifact_type, m.annotations
		  FROM manifests m
		 WHERE m.id IN (
			SELECT x.id FROM repos r JOIN manifests x ON x.repo_id = r.id
			 WHERE r.name = $1 AND x.subject = $2 AND x.subject <> ''
			 UNION ALL
			SELECT x.id FROM repos r JOIN tags t ON t.repo_id = r.id AND t.name = $3
			  JOIN manifests i ON i.repo_id = r.id AND i.digest = t.digest
			  JOIN manifest_refs f ON f.manifest_id = i.id AND f.kind = 'child'
			  JOIN manifests x ON x.repo_id = r.id AND x.digest = f.digest
			 WHERE r.name = $1)
		   AND ($4 = '' OR m.artifact_type = $4)
		 ORDER BY m.digest`, repo, d, oci.ReferrersTag(d), artifactType)
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
