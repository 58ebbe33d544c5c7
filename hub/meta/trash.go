package meta

import (
	"context"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Trashed is one deletion in the trash.
type Trashed struct {
	Op        string
	Repo      string
	Cause     Cause
	Tag       string     // one of its tags; "" for none
	Digest    oci.Digest // of the tag, or the manifest that was meant
	Tags      int64
	Manifests int64
	DeletedBy string
	DeletedAt time.Time
}

// TrashFilter narrows a list of the trash; its zero value does not.
type TrashFilter struct {
	Repo    string
	Project string
}

// Trash lists up to n deletions that can be restored, the newest first,
// beginning after the one called last, "" for the start.
func (s *Store) Trash(ctx context.Context, f TrashFilter, n int, last string) (all []Trashed, more bool, err error) {
	defer wrap(&err, "meta.Trash(%v, %d, %q)", f, n, last)
	if last == "" {
		last = "~" // after every id
	}
	rs, err := s.db.Query(ctx, `
		SELECT a.op, r.name, t.cause, a.tag, t.digest, a.tags, a.manifests, t.deleted_by, t.deleted_at
		  FROM (SELECT x.op, min(x.id) AS first, coalesce(min(CASE WHEN x.kind = 'tag' THEN x.name END), '') AS tag,
		               count(CASE WHEN x.kind = 'tag' THEN 1 END) AS tags, count(CASE WHEN x.kind = 'manifest' THEN 1 END) AS manifests
		          FROM trash x JOIN repos r ON r.id = x.repo_id JOIN projects p ON p.id = r.project_id
		         WHERE x.op < $1 AND x.deleted_at >= $2 AND ($3 = '' OR r.name = $3) AND ($4 = '' OR p.name = $4)
		         GROUP BY x.op ORDER BY x.op DESC LIMIT $5) AS a
		  JOIN trash t ON t.id = a.first JOIN repos r ON r.id = t.repo_id
		 ORDER BY a.op DESC`, last, s.trashBegun(), f.Repo, f.Project, n+1)
	all, err = collect(rs, err, func(r row, t *Trashed) error {
		return r.Scan(&t.Op, &t.Repo, &t.Cause, &t.Tag, &t.Digest, &t.Tags, &t.Manifests, &t.DeletedBy, micros{&t.DeletedAt})
	})
	all, more = page(all, n)
	return all, more, err
}

// trashBegun is when the oldest deletion may have been that can be restored.
func (s *Store) trashBegun() int64 { return usec(s.now().Add(-s.gc.TrashFor)) }

// ExpireTrash ends the time of a deletion: it can be restored no longer, and
// [Store.PurgeTrash] takes it next. ErrNotFound: there is no such deletion.
func (s *Store) ExpireTrash(ctx context.Context, op string) (err error) {
	defer wrap(&err, "meta.ExpireTrash(%s)", op)
	return s.changeOne(ctx, `UPDATE trash SET deleted_at = 1 WHERE op = $1`, op)
}

// PurgeTrash forgets up to n rows of what was deleted before a time. The blobs
// it kept are looked at once a lease anew has passed: a push may just have been
// told that they are here.
func (s *Store) PurgeTrash(ctx context.Context, before time.Time, n int) (purged int, err error) {
	defer wrap(&err, "meta.PurgeTrash")
	err = s.write(ctx, func(q querier) error {
		rs, err := q.Query(ctx, `
			SELECT id FROM trash WHERE deleted_at < $1 ORDER BY deleted_at, id LIMIT $2 {for update skip locked}`, usec(before), n)
		ids, err := collect(rs, err, scanID)
		purged = len(ids)
		if err != nil || len(ids) == 0 {
			return err
		}
		list, err := idList(ids, func(id int64) int64 { return id })
		if err != nil {
			return err
		}
		return s.purge(ctx, q, list)
	})
	return purged, err
}

func (s *Store) purge(ctx context.Context, q querier, trashIDs string) error {
	// Blobs first, one after the other: the rest is done when no review looks.
	rs, err := q.Query(ctx, `
		SELECT b.id FROM blobs b
		 WHERE b.digest IN (SELECT f.digest FROM {each $1} AS d JOIN trash_refs f ON f.trash_id = CAST(d.value AS BIGINT))
		   AND b.state = 'live' ORDER BY b.id {for update}`, trashIDs)
	blobs, err := collect(rs, err, scanID)
	if err != nil {
		return err
	}
	_, err = q.Exec(ctx, `
		UPDATE repo_blobs SET learnt_at = $2 WHERE (repo_id, blob_digest) IN (
			SELECT t.repo_id, f.digest FROM {each $1} AS d
			  JOIN trash t ON t.id = CAST(d.value AS BIGINT) JOIN trash_refs f ON f.trash_id = t.id)`, trashIDs, s.nowMicros())
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
	_, err = q.Exec(ctx, `DELETE FROM trash WHERE id IN (SELECT CAST(d.value AS BIGINT) FROM {each $1} AS d)`, trashIDs)
	return err
}
