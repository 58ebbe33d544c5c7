package meta

import (
	"context"
	"strconv"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Garbage collection of blobs. What keeps a blob:
//
//   - a manifest that names it, stored or in the trash;
//   - a proxy's repository that may read it: a cache has limits of its own;
//   - the lease of a grant: for a while after a local repository was given the
//     blob, a manifest that names it is expected.
//
// blobs.review_at says when to look whether something does. Whoever ends what
// kept a blob sets it in the same transaction. A review first puts a blob in
// quarantine and, when it finds it as lonely after that, dooms it; only then
// are its bytes deleted, and last its row.
//
// Whoever begins to keep a blob and the review that is about to doom it meet
// at the blob's row: the one takes it FOR KEY SHARE, the other FOR UPDATE, and
// both look at everything else only afterwards, by further statements. What a
// statement reads along with a lock it may have read before it waited for it.
//
// Rows are locked in the order blobs, grants, manifests, tags, and each kind by
// id or name, so that nobody waits for somebody who waits for him.

// GC says how long garbage collection waits. Of each, 0 is the default, and a
// negative one not at all.
type GC struct {
	// Delay is how long a blob that was pushed, mounted or asked about is kept
	// without a manifest: the lease of a grant. Default 24h.
	Delay time.Duration
	// Quarantine is how long a blob is kept once nothing does. Default 24h.
	Quarantine time.Duration
	// TrashFor is how long what was deleted can be restored. Default 168h.
	TrashFor time.Duration
}

func (g GC) complete() GC {
	for _, d := range []struct {
		of *time.Duration
		or time.Duration
	}{{&g.Delay, 24 * time.Hour}, {&g.Quarantine, 24 * time.Hour}, {&g.TrashFor, 7 * 24 * time.Hour}} {
		if *d.of == 0 {
			*d.of = d.or
		}
		*d.of = max(*d.of, 0)
	}
	return g
}

// GC is how long garbage collection waits, 0 for not at all.
func (s *Store) GC() GC { return s.gc }

// leaseEnd is when a lease ends that begins now.
func (s *Store) leaseEnd() int64 { return usec(s.now().Add(s.gc.Delay)) }

// leaseBegun is the last moment at which a lease may have begun that is over
// now.
func (s *Store) leaseBegun() int64 { return usec(s.now().Add(-s.gc.Delay)) }

// renewBefore is the same of a lease that is half over.
func (s *Store) renewBefore() int64 { return usec(s.now().Add(-s.gc.Delay / 2)) }

// HastenReviews brings reviews forward that were put off for longer than is
// configured now, and returns how many.
func (s *Store) HastenReviews(ctx context.Context) (n int64, err error) {
	defer wrap(&err, "meta.HastenReviews")
	now := s.now()
	soonest := min(s.gc.Delay, s.gc.Quarantine)
	return s.db.Exec(ctx, `
		UPDATE blobs SET review_at = CASE WHEN quarantined_at > 0 THEN quarantined_at + $3 ELSE $2 END
		 WHERE state = 'live' AND review_at > 0 AND review_at > $1
		   AND review_at > CASE WHEN quarantined_at > 0 THEN quarantined_at + $3 ELSE $2 END`,
		usec(now.Add(soonest)), usec(now.Add(s.gc.Delay)), s.gc.Quarantine.Microseconds())
}

// Reviewed is what a review did.
type Reviewed struct {
	Blobs            int // that were looked at
	Quarantined      int
	QuarantinedBytes int64
	Doomed           int
	DoomedBytes      int64
}

// verdict is what becomes of a blob under review: it is doomed, or has its times
// set.
type verdict struct {
	doomed                  bool
	reviewAt, quarantinedAt int64
}

// ReviewBlobs looks at up to n blobs that are due, of which no other replica
// has hold. One that has just been granted or named by somebody who is not done
// with it is left for later.
func (s *Store) ReviewBlobs(ctx context.Context, n int) (r Reviewed, err error) {
	defer wrap(&err, "meta.ReviewBlobs")
	err = s.write(ctx, func(q querier) error {
		r = Reviewed{}
		now := s.nowMicros()
		rs, err := q.Query(ctx, `
			SELECT id, digest, size_bytes, quarantined_at FROM blobs
			 WHERE state = 'live' AND review_at > 0 AND review_at <= $1
			 ORDER BY review_at, id LIMIT $2 {for update skip locked}`, now, n)
		due, err := collect(rs, err, func(r row, b *heldBlob) error {
			return r.Scan(&b.ID, &b.Digest, &b.SizeBytes, &b.quarantinedAt)
		})
		if err != nil || len(due) == 0 {
			return err
		}
		digests, err := digestList(due)
		if err != nil {
			return err
		}
		if err := s.endLeases(ctx, q, digests); err != nil {
			return err
		}
		kept, err := s.keepers(ctx, q, digests)
		if err != nil {
			return err
		}
		byVerdict := make(map[verdict][]heldBlob)
		for _, b := range due {
			v := s.judge(b, kept[b.Digest], now)
			byVerdict[v] = append(byVerdict[v], b)
			r.count(b, v)
		}
		for v, blobs := range byVerdict {
			if err := carryOut(ctx, q, v, blobs); err != nil {
				return err
			}
		}
		return nil
	})
	return r, err
}

// endLeases takes blobs away from local repositories that were given them
// longer ago than the lease and have no manifest that names them, in the trash
// neither. Being one statement it sees a manifest that moves between the two.
func (s *Store) endLeases(ctx context.Context, q querier, digests string) error {
	_, err := q.Exec(ctx, `
		DELETE FROM repo_blobs
		 WHERE blob_digest IN (SELECT d.value FROM {each $1} AS d) AND (repo_id, blob_digest) IN (
			SELECT g.repo_id, g.blob_digest FROM {each $1} AS d
			  JOIN repo_blobs g ON g.blob_digest = d.value
			  JOIN repos r ON r.id = g.repo_id JOIN projects p ON p.id = r.project_id
			 WHERE p.kind = 'local' AND g.learnt_at <= $2
			EXCEPT
			SELECT m.repo_id, f.digest FROM {each $1} AS d
			  JOIN manifest_refs f ON f.digest = d.value AND f.kind = 'blob'
			  JOIN manifests m ON m.id = f.manifest_id
			EXCEPT
			SELECT t.repo_id, f.digest FROM {each $1} AS d
			  JOIN trash_refs f ON f.digest = d.value
			  JOIN trash t ON t.id = f.trash_id)`, digests, s.leaseBegun())
	return err
}

// keeper is what keeps a blob.
type keeper struct {
	named   bool  // by a manifest, or a proxy's to evict
	leaseAt int64 // when the youngest lease begun that is not over; 0 for none
}

// unnamed holds for a blob x that no manifest names and that is not a proxy's.
const unnamed = unstored + `
		   AND NOT EXISTS (SELECT 1 FROM trash_refs f WHERE f.digest = x.digest)`

// unstored is unnamed but for the trash.
const unstored = `NOT EXISTS (SELECT 1 FROM manifest_refs f WHERE f.digest = x.digest AND f.kind = 'blob')
		   AND NOT EXISTS (SELECT 1 FROM repo_blobs g JOIN repos r ON r.id = g.repo_id JOIN projects p ON p.id = r.project_id
		                    WHERE g.blob_digest = x.digest AND p.kind = 'proxy')`

// leasedAt2 is when the youngest of a blob x's leases began that began after $2.
const leasedAt2 = `coalesce((SELECT max(g.learnt_at) FROM repo_blobs g
		                   JOIN repos r ON r.id = g.repo_id JOIN projects p ON p.id = r.project_id
		                  WHERE g.blob_digest = x.digest AND p.kind = 'local' AND g.learnt_at > $2), 0)`

// keepers says what keeps some blobs. It is one statement, as endLeases is and
// for the same reason.
func (s *Store) keepers(ctx context.Context, q querier, digests string) (map[oci.Digest]keeper, error) {
	type kept struct {
		keeper
		digest oci.Digest
	}
	rs, err := q.Query(ctx, `
		SELECT x.digest, NOT (`+unnamed+`), `+leasedAt2+`
		  FROM (SELECT d.value AS digest FROM {each $1} AS d) AS x`, digests, s.leaseBegun())
	all, err := collect(rs, err, func(r row, k *kept) error { return r.Scan(&k.digest, &k.named, &k.leaseAt) })
	by := make(map[oci.Digest]keeper, len(all))
	for _, k := range all {
		by[k.digest] = k.keeper
	}
	return by, err
}

// judge says what becomes of a blob. While a lease runs the blob is looked at
// again at its end even when a manifest names it: the repository that has it on
// lease is not to have it for good.
func (s *Store) judge(b heldBlob, k keeper, now int64) verdict {
	switch {
	case k.leaseAt > 0:
		return verdict{reviewAt: k.leaseAt + s.gc.Delay.Microseconds()}
	case k.named:
		return verdict{}
	case b.quarantinedAt == 0:
		return verdict{reviewAt: now + s.gc.Quarantine.Microseconds(), quarantinedAt: now}
	}
	return verdict{doomed: true}
}

// carryOut sets state only where it changes: SQLite takes a row out of each
// index that is of one state, and puts it in again, whenever state is set, even
// to what it was. By digest that is a page for each blob.
func carryOut(ctx context.Context, q querier, v verdict, blobs []heldBlob) error {
	ids, err := idList(blobs, func(b heldBlob) int64 { return b.ID })
	if err != nil {
		return err
	}
	if v.doomed {
		_, err = q.Exec(ctx, `
			UPDATE blobs SET state = 'doomed', review_at = 0
			 WHERE id IN (SELECT CAST(d.value AS BIGINT) FROM {each $1} AS d)`, ids)
		return err
	}
	_, err = q.Exec(ctx, `
		UPDATE blobs SET review_at = $2, quarantined_at = $3
		 WHERE id IN (SELECT CAST(d.value AS BIGINT) FROM {each $1} AS d)`, ids, v.reviewAt, v.quarantinedAt)
	return err
}

func (r *Reviewed) count(b heldBlob, v verdict) {
	r.Blobs++
	switch {
	case v.doomed:
		r.Doomed++
		r.DoomedBytes += b.SizeBytes
	case v.quarantinedAt != 0:
		r.Quarantined++
		r.QuarantinedBytes += b.SizeBytes
	}
}

// ClaimDoomed lists up to n blobs whose bytes are to be deleted, and keeps them
// from other callers until a time: whoever has deleted the bytes calls
// [Store.DropBlobs], and what he could not delete comes again.
func (s *Store) ClaimDoomed(ctx context.Context, n int, until time.Time) (all []Blob, err error) {
	defer wrap(&err, "meta.ClaimDoomed")
	err = s.write(ctx, func(q querier) error {
		rs, err := q.Query(ctx, `
			SELECT id, digest, size_bytes, storage_key, last_used_at
			  FROM blobs WHERE state = 'doomed' AND review_at <= $1 ORDER BY id LIMIT $2 {for update skip locked}`, s.nowMicros(), n)
		all, err = collect(rs, err, scanBlob)
		if err != nil || len(all) == 0 {
			return err
		}
		ids, err := idList(all, func(b Blob) int64 { return b.ID })
		if err != nil {
			return err
		}
		_, err = q.Exec(ctx, `
			UPDATE blobs SET review_at = $2
			 WHERE state = 'doomed' AND id IN (SELECT CAST(d.value AS BIGINT) FROM {each $1} AS d)`, ids, usec(until))
		return err
	})
	return all, err
}

// DropBlobs forgets doomed blobs whose bytes are gone.
func (s *Store) DropBlobs(ctx context.Context, blobs ...Blob) (err error) {
	defer wrap(&err, "meta.DropBlobs")
	ids, err := idList(blobs, func(b Blob) int64 { return b.ID })
	if err != nil {
		return err
	}
	_, err = s.db.Exec(ctx, `
		DELETE FROM blobs WHERE state = 'doomed' AND id IN (SELECT CAST(d.value AS BIGINT) FROM {each $1} AS d)`, ids)
	return err
}

// VerifyBlobs looks for blobs that nothing keeps and that are not due for a
// review: there are none, unless something is wrong with this program or was
// done to the database by another. They become due. It goes through n rows
// after lastID and returns the last one's id, 0 when that was all.
func (s *Store) VerifyBlobs(ctx context.Context, lastID int64, n int) (found, next int64, err error) {
	defer wrap(&err, "meta.VerifyBlobs(%d)", lastID)
	rs, err := s.db.Query(ctx, `SELECT id FROM blobs WHERE id > $1 ORDER BY id LIMIT $2`, lastID, n)
	ids, err := collect(rs, err, scanID)
	if err != nil || len(ids) == 0 {
		return 0, 0, err
	}
	next = ids[len(ids)-1]
	found, err = s.db.Exec(ctx, `
		UPDATE blobs AS x SET review_at = $3
		 WHERE x.id > $1 AND x.id <= $2 AND x.state = 'live' AND x.review_at = 0
		   AND `+unnamed, lastID, next, s.nowMicros())
	return found, next, err
}

// Garbage is what garbage collection has before it.
type Garbage struct {
	// TrashDue is what in the trash can be restored no longer, in manifests and
	// tags.
	TrashDue int64
	// TrashBlobs are kept by that alone: they go some time after it.
	TrashBlobs, TrashBytes int64
	// Leased is what nothing names, and is kept for a push that may do so.
	Leased, LeasedBytes int64
	// Due is what would be quarantined now.
	Due, DueBytes int64
	// Quarantined is what would be deleted after its time.
	Quarantined, QuarantinedBytes int64
	// Expired is what would be deleted now: doomed, or in quarantine past its
	// time.
	Expired, ExpiredBytes int64
	// Reviews is how many blobs are due for a review, which may find them to be
	// kept.
	Reviews int64
}

// GarbageDue is how many blobs are to be reviewed or deleted now.
func (s *Store) GarbageDue(ctx context.Context) (n int64, err error) {
	defer wrap(&err, "meta.GarbageDue")
	err = s.db.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM blobs WHERE state = 'live' AND review_at > 0 AND review_at <= $1)
		     + (SELECT count(*) FROM blobs WHERE state = 'doomed' AND review_at <= $1)`, s.nowMicros()).Scan(&n)
	return n, err
}

// Garbage says what is to be collected, and changes nothing. It looks at what
// is due, and not at all that is kept.
func (s *Store) Garbage(ctx context.Context) (g Garbage, err error) {
	defer wrap(&err, "meta.Garbage")
	now := s.nowMicros()
	err = s.db.QueryRow(ctx, `SELECT count(*) FROM trash WHERE deleted_at < $1`, s.trashBegun()).Scan(&g.TrashDue)
	if err != nil {
		return g, err
	}
	err = s.db.QueryRow(ctx, `SELECT count(*) FROM blobs WHERE state = 'live' AND review_at > 0 AND review_at <= $1`, now).Scan(&g.Reviews)
	if err != nil {
		return g, err
	}
	err = s.db.QueryRow(ctx, `
		SELECT count(*), CAST(coalesce(sum(x.size_bytes), 0) AS BIGINT) FROM blobs x
		 WHERE x.state = 'live'
		   AND x.digest IN (SELECT f.digest FROM trash t JOIN trash_refs f ON f.trash_id = t.id WHERE t.deleted_at < $1)
		   AND `+unstored+`
		   AND NOT EXISTS (SELECT 1 FROM trash_refs f JOIN trash t ON t.id = f.trash_id WHERE f.digest = x.digest AND t.deleted_at >= $1)`,
		s.trashBegun()).Scan(&g.TrashBlobs, &g.TrashBytes)
	if err != nil {
		return g, err
	}
	type class struct {
		kind         int
		count, bytes int64
	}
	rs, err := s.db.Query(ctx, `
		SELECT c.kind, count(*), CAST(sum(c.size_bytes) AS BIGINT) FROM (
			SELECT x.size_bytes, CASE WHEN `+leasedAt2+` > 0 THEN 0
			         WHEN x.quarantined_at = 0 THEN 1
			         WHEN x.review_at > $1 AND x.quarantined_at > $3 THEN 2
			         ELSE 3 END AS kind
			  FROM blobs x WHERE x.state = 'live' AND x.review_at > 0
			   AND `+unnamed+`
			UNION ALL
			SELECT size_bytes, 3 AS kind FROM blobs WHERE state = 'doomed') AS c
		 GROUP BY c.kind`, now, s.leaseBegun(), usec(s.now().Add(-s.gc.Quarantine)))
	all, err := collect(rs, err, func(r row, c *class) error { return r.Scan(&c.kind, &c.count, &c.bytes) })
	for _, c := range all {
		switch c.kind {
		case 0:
			g.Leased, g.LeasedBytes = c.count, c.bytes
		case 1:
			g.Due, g.DueBytes = c.count, c.bytes
		case 2:
			g.Quarantined, g.QuarantinedBytes = c.count, c.bytes
		case 3:
			g.Expired, g.ExpiredBytes = c.count, c.bytes
		}
	}
	return g, err
}

// Strays lists those of some storage keys that are a blob's, and neither an
// upload nor a fetch is at: what is begun under one is nobody's.
func (s *Store) Strays(ctx context.Context, storageKeys []string) (strays []string, err error) {
	defer wrap(&err, "meta.Strays")
	list, err := jsonText(append([]string{}, storageKeys...)) // nil is no array
	if err != nil {
		return nil, err
	}
	rs, err := s.db.Query(ctx, `
		SELECT d.value FROM {each $1} AS d
		 WHERE EXISTS (SELECT 1 FROM blobs b WHERE b.storage_key = d.value)
		   AND NOT EXISTS (SELECT 1 FROM uploads u WHERE u.storage_key = d.value)
		   AND NOT EXISTS (SELECT 1 FROM fills f WHERE f.storage_key = d.value)`, list)
	return collect(rs, err, func(r row, key *string) error { return r.Scan(key) })
}

// ExpiredBlobs lists the blobs that [Garbage] counts as expired, up to n after
// an id.
func (s *Store) ExpiredBlobs(ctx context.Context, lastID int64, n int) (all []Blob, err error) {
	defer wrap(&err, "meta.ExpiredBlobs(%d)", lastID)
	rs, err := s.db.Query(ctx, `
		SELECT x.id, x.digest, x.size_bytes, x.storage_key, x.last_used_at FROM blobs x
		 WHERE x.id > $1
		   AND (x.state = 'doomed'
		     OR x.state = 'live' AND x.review_at > 0 AND x.quarantined_at > 0 AND (x.review_at <= $4 OR x.quarantined_at <= $3)
		        AND `+leasedAt2+` = 0 AND `+unnamed+`)
		 ORDER BY x.id LIMIT $5`, lastID, s.leaseBegun(), usec(s.now().Add(-s.gc.Quarantine)), s.nowMicros(), n)
	return collect(rs, err, scanBlob)
}

// Loose is a manifest that nothing holds.
type Loose struct {
	Repo      string
	Digest    oci.Digest
	SizeBytes int64 // of itself
}

// Untagged lists what [Store.TrashUntagged] would move to the trash, which may
// leave more without a hold. It goes through n manifests after lastID and
// returns the last one's id, 0 when that was all.
func (s *Store) Untagged(ctx context.Context, before time.Time, lastID int64, n int) (all []Loose, next int64, err error) {
	defer wrap(&err, "meta.Untagged(%d)", lastID)
	rs, err := s.db.Query(ctx, `SELECT id FROM manifests WHERE id > $1 ORDER BY id LIMIT $2`, lastID, n)
	ids, err := collect(rs, err, scanID)
	if err != nil || len(ids) == 0 {
		return nil, 0, err
	}
	next = ids[len(ids)-1]
	rs, err = s.db.Query(ctx, `
		SELECT r.name, m.digest, m.size_bytes FROM manifests m
		  JOIN repos r ON r.id = m.repo_id JOIN projects p ON p.id = r.project_id
		 WHERE m.id > $1 AND m.id <= $2 AND p.kind = 'local' AND `+looseSince3+` ORDER BY m.id`, lastID, next, usec(before))
	all, err = collect(rs, err, func(r row, l *Loose) error { return r.Scan(&l.Repo, &l.Digest, &l.SizeBytes) })
	return all, next, err
}

func scanID(r row, id *int64) error { return r.Scan(id) }

// idList is the JSON of rows' ids, as text.
func idList[T any](all []T, id func(T) int64) (string, error) {
	list := make([]string, len(all))
	for i, v := range all {
		list[i] = strconv.FormatInt(id(v), 10)
	}
	return jsonText(list)
}

func digestList(all []heldBlob) (string, error) {
	list := make([]oci.Digest, len(all))
	for i, b := range all {
		list[i] = b.Digest
	}
	return jsonText(list)
}
