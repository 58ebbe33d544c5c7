package meta

import (
	"context"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Upload is a blob on its way in. The row is there before the file at
// StorageKey is, and goes after it.
type Upload struct {
	ID          string
	RepoID      int64
	StorageKey  string
	OffsetBytes int64  // the file may be longer, by what a crash cut off from its row
	Alg         string // of the digest that is computed on the way
	HashState   []byte // at OffsetBytes
	StartedAt   time.Time
	UpdatedAt   time.Time
}

// CreateUpload notes a new upload to repo, a local repository that it makes
// when need be; u's RepoID and times are set here. ErrConflict: repo is a
// proxy's.
func (s *Store) CreateUpload(ctx context.Context, repo string, u Upload) (err error) {
	defer wrap(&err, "meta.CreateUpload(%q)", repo)
	return s.write(ctx, func(q querier) error {
		r, err := s.ensureRepo(ctx, q, repo, Local)
		if err != nil {
			return err
		}
		_, err = q.Exec(ctx, `
			INSERT INTO uploads (id, repo_id, storage_key, offset_bytes, alg, hash_state, started_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $7)`,
			u.ID, r.RepoID, u.StorageKey, u.OffsetBytes, u.Alg, u.HashState, s.nowMicros())
		return err
	})
}

const uploadColumns = `u.id, u.repo_id, u.storage_key, u.offset_bytes, u.alg, u.hash_state, u.started_at, u.updated_at`

func scanUpload(r row, u *Upload) error {
	return r.Scan(&u.ID, &u.RepoID, &u.StorageKey, &u.OffsetBytes, &u.Alg, &u.HashState,
		micros{&u.StartedAt}, micros{&u.UpdatedAt})
}

// Upload returns an upload to repo, or ErrNotFound.
func (s *Store) Upload(ctx context.Context, repo, id string) (u Upload, err error) {
	defer wrap(&err, "meta.Upload(%q, %q)", repo, id)
	err = scanUpload(s.db.QueryRow(ctx, `
		SELECT `+uploadColumns+` FROM uploads u JOIN repos r ON r.id = u.repo_id
		 WHERE u.id = $1 AND r.name = $2`, id, repo), &u)
	return u, err
}

// UploadByID is Upload whatever the repository.
func (s *Store) UploadByID(ctx context.Context, id string) (u Upload, err error) {
	defer wrap(&err, "meta.UploadByID(%q)", id)
	err = scanUpload(s.db.QueryRow(ctx, `SELECT `+uploadColumns+` FROM uploads u WHERE u.id = $1`, id), &u)
	return u, err
}

// SaveUpload notes how far an upload has come, from offset from. ErrNotFound:
// it is gone, or is not at from any more.
func (s *Store) SaveUpload(ctx context.Context, id string, from, to int64, hashState []byte) (err error) {
	defer wrap(&err, "meta.SaveUpload(%q, %d, %d)", id, from, to)
	return s.changeOne(ctx, `
		UPDATE uploads SET offset_bytes = $3, hash_state = $4, updated_at = $5
		 WHERE id = $1 AND offset_bytes = $2`, id, from, to, hashState, s.nowMicros())
}

// CommitUpload makes an upload, whose bytes are on disk whole, the blob d,
// readable in the upload's repository. won says that the blob's bytes are now
// this upload's, which is over. Otherwise the digest was here already: the
// upload stays until its file is deleted, and then wants [Store.DeleteUpload].
func (s *Store) CommitUpload(ctx context.Context, u Upload, d oci.Digest, sizeBytes int64) (won bool, err error) {
	defer wrap(&err, "meta.CommitUpload(%q, %s)", u.ID, d)
	err = s.write(ctx, func(q querier) error {
		b, w, err := s.addBlob(ctx, q, Blob{Digest: d, SizeBytes: sizeBytes, StorageKey: u.StorageKey})
		if err != nil {
			return err
		}
		won = w
		if err := s.grant(ctx, q, u.RepoID, d, b.SizeBytes); err != nil {
			return err
		}
		if !won {
			return nil
		}
		n, err := q.Exec(ctx, `DELETE FROM uploads WHERE id = $1`, u.ID)
		if err == nil && n == 0 {
			return ErrNotFound // given up meanwhile, and its file with it
		}
		return err
	})
	return won && err == nil, err
}

// DeleteUpload forgets an upload whose file is gone.
func (s *Store) DeleteUpload(ctx context.Context, id string) (err error) {
	defer wrap(&err, "meta.DeleteUpload(%q)", id)
	_, err = s.db.Exec(ctx, `DELETE FROM uploads WHERE id = $1`, id)
	return err
}

// StaleUploads lists up to n uploads that have not come further since before,
// the longest so first.
func (s *Store) StaleUploads(ctx context.Context, before time.Time, n int) (all []Upload, err error) {
	defer wrap(&err, "meta.StaleUploads")
	rs, err := s.db.Query(ctx, `
		SELECT `+uploadColumns+` FROM uploads u
		 WHERE u.updated_at < $1 ORDER BY u.updated_at LIMIT $2`, usec(before), n)
	return collect(rs, err, scanUpload)
}
