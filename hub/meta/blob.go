package meta

import (
	"context"
	"fmt"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Blob is bytes that are stored, or are known to a proxy and may be fetched.
type Blob struct {
	ID         int64 // 0: the bytes are not here
	Digest     oci.Digest
	SizeBytes  int64
	StorageKey string // "": the bytes are not here
	LastUsedAt time.Time
}

// GrantedBlob is a blob as a repository knows it.
type GrantedBlob struct {
	Blob
	Place
	LearntAt  time.Time // when the repository was given it, or last renewed it
	CheckedAt time.Time // when the upstream last confirmed it, see [Store.ConfirmRef]
	// QuarantinedAt is when garbage collection found it to be nobody's; zero for
	// not. See [Store.RenewBlob].
	QuarantinedAt time.Time
}

// RepoBlob returns a blob by its digest, if the repository has a grant for it,
// else ErrNotFound.
func (s *Store) RepoBlob(ctx context.Context, repo string, d oci.Digest) (b GrantedBlob, err error) {
	defer wrap(&err, "meta.RepoBlob(%q, %s)", repo, d)
	return s.grants.look(ctx, lookupKey{"RepoBlob", repo, string(d)}, func(ctx context.Context) (b GrantedBlob, err error) {
		err = s.db.QueryRow(ctx, `
			SELECT `+placeColumns+`, g.blob_digest, coalesce(b.size_bytes, g.size_bytes), coalesce(b.id, 0),
			       coalesce(b.storage_key, ''), coalesce(b.last_used_at, 0), g.learnt_at, coalesce(c.checked_at, 0),
			       coalesce(b.quarantined_at, 0)
			  FROM repos r JOIN projects p ON p.id = r.project_id
			  JOIN repo_blobs g ON g.repo_id = r.id
			  LEFT JOIN blobs b ON b.digest = g.blob_digest AND b.state = 'live'
			  LEFT JOIN ref_checks c ON c.repo_id = r.id AND c.digest = g.blob_digest
			 WHERE r.name = $1 AND g.blob_digest = $2`, repo, d).
			Scan(b.dest(&b.Digest, &b.SizeBytes, &b.ID, &b.StorageKey, micros{&b.LastUsedAt},
				micros{&b.LearntAt}, micros{&b.CheckedAt}, micros{&b.QuarantinedAt})...)
		return b, err
	})
}

// SomeBlobs lists up to n blobs that have been stored since before a time.
func (s *Store) SomeBlobs(ctx context.Context, before time.Time, n int) (all []Blob, err error) {
	defer wrap(&err, "meta.SomeBlobs")
	rs, err := s.db.Query(ctx, `
		SELECT id, digest, size_bytes, storage_key, last_used_at
		  FROM blobs WHERE id > 0 AND state = 'live' AND created_at <= $1 ORDER BY id DESC LIMIT $2`, usec(before), n)
	return collect(rs, err, scanBlob)
}

// LiveBlob returns stored bytes by their digest, whoever may read them, or
// ErrNotFound.
func (s *Store) LiveBlob(ctx context.Context, d oci.Digest) (b Blob, err error) {
	defer wrap(&err, "meta.LiveBlob(%s)", d)
	return liveBlob(ctx, s.db, d)
}

func liveBlob(ctx context.Context, q querier, d oci.Digest) (b Blob, err error) {
	err = q.QueryRow(ctx, `
		SELECT id, digest, size_bytes, storage_key, last_used_at
		  FROM blobs WHERE digest = $1 AND state = 'live'`, d).
		Scan(&b.ID, &b.Digest, &b.SizeBytes, &b.StorageKey, micros{&b.LastUsedAt})
	return b, err
}

// heldBlob is a live blob that garbage collection keeps its hands off until
// the transaction ends, and how far it has come with it.
type heldBlob struct {
	Blob
	reviewAt, quarantinedAt int64
}

// holdBlob takes a blob that is to be granted, mounted or named away from
// garbage collection, or returns errNoRow. What else must hold of the blob, its
// grants above all, is to be asked for by a later statement: this one waits for
// the collector, and what it had read by then may be gone.
func holdBlob(ctx context.Context, q querier, d oci.Digest) (b heldBlob, err error) {
	err = q.QueryRow(ctx, `
		SELECT id, digest, size_bytes, storage_key, last_used_at, review_at, quarantined_at
		  FROM blobs WHERE digest = $1 AND state = 'live' {for key share}`, d).
		Scan(&b.ID, &b.Digest, &b.SizeBytes, &b.StorageKey, micros{&b.LastUsedAt}, &b.reviewAt, &b.quarantinedAt)
	return b, err
}

// revive sees to it that a blob just granted is out of quarantine, and is
// looked at once the grant's lease may be over. A review that is due anyway
// finds the lease and waits for its end by itself.
func (s *Store) revive(ctx context.Context, q querier, b heldBlob) error {
	if b.quarantinedAt == 0 && b.reviewAt != 0 {
		return nil
	}
	_, err := q.Exec(ctx, `UPDATE blobs SET quarantined_at = 0, review_at = $2 WHERE id = $1`, b.ID, s.leaseEnd())
	return err
}

// addBlob makes the bytes at b.StorageKey the blob of its digest; the row of
// the one there is, and false, when another came first. Either is kept until
// the lease of a grant given in the same transaction ends.
func (s *Store) addBlob(ctx context.Context, q querier, b Blob) (_ Blob, won bool, err error) {
	for range addTries {
		n, err := q.Exec(ctx, `
			INSERT INTO blobs (digest, size_bytes, storage_key, state, created_at, last_used_at, review_at)
			VALUES ($1, $2, $3, 'live', $4, $4, $5)
			ON CONFLICT (digest) WHERE state = 'live' DO NOTHING`, b.Digest, b.SizeBytes, b.StorageKey, s.nowMicros(), s.leaseEnd())
		if err != nil {
			return Blob{}, false, err
		}
		held, err := holdBlob(ctx, q, b.Digest)
		if isNoRow(err) {
			// It was there, and was doomed while we waited for it. Its bytes are as
			// good as gone; now there is room for a row of ours.
			continue
		}
		if err == nil {
			err = s.revive(ctx, q, held)
		}
		return held.Blob, n > 0, err
	}
	return Blob{}, false, fmt.Errorf("blob %s was deleted %d times while it was being added", b.Digest, addTries)
}

// addTries bounds how often a blob is added that is deleted at that very
// moment, each time anew.
const addTries = 100

// Grant makes blobs readable in a repository, whether their bytes are here or
// not.
func (s *Store) Grant(ctx context.Context, repoID int64, blobs ...oci.Descriptor) (err error) {
	defer wrap(&err, "meta.Grant(%d)", repoID)
	return s.write(ctx, func(q querier) error {
		for _, d := range blobs {
			if err := s.grant(ctx, q, repoID, d.Digest, d.Size); err != nil {
				return err
			}
		}
		return nil
	})
}

// grant gives a blob to a repository, or renews its lease there, which in a
// local repository begins now: whoever was given a blob has that long to push a
// manifest that names it. One that was just renewed is left as it is. Whoever
// grants in a local repository holds the blob ([holdBlob]).
func (s *Store) grant(ctx context.Context, q querier, repoID int64, d oci.Digest, sizeBytes int64) error {
	_, err := q.Exec(ctx, `
		INSERT INTO repo_blobs (repo_id, blob_digest, size_bytes, learnt_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (repo_id, blob_digest) DO UPDATE SET learnt_at = excluded.learnt_at
		      WHERE repo_blobs.learnt_at <= $5`, repoID, d, sizeBytes, s.nowMicros(), s.renewBefore())
	return err
}

// RenewBlob is to be called when a client is told that a local repository has
// a blob, as a push asks before it leaves the upload out: b, just read by
// [Store.RepoBlob], then stays until a lease anew has passed. It writes only
// when b is about to go: when half of its lease is over, or it is in
// quarantine. ErrNotFound: it has gone since it was read.
func (s *Store) RenewBlob(ctx context.Context, b GrantedBlob) (err error) {
	if b.QuarantinedAt.IsZero() && usec(b.LearntAt) > s.renewBefore() {
		return nil
	}
	defer wrap(&err, "meta.RenewBlob(%d, %s)", b.RepoID, b.Digest)
	return s.write(ctx, func(q querier) error {
		held, err := holdBlob(ctx, q, b.Digest)
		if err != nil {
			return err
		}
		// The grant may be gone. One that was taken away is not given back.
		n, err := q.Exec(ctx, `
			UPDATE repo_blobs SET learnt_at = $3 WHERE repo_id = $1 AND blob_digest = $2`, b.RepoID, b.Digest, s.nowMicros())
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrNotFound
		}
		return s.revive(ctx, q, held)
	})
}

