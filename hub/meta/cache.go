package meta

import (
	"context"
	"time"
)

// A proxy's cache is the stored blobs that its repositories may read and no
// local one: what users have pushed is not the proxy's to evict, and not counted
// against it; nor is what something in the trash may be restored to need. What
// several proxies have is in the cache of each: a manifest of one upstream can
// name what another's image is made of, and neither is to keep it for good.

const (
	// cachedBy1 holds for a blob b in the cache of the proxy project $1.
	cachedBy1 = `b.state = 'live'
		   AND EXISTS (SELECT 1 FROM repo_blobs g JOIN repos r ON r.id = g.repo_id
		                WHERE g.blob_digest = b.digest AND r.project_id = $1)
		   AND NOT EXISTS (SELECT 1 FROM repo_blobs g JOIN repos r ON r.id = g.repo_id JOIN projects p ON p.id = r.project_id
		                    WHERE g.blob_digest = b.digest AND p.kind = 'local')
		   AND NOT EXISTS (SELECT 1 FROM trash_refs f WHERE f.digest = b.digest)`
)

// CacheBytes is the size of a proxy project's cache. It reads all of the
// cache's rows: for a start, not for each pull.
func (s *Store) CacheBytes(ctx context.Context, projectID int64) (bytes int64, err error) {
	defer wrap(&err, "meta.CacheBytes(%d)", projectID)
	err = s.db.QueryRow(ctx, `
		SELECT CAST(coalesce(sum(b.size_bytes), 0) AS BIGINT) FROM blobs b
		 WHERE b.digest IN (SELECT g.blob_digest FROM repo_blobs g JOIN repos r ON r.id = g.repo_id WHERE r.project_id = $1)
		   AND `+cachedBy1, projectID).Scan(&bytes)
	return bytes, err
}

// CacheOldest lists up to n blobs of a proxy project's cache, least recently
// used first, of those last used before a time.
func (s *Store) CacheOldest(ctx context.Context, projectID int64, before time.Time, n int) (all []Blob, err error) {
	defer wrap(&err, "meta.CacheOldest(%d)", projectID)
	rs, err := s.db.Query(ctx, `
		SELECT b.id, b.digest, b.size_bytes, b.storage_key, b.last_used_at FROM blobs b
		 WHERE b.last_used_at < $2 AND `+cachedBy1+`
		 ORDER BY b.last_used_at, b.id LIMIT $3`, projectID, usec(before), n)
	return collect(rs, err, scanBlob)
}

func scanBlob(r row, b *Blob) error {
	return r.Scan(&b.ID, &b.Digest, &b.SizeBytes, &b.StorageKey, micros{&b.LastUsedAt})
}

// Doom makes a blob of a proxy project's cache unknown, so that its bytes can
// be deleted. Grants stay: the blob is fetched again when asked for. It says
// false when the blob is in the cache no longer, or was used since usedAt.
func (s *Store) Doom(ctx context.Context, projectID, blobID int64, usedAt time.Time) (doomed bool, err error) {
	defer wrap(&err, "meta.Doom(%d, %d)", projectID, blobID)
	if s.touched.has(touched{touchBlob, blobID}) {
		return false, nil
	}
	err = s.write(ctx, func(q querier) error {
		// Two statements: only once the row is locked can no grant come that
		// the second one does not see.
		var id int64
		err := q.QueryRow(ctx, `SELECT id FROM blobs WHERE id = $1 {for update}`, blobID).Scan(&id)
		if isNoRow(err) {
			return nil
		}
		if err != nil {
			return err
		}
		n, err := q.Exec(ctx, `
			UPDATE blobs AS b SET state = 'doomed', review_at = 0
			 WHERE b.id = $2 AND b.last_used_at <= $3 AND `+cachedBy1, projectID, blobID, usec(usedAt))
		doomed = n > 0
		return err
	})
	return doomed, err
}
