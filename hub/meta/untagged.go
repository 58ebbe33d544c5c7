package meta

import (
	"context"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// TrashUntagged moves to the trash what no tag, no index and no subject holds
// and nobody has pushed or pulled since a time. A tag in the trash holds it
// too: it could not be restored otherwise. It goes through n manifests after
// lastID and returns the last one's id, 0 when that was all.
func (s *Store) TrashUntagged(ctx context.Context, before time.Time, lastID int64, n int) (trashed int, next int64, err error) {
	defer wrap(&err, "meta.TrashUntagged(%d)", lastID)
	rs, err := s.db.Query(ctx, `SELECT id FROM manifests WHERE id > $1 ORDER BY id LIMIT $2`, lastID, n)
	ids, err := collect(rs, err, scanID)
	if err != nil || len(ids) == 0 {
		return 0, 0, err
	}
	next = ids[len(ids)-1]
	type loose struct {
		id     int64
		repo   string
		digest oci.Digest
	}
	rs, err = s.db.Query(ctx, `
		SELECT m.id, r.name, m.digest FROM manifests m
		  JOIN repos r ON r.id = m.repo_id JOIN projects p ON p.id = r.project_id
		 WHERE m.id > $1 AND m.id <= $2 AND p.kind = 'local' AND `+looseSince3+` ORDER BY m.id`, lastID, next, usec(before))
	all, err := collect(rs, err, func(r row, l *loose) error { return r.Scan(&l.id, &l.repo, &l.digest) })
	if err != nil {
		return 0, 0, err
	}
	for _, l := range all {
		if s.touched.has(touched{touchManifest, l.id}) {
			continue
		}
		_, err := s.delete(ctx, l.repo, CauseUntagged, "", false, func(x *deletion) error {
			if err := x.takeOne(ctx, l.digest); err != nil {
				return err
			}
			// Now that its row is locked nobody can tag it or list it in an index:
			// is it still as it was?
			var id int64
			err := x.q.QueryRow(ctx, `
				SELECT m.id FROM manifests m WHERE m.id >= $1 AND m.id <= $2 AND `+looseSince3, l.id, l.id, usec(before)).Scan(&id)
			if err != nil {
				return err
			}
			return x.finish(ctx, x.digests, false)
		})
		switch {
		case err == nil:
			trashed++
		case !isNoRow(err):
			return trashed, 0, err
		}
	}
	return trashed, next, nil
}

// looseSince3 holds for a manifest m that nothing holds, neither pushed nor
// pulled since $3. What in the trash names it is looked for by its digest: in a
// join SQLite begins with all that the trash has of the repository.
const looseSince3 = `m.created_at < $3 AND m.last_pull_at < $3
		   AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.repo_id = m.repo_id AND t.digest = m.digest)
		   AND NOT EXISTS (SELECT 1 FROM manifest_refs f JOIN manifests i ON i.id = f.manifest_id
		                    WHERE f.digest = m.digest AND f.kind = 'child' AND i.repo_id = m.repo_id)
		   AND NOT EXISTS (SELECT 1 FROM manifests i
		                    WHERE m.subject <> '' AND i.repo_id = m.repo_id AND i.digest = m.subject)
		   AND NOT EXISTS (SELECT 1 FROM trash t WHERE t.repo_id = m.repo_id AND t.digest = m.digest AND t.kind = 'tag')
		   AND NOT EXISTS (SELECT 1 FROM trash_refs f
		                    WHERE f.digest = m.digest AND EXISTS (SELECT 1 FROM trash t WHERE t.id = f.trash_id AND t.repo_id = m.repo_id))`
