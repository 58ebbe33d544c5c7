package meta

import (
	"context"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Fill is a storage key that a proxy is making a blob's. As with uploads, the
// row is there before the key has bytes, and goes after them.
type Fill struct {
	StorageKey string
	Digest     oci.Digest
	SizeBytes  int64
	Holder     string // the replica that is at it
	StartedAt  time.Time
}

// StartFill notes a fill of this replica before its key has bytes. After an
// error it is unknown whether it is noted: [Store.AbandonFill] and
// [Store.DropFill] work either way.
func (s *Store) StartFill(ctx context.Context, storageKey string, d oci.Digest, sizeBytes int64) (err error) {
	defer wrap(&err, "meta.StartFill(%q, %s)", storageKey, d)
	_, err = s.db.Exec(ctx, `
		INSERT INTO fills (storage_key, digest, size_bytes, holder, started_at) VALUES ($1, $2, $3, $4, $5)`,
		storageKey, d, sizeBytes, s.ReplicaID(), s.nowMicros())
	return err
}

// CommitFill makes a fill, whose bytes are durable, whole and verified, the
// blob of its digest, and returns that. won as with [Store.CommitUpload]: when
// false, the key is to be dropped. The blob is granted, and confirmed, in those
// repositories, made when need be, in which the upstream has shown it.
//
// ErrNotFound: the fill was dropped, or abandoned. After any other error it is
// unknown whether the key is a blob's: [Store.AbandonFill] finds out.
func (s *Store) CommitFill(ctx context.Context, storageKey string, sizeBytes int64, shownIn ...string) (b Blob, won bool, err error) {
	defer wrap(&err, "meta.CommitFill(%q)", storageKey)
	err = s.write(ctx, func(q querier) error {
		var d oci.Digest
		err := q.QueryRow(ctx, `SELECT digest FROM fills WHERE storage_key = $1 AND NOT doomed {for update}`, storageKey).Scan(&d)
		if err != nil {
			return err
		}
		if b, won, err = s.addBlob(ctx, q, Blob{Digest: d, SizeBytes: sizeBytes, StorageKey: storageKey}); err != nil {
			return err
		}
		for _, repo := range shownIn {
			r, err := s.ensureRepo(ctx, q, repo, Proxy)
			if err != nil {
				return err
			}
			if err := s.grant(ctx, q, r.RepoID, d, sizeBytes); err != nil {
				return err
			}
			if err := s.confirmRef(ctx, q, r.RepoID, d); err != nil {
				return err
			}
		}
		if !won {
			return nil
		}
		_, err = q.Exec(ctx, `DELETE FROM fills WHERE storage_key = $1`, storageKey)
		return err
	})
	return b, won && err == nil, err
}

// AbandonFill says whether a fill's key is a blob's, and if it is not, that it
// never will be: then, and only then, its bytes may be deleted, after which
// [Store.DropFill] is called. It waits for a CommitFill under way to end.
func (s *Store) AbandonFill(ctx context.Context, storageKey string) (committed bool, err error) {
	defer wrap(&err, "meta.AbandonFill(%q)", storageKey)
	err = s.write(ctx, func(q querier) error {
		// Two statements: what the lock was waited for is seen by the second.
		if _, err := q.Exec(ctx, `UPDATE fills SET doomed = TRUE WHERE storage_key = $1`, storageKey); err != nil {
			return err
		}
		var one int
		err := q.QueryRow(ctx, `SELECT 1 FROM blobs WHERE storage_key = $1`, storageKey).Scan(&one)
		committed = err == nil
		if isNoRow(err) {
			return nil
		}
		return err
	})
	return committed && err == nil, err
}

// DropFill forgets an abandoned fill whose bytes are gone.
func (s *Store) DropFill(ctx context.Context, storageKey string) (err error) {
	defer wrap(&err, "meta.DropFill(%q)", storageKey)
	_, err = s.db.Exec(ctx, `DELETE FROM fills WHERE storage_key = $1`, storageKey)
	return err
}

// LeftFills lists up to n fills, beginning after a storage key, that no other
// replica is at: this one's, and those of replicas not seen for so long. Which
// of its own are still under way the caller knows.
func (s *Store) LeftFills(ctx context.Context, unseen time.Duration, n int, last string) (all []Fill, err error) {
	defer wrap(&err, "meta.LeftFills")
	rs, err := s.db.Query(ctx, `
		SELECT storage_key, digest, size_bytes, holder, started_at FROM fills f
		 WHERE storage_key > $1
		   AND NOT EXISTS (SELECT 1 FROM replicas r WHERE r.id = f.holder AND r.id <> $2 AND r.seen_at > {now} - $3)
		 ORDER BY storage_key LIMIT $4`, last, s.ReplicaID(), unseen.Microseconds(), n)
	return collect(rs, err, func(r row, f *Fill) error {
		return r.Scan(&f.StorageKey, &f.Digest, &f.SizeBytes, &f.Holder, micros{&f.StartedAt})
	})
}