// DeleteGrant takes a blob out of a repository; its bytes stay until garbage
// collection finds them to be nobody's. ErrNotFound: it is not in there. An
// [InUseError]: one of the repository's manifests names it.
func (s *Store) DeleteGrant(ctx context.Context, repo string, d oci.Digest) (err error) {
	defer wrap(&err, "meta.DeleteGrant(%q, %s)", repo, d)
	return s.write(ctx, func(q querier) error {
		// The blob's row first: a push that found the grant holds it until its
		// manifest is stored, and then the manifest is seen below.
		var blobID int64
		err := q.QueryRow(ctx, `SELECT id FROM blobs WHERE digest = $1 AND state = 'live' {for update}`, d).Scan(&blobID)
		if isNoRow(err) {
			// Not even a grant is deleted: a push may just be given one, and without a
			// row there is no lock that would tell.
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		n, err := q.Exec(ctx, `
			DELETE FROM repo_blobs
			 WHERE blob_digest = $2 AND repo_id = (SELECT id FROM repos WHERE name = $1)`, repo, d)
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrNotFound
		}
		var by oci.Digest
		err = q.QueryRow(ctx, `
			SELECT m.digest FROM manifest_refs f
			  JOIN manifests m ON m.id = f.manifest_id JOIN repos r ON r.id = m.repo_id
			 WHERE f.digest = $2 AND f.kind = 'blob' AND r.name = $1 LIMIT 1`, repo, d).Scan(&by)
		switch {
		case err == nil:
			return &InUseError{By: by}
		case !isNoRow(err):
			return err
		}
		_, err = q.Exec(ctx, `UPDATE blobs SET review_at = $2 WHERE id = $1`, blobID, s.nowMicros())
		return err
	})
}

