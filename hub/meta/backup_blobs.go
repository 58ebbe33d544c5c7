package meta

import (
	"context"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// LiveBlobs lists up to n stored blobs, beginning after an id.
func (s *Store) LiveBlobs(ctx context.Context, n int, lastID int64) (all []Blob, err error) {
	defer wrap(&err, "meta.LiveBlobs")
	rs, err := s.db.Query(ctx, `
		SELECT id, digest, size_bytes, storage_key, last_used_at
		  FROM blobs WHERE state = 'live' AND id > $1 ORDER BY id LIMIT $2`, lastID, n)
	return collect(rs, err, scanBlob)
}

// BlobsUnder lists the stored blobs whose bytes are under some storage keys.
func (s *Store) BlobsUnder(ctx context.Context, storageKeys []string) (all []Blob, err error) {
	defer wrap(&err, "meta.BlobsUnder")
	list, err := jsonText(append([]string{}, storageKeys...)) // nil is no array
	if err != nil {
		return nil, err
	}
	rs, err := s.db.Query(ctx, `
		SELECT b.id, b.digest, b.size_bytes, b.storage_key, b.last_used_at
		  FROM {each $1} AS d JOIN blobs b ON b.storage_key = d.value
		 WHERE b.state = 'live'`, list)
	return collect(rs, err, scanBlob)
}

// Need is a manifest that cannot be pulled whole without some blob.
type Need struct {
	Repo   string
	Tag    string // that names it; "" for none
	Digest oci.Digest
}

// NeedsOf lists up to n manifests that name a blob, and the indexes that name
// these, by repository and tag; several tags of one are several.
func (s *Store) NeedsOf(ctx context.Context, d oci.Digest, n int) (all []Need, err error) {
	defer wrap(&err, "meta.NeedsOf(%s)", d)
	rs, err := s.db.Query(ctx, `
		WITH RECURSIVE up(repo_id, digest) AS (
		    SELECT m.repo_id, m.digest FROM manifest_refs f JOIN manifests m ON m.id = f.manifest_id
		     WHERE f.digest = $1
		     UNION
		    SELECT m.repo_id, m.digest FROM up d
		      JOIN manifest_refs f ON f.digest = d.digest
		      JOIN manifests m ON m.id = f.manifest_id AND m.repo_id = d.repo_id)
		SELECT r.name, coalesce(t.name, ''), d.digest
		  FROM up d JOIN repos r ON r.id = d.repo_id
		  LEFT JOIN tags t ON t.repo_id = d.repo_id AND t.digest = d.digest
		 ORDER BY r.name, 2, d.digest LIMIT $2`, d, n)
	return collect(rs, err, func(r row, x *Need) error { return r.Scan(&x.Repo, &x.Tag, &x.Digest) })
}

// ForgetBlobs forgets stored blobs whose bytes are lost, so that the same are
// taken when they are pushed or fetched again. Grants and manifests stay.
func (s *Store) ForgetBlobs(ctx context.Context, ids ...int64) (err error) {
	defer wrap(&err, "meta.ForgetBlobs")
	return s.write(ctx, func(q querier) error {
		for _, id := range ids {
			if _, err := q.Exec(ctx, `DELETE FROM blobs WHERE id = $1`, id); err != nil {
				return err
			}
		}
		return nil
	})
}
