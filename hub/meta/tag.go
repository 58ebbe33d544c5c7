package meta

import (
	"context"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Tag is a name for a manifest.
type Tag struct {
	Name      string
	Digest    oci.Digest
	MediaType string
	SizeBytes int64
	UpdatedAt time.Time // when it was last pointed elsewhere
	CheckedAt time.Time // when a proxy's upstream last said that it points there
}

// PutTag notes where a proxy's tag has just been found to point, whether the
// manifest is stored or not. t's times are set here.
func (s *Store) PutTag(ctx context.Context, repoID int64, t Tag) (err error) {
	defer wrap(&err, "meta.PutTag(%d, %q)", repoID, t.Name)
	return s.putTag(ctx, s.db, repoID, t)
}

func (s *Store) putTag(ctx context.Context, q querier, repoID int64, t Tag) error {
	_, err := q.Exec(ctx, `
		INSERT INTO tags (repo_id, name, digest, media_type, size_bytes, updated_at, checked_at)
		VALUES ($1, $2, $3, $4, $5, $6, $6)
		ON CONFLICT (repo_id, name) DO UPDATE
		   SET digest = excluded.digest, media_type = excluded.media_type, size_bytes = excluded.size_bytes,
		       updated_at = CASE WHEN tags.digest = excluded.digest THEN tags.updated_at ELSE excluded.updated_at END,
		       checked_at = excluded.checked_at`,
		repoID, t.Name, t.Digest, t.MediaType, t.SizeBytes, s.nowMicros())
	return err
}

// Tags lists up to n tags of a repository by name, beginning after last, or
// ErrNotFound when there is no such repository.
func (s *Store) Tags(ctx context.Context, repo string, n int, last string) (all []Tag, more bool, err error) {
	defer wrap(&err, "meta.Tags(%q, %d, %q)", repo, n, last)
	// The repository is looked up apart: in a join, Postgres takes it for one of
	// ordinary size, and sorts all tags of one that is not.
	rs, err := s.db.Query(ctx, `
		SELECT t.name, t.digest, t.media_type, t.size_bytes, t.updated_at, t.checked_at
		  FROM tags t
		 WHERE t.repo_id = (SELECT id FROM repos WHERE name = $1) AND t.name > $2 ORDER BY t.name LIMIT $3`, repo, last, n+1)
	all, err = collect(rs, err, func(r row, t *Tag) error {
		return r.Scan(&t.Name, &t.Digest, &t.MediaType, &t.SizeBytes, micros{&t.UpdatedAt}, micros{&t.CheckedAt})
	})
	if err == nil && len(all) == 0 {
		err = s.hasRepo(ctx, repo)
	}
	all, more = page(all, n)
	return all, more, err
}

// hasRepo returns ErrNotFound when there is no such repository.
func (s *Store) hasRepo(ctx context.Context, name string) error {
	var id int64
	return s.db.QueryRow(ctx, `SELECT id FROM repos WHERE name = $1`, name).Scan(&id)
}

// ForgetTag removes a tag from a proxy's repository, or ErrNotFound: its
// upstream has it no longer. What users delete goes to the trash, see
// [Store.DeleteTag].
func (s *Store) ForgetTag(ctx context.Context, repo, name string) (err error) {
	defer wrap(&err, "meta.ForgetTag(%q, %q)", repo, name)
	return s.changeOne(ctx, `
		DELETE FROM tags WHERE name = $2 AND repo_id = (SELECT id FROM repos WHERE name = $1)`, repo, name)
}