// Mount makes a blob of the repository from readable in repo, a local one that
// it makes when need be. ErrNotFound: it is not in from, or its bytes are not
// here.
func (s *Store) Mount(ctx context.Context, repo, from string, d oci.Digest) (err error) {
	defer wrap(&err, "meta.Mount(%q, %q, %s)", repo, from, d)
	return s.write(ctx, func(q querier) error {
		held, err := holdBlob(ctx, q, d)
		if err != nil {
			return err
		}
		var one int
		err = q.QueryRow(ctx, `
			SELECT 1 FROM repo_blobs g JOIN repos r ON r.id = g.repo_id
			 WHERE r.name = $1 AND g.blob_digest = $2`, from, d).Scan(&one)
		if err != nil {
			return err
		}
		r, err := s.ensureRepo(ctx, q, repo, Local)
		if err != nil {
			return err
		}
		if err := s.grant(ctx, q, r.RepoID, d, held.SizeBytes); err != nil {
			return err
		}
		return s.revive(ctx, q, held)
	})
}

// Orphans lists those of some storage keys that no row speaks of. Rows come
// before files and go after them, so there should be none.
func (s *Store) Orphans(ctx context.Context, storageKeys []string) (orphans []string, err error) {
	defer wrap(&err, "meta.Orphans")
	list, err := jsonText(append([]string{}, storageKeys...)) // nil is no array
	if err != nil {
		return nil, err
	}
	rs, err := s.db.Query(ctx, `
		SELECT d.value FROM {each $1} AS d
		 WHERE NOT EXISTS (SELECT 1 FROM blobs b WHERE b.storage_key = d.value)
		   AND NOT EXISTS (SELECT 1 FROM uploads u WHERE u.storage_key = d.value)
		   AND NOT EXISTS (SELECT 1 FROM fills f WHERE f.storage_key = d.value)`, list)
	return collect(rs, err, func(r row, key *string) error { return r.Scan(key) })
}
