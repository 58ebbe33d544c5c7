package meta

import (
	"context"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// RemoveAttached removes a manifest that the hub itself has put beside an image
// (see [NewManifest]), for good: nobody wants an old scan back. It is false for
// one that is anybody else's, too: pushed by a user as well, tagged, in an
// index, or itself the subject of another. ErrNotFound: it is not there.
func (s *Store) RemoveAttached(ctx context.Context, repoName string, d oci.Digest) (removed bool, err error) {
	defer wrap(&err, "meta.RemoveAttached(%q, %s)", repoName, d)
	err = s.write(ctx, func(q querier) error {
		removed = false
		r, err := repo(ctx, q, repoName)
		if err != nil {
			return err
		}
		// Blobs first, as everybody does; a repository has them on lease anew.
		rs, err := q.Query(ctx, `
			SELECT b.id FROM blobs b
			 WHERE b.digest IN (SELECT f.digest FROM manifests m JOIN manifest_refs f ON f.manifest_id = m.id
			                     WHERE m.repo_id = $1 AND m.digest = $2 AND f.kind = 'blob')
			   AND b.state = 'live' ORDER BY b.id {for update}`, r.RepoID, d)
		blobs, err := collect(rs, err, scanID)
		if err != nil {
			return err
		}
		var id, attached int64
		err = q.QueryRow(ctx, `SELECT id, attached FROM manifests WHERE repo_id = $1 AND digest = $2 {for update}`, r.RepoID, d).Scan(&id, &attached)
		if err != nil || attached == 0 {
			return err
		}
		// Now that its row is locked nobody can tag it or list it in an index.
		var held bool
		err = q.QueryRow(ctx, `
			SELECT EXISTS (SELECT 1 FROM tags t WHERE t.repo_id = $1 AND t.digest = $2)
			    OR EXISTS (SELECT 1 FROM manifest_refs f JOIN manifests i ON i.id = f.manifest_id
			                WHERE f.digest = $2 AND f.kind = 'child' AND i.repo_id = $1)
			    OR EXISTS (SELECT 1 FROM manifests m WHERE m.repo_id = $1 AND m.subject <> '' AND m.subject = $2)`, r.RepoID, d).Scan(&held)
		if err != nil || held {
			return err
		}
		removed = true
		_, err = q.Exec(ctx, `
			UPDATE repo_blobs SET learnt_at = $3 WHERE repo_id = $1 AND blob_digest IN (
				SELECT f.digest FROM manifest_refs f WHERE f.manifest_id = $2 AND f.kind = 'blob')`, r.RepoID, id, s.nowMicros())
		if err != nil {
			return err
		}
		list, err := idList(blobs, func(id int64) int64 { return id })
		if err != nil {
			return err
		}
		_, err = q.Exec(ctx, `
			UPDATE blobs SET review_at = $2, quarantined_at = 0
			 WHERE id IN (SELECT CAST(d.value AS BIGINT) FROM {each $1} AS d)`, list, s.leaseEnd())
		if err != nil {
			return err
		}
		_, err = q.Exec(ctx, `DELETE FROM manifests WHERE id = $1`, id)
		return err
	})
	return removed, err
}
