package meta

import (
	"context"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Upload is a blob on its way in. The row is there before there are bytes at
// StorageKey, and goes after them.
type Upload struct {
	ID          string
	RepoID      int64
	StorageKey  string
	OffsetBytes int64  // there may be more bytes, by what a crash cut off from the row
	Alg         string // of the digest that is computed on the way
	HashState   []byte // at OffsetBytes
	DriverState []byte // at OffsetBytes: what who writes the bytes needs to go on; nil before the first
	StateBytes  int64  // how long DriverState is in the row: of more than 64 KiB HoldUpload gives the start, [Store.UploadState] all
	StartedAt   time.Time
	UpdatedAt   time.Time
}

// CreateUpload notes a new upload to repo, a local repository that it makes
// when need be; u's RepoID and times are set here. A crash of the machine may
// undo it, and then the client begins anew. ErrOtherKind: repo is a proxy's.
func (s *Store) CreateUpload(ctx context.Context, repo string, u Upload) (err error) {
	defer wrap(&err, "meta.CreateUpload(%q)", repo)
	n, err := s.insertUpload(ctx, s.db, repo, u)
	if err != nil || n > 0 {
		return err
	}
	return s.writeLoosely(ctx, func(q querier) error {
		if _, err := s.ensureRepo(ctx, q, repo, Local); err != nil {
			return err
		}
		_, err := s.insertUpload(ctx, q, repo, u)
		return err
	})
}

// insertUpload does nothing where there is no such local repository yet.
func (s *Store) insertUpload(ctx context.Context, q querier, repo string, u Upload) (int64, error) {
	return q.Exec(ctx, `
		INSERT INTO uploads (id, repo_id, storage_key, offset_bytes, alg, hash_state, driver_state, started_at, updated_at)
		SELECT $1, r.id, $3, $4, $5, $6, $7, $8, $8
		  FROM repos r JOIN projects p ON p.id = r.project_id
		 WHERE r.name = $2 AND p.kind = 'local' AND {loose}`,
		u.ID, repo, u.StorageKey, u.OffsetBytes, u.Alg, u.HashState, u.DriverState, s.nowMicros())
}

const uploadColumns = `u.id, u.repo_id, u.storage_key, u.offset_bytes, u.alg, u.started_at, u.updated_at`

// uploadStates are read only to go on with the upload. They may be as long as a
// part of an object: who reads that sees to it that there is memory for it.
const uploadStates = `, u.hash_state, substr(u.driver_state, 1, 66000), coalesce(length(u.driver_state), 0)`

func (u *Upload) states() []any { return []any{&u.HashState, &u.DriverState, &u.StateBytes} }

// UploadState returns the whole DriverState of an upload that this replica
// holds. ErrNotFound: it is gone, or held no longer.
func (s *Store) UploadState(ctx context.Context, id string) (state []byte, err error) {
	defer wrap(&err, "meta.UploadState(%q)", id)
	err = s.db.QueryRow(ctx, `SELECT driver_state FROM uploads WHERE id = $1 AND holder = $2`, id, s.holder()).Scan(&state)
	return state, err
}

func (u *Upload) dest(more ...any) []any {
	return append([]any{&u.ID, &u.RepoID, &u.StorageKey, &u.OffsetBytes, &u.Alg, micros{&u.StartedAt}, micros{&u.UpdatedAt}}, more...)
}

// Upload returns an upload to repo, without its states, or ErrNotFound.
func (s *Store) Upload(ctx context.Context, repo, id string) (u Upload, err error) {
	defer wrap(&err, "meta.Upload(%q, %q)", repo, id)
	err = s.db.QueryRow(ctx, `
		SELECT `+uploadColumns+` FROM uploads u JOIN repos r ON r.id = u.repo_id
		 WHERE u.id = $1 AND r.name = $2 AND NOT u.doomed`, id, repo).Scan(u.dest()...)
	return u, err
}

// SaveUpload notes how far an upload has come that this replica holds: u's
// offset and states, where the row says from. With leave it is held no longer.
// It is durable: a client may be told, and need never send these bytes again.
// ErrNotFound: it is gone. ErrHeld: it is there, but not at from any more or not
// held by this replica: another has taken it over, or a crash of the database has
// undone the hold.
func (s *Store) SaveUpload(ctx context.Context, u Upload, from int64, leave bool) (err error) {
	defer wrap(&err, "meta.SaveUpload(%q, %d, %d)", u.ID, from, u.OffsetBytes)
	holder := s.holder()
	if leave {
		holder = ""
	}
	n, err := s.db.Exec(ctx, `
		UPDATE uploads SET offset_bytes = $3, hash_state = $4, driver_state = $5, updated_at = $6, holder = $7
		 WHERE id = $1 AND offset_bytes = $2 AND holder = $8 AND storage_key = $9 AND NOT doomed`,
		u.ID, from, u.OffsetBytes, u.HashState, u.DriverState, s.nowMicros(), holder, s.holder(), u.StorageKey)
	switch {
	case err != nil:
		return err
	case n == 0:
		return notHeld(ctx, s.db, u.ID)
	case leave:
		s.holds.row(u.ID, false)
	}
	return nil
}

// MoveUpload is SaveUpload where the bytes are now at another key than from's: u
// is stored as it is, where the row says from. The old key is doomed, as an
// upload whose id it is: its bytes may be deleted, and then [Store.DeleteUpload]
// forgets it. The hold goes on.
func (s *Store) MoveUpload(ctx context.Context, u, from Upload) (err error) {
	defer wrap(&err, "meta.MoveUpload(%q, %s, %s)", u.ID, from.StorageKey, u.StorageKey)
	return s.write(ctx, func(q querier) error {
		n, err := q.Exec(ctx, `
			UPDATE uploads SET storage_key = $4, offset_bytes = $5, hash_state = $6, driver_state = $7, updated_at = $8
			 WHERE id = $1 AND offset_bytes = $2 AND storage_key = $3 AND holder = $9 AND NOT doomed`,
			u.ID, from.OffsetBytes, from.StorageKey, u.StorageKey, u.OffsetBytes, u.HashState, u.DriverState, s.nowMicros(), s.holder())
		if err != nil {
			return err
		}
		if n == 0 {
			return notHeld(ctx, q, u.ID)
		}
		return s.doomKey(ctx, q, u, from.StorageKey)
	})
}

// doomKey notes that what is at key, where u's bytes were until now, is to be
// deleted.
func (s *Store) doomKey(ctx context.Context, q querier, u Upload, key string) error {
	_, err := q.Exec(ctx, `
		INSERT INTO uploads (id, repo_id, storage_key, offset_bytes, alg, hash_state, started_at, updated_at, doomed)
		VALUES ($1, $2, $1, 0, $3, $4, $5, 0, TRUE)`, key, u.RepoID, u.Alg, []byte{}, s.nowMicros())
	return err
}

// notHeld says why an upload could not be changed: it is gone, or it is there
// and not as who changes it holds it.
func notHeld(ctx context.Context, q querier, id string) error {
	err := q.QueryRow(ctx, `SELECT id FROM uploads WHERE id = $1 AND NOT doomed`, id).Scan(&id)
	if err == nil {
		err = ErrHeld
	}
	return err
}

// CommitUpload makes an upload that this replica holds, whose bytes are durable
// and whole, the blob d, readable in the upload's repository. won says that the
// blob's bytes are now this upload's, which is over. Otherwise the digest was
// here already: the upload is doomed, its bytes are to be deleted, and then
// [Store.DeleteUpload] forgets it.
//
// ErrNotFound: it is gone. ErrHeld: this replica holds it no longer, as with
// [Store.SaveUpload]. After any other error it is unknown whether it happened: who
// holds the upload anew finds out.
func (s *Store) CommitUpload(ctx context.Context, u Upload, d oci.Digest, sizeBytes int64) (won bool, err error) {
	defer wrap(&err, "meta.CommitUpload(%q, %s)", u.ID, d)
	err = s.write(ctx, func(q querier) error {
		b, first, err := s.addBlob(ctx, q, Blob{Digest: d, SizeBytes: sizeBytes, StorageKey: u.StorageKey})
		if err != nil {
			return err
		}
		won = first
		if err := s.grant(ctx, q, u.RepoID, d, b.SizeBytes); err != nil {
			return err
		}
		var n int64
		if won {
			n, err = q.Exec(ctx, `
				DELETE FROM uploads WHERE id = $1 AND holder = $2 AND storage_key = $3 AND NOT doomed`, u.ID, s.holder(), u.StorageKey)
		} else {
			n, err = q.Exec(ctx, `
				UPDATE uploads SET doomed = TRUE, updated_at = 0
				 WHERE id = $1 AND holder = $2 AND storage_key = $3 AND NOT doomed`, u.ID, s.holder(), u.StorageKey)
		}
		if err == nil && n == 0 {
			return notHeld(ctx, q, u.ID)
		}
		return err
	})
	if err == nil && won {
		s.holds.row(u.ID, false)
	}
	return won && err == nil, err
}

// DoomUpload says that an upload which this replica holds never becomes a blob:
// then its bytes may be deleted, and after that [Store.DeleteUpload] is called.
// It may be doomed already. ErrNotFound: it is gone, or another replica has
// taken it over.
func (s *Store) DoomUpload(ctx context.Context, id string) (err error) {
	defer wrap(&err, "meta.DoomUpload(%q)", id)
	// At time 0 it is due for whoever removes what is left.
	return s.changeOne(ctx, `UPDATE uploads SET doomed = TRUE, updated_at = 0 WHERE id = $1 AND holder = $2`, id, s.holder())
}

// DeleteUpload forgets a doomed upload whose bytes are gone.
func (s *Store) DeleteUpload(ctx context.Context, id string) (err error) {
	defer wrap(&err, "meta.DeleteUpload(%q)", id)
	_, err = s.db.Exec(ctx, `DELETE FROM uploads WHERE id = $1 AND doomed AND {loose}`, id)
	if err == nil {
		s.holds.row(id, false)
	}
	return err
}

// StaleUploads lists up to n uploads that have not come further since before,
// the longest so first, those that are doomed above all.
func (s *Store) StaleUploads(ctx context.Context, before time.Time, n int) (ids []string, err error) {
	defer wrap(&err, "meta.StaleUploads")
	rs, err := s.db.Query(ctx, `
		SELECT id FROM uploads WHERE updated_at < $1 ORDER BY updated_at LIMIT $2`, usec(before), n)
	return collect(rs, err, func(r row, id *string) error { return r.Scan(id) })
}
