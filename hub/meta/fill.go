package meta

import (
	"context"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Fill is a storage key that a proxy is making a blob's. As with uploads, the
// row is there before a file of that name is, and goes after it.
type Fill struct {
	StorageKey string
	Digest     oci.Digest
	SizeBytes  int64
	StartedAt  time.Time
}

// StartFill notes a fill before its file has a name.
func (s *Store) StartFill(ctx context.Context, storageKey string, d oci.Digest, sizeBytes int64) (err error) {
	defer wrap(&err, "meta.StartFill(%q, %s)", storageKey, d)
	_, err = s.db.Exec(ctx, `
		INSERT INTO fills (storage_key, digest, size_bytes, started_at) VALUES ($1, $2, $3, $4)`,
		storageKey, d, sizeBytes, s.nowMicros())
	return err
}

// CommitFill makes a fill, whose bytes are on disk whole and verified, the
// blob of its digest, and returns that. won as with [Store.CommitUpload]: when
// false, the file is to be deleted and then [Store.DropFill] called. The blob
// is granted, and confirmed, in those repositories, made when need be, in which
// the upstream has shown it.
func (s *Store) CommitFill(ctx context.Context, storageKey string, sizeBytes int64, shownIn ...string) (b Blob, won bool, err error) {
	defer wrap(&err, "meta.CommitFill(%q)", storageKey)
	err = s.write(ctx, func(q querier) error {
		var d oci.Digest
		if err := q.QueryRow(ctx, `SELECT digest FROM fills WHERE storage_key = $1`, storageKey).Scan(&d); err != nil {
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
		var err error
		if b, won, err = s.addBlob(ctx, q, Blob{Digest: d, SizeBytes: sizeBytes, StorageKey: storageKey}); err != nil || !won {
			return err
		}
		_, err = q.Exec(ctx, `DELETE FROM fills WHERE storage_key = $1`, storageKey)
		return err
	})
	return b, won && err == nil, err
}

// DropFill forgets a fill whose file is gone.
func (s *Store) DropFill(ctx context.Context, storageKey string) (err error) {
	defer wrap(&err, "meta.DropFill(%q)", storageKey)
	_, err = s.db.Exec(ctx, `DELETE FROM fills WHERE storage_key = $1`, storageKey)
	return err
}

// Fills lists up to n fills begun before a time, beginning after a storage
// key. At a start all of them are dead.
func (s *Store) Fills(ctx context.Context, before time.Time, n int, last string) (all []Fill, err error) {
	defer wrap(&err, "meta.Fills")
	rs, err := s.db.Query(ctx, `
		SELECT storage_key, digest, size_bytes, started_at FROM fills
		 WHERE storage_key > $1 AND started_at < $2 ORDER BY storage_key LIMIT $3`, last, usec(before), n)
	return collect(rs, err, func(r row, f *Fill) error {
		return r.Scan(&f.StorageKey, &f.Digest, &f.SizeBytes, micros{&f.StartedAt})
	})
}
