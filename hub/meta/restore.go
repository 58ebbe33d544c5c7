package meta

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// TakenError says that a tag in the trash is in use again for another manifest.
type TakenError struct {
	Tag string
	By  oci.Digest
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("tag %s points at %s meanwhile", e.Tag, e.By)
}

// restoreBatch is how many rows are read at a time: they have manifests' bodies
// in them, of up to 4 MiB each.
const restoreBatch = 10

// RestoreTrash puts back what a deletion took. ErrNotFound: there is no such
// deletion, or its time is over. A [TakenError]: a tag points elsewhere
// meanwhile; with force it is pointed back. A [MissingError]: what a tag or an
// index names was deleted by another deletion, which is to be restored first;
// with force the index is put back without.
func (s *Store) RestoreTrash(ctx context.Context, op string, force bool) (err error) {
	defer wrap(&err, "meta.RestoreTrash(%s)", op)
	return s.write(ctx, func(q querier) error {
		x := restoration{s: s, q: q, force: force}
		if err := x.hold(ctx, op); err != nil {
			return err
		}
		// As of one moment: all rows of a deletion are of one, and their time is over
		// for all or for none.
		begun := s.trashBegun()
		for last := int64(0); ; {
			rs, err := q.Query(ctx, `
				SELECT id, kind, repo_id, name, digest, media_type, size_bytes, created_at, last_pull_at, body FROM trash
				 WHERE op = $1 AND id > $2 AND deleted_at >= $3 ORDER BY id LIMIT $4 {for update}`, op, last, begun, restoreBatch)
			batch, err := collect(rs, err, scanTrash)
			if err != nil {
				return err
			}
			for _, t := range batch {
				if err := x.row(ctx, t); err != nil {
					return err
				}
				last = t.id
			}
			if len(batch) < restoreBatch {
				break
			}
		}
		if x.rows == 0 {
			return ErrNotFound
		}
		if err := x.settle(ctx); err != nil {
			return err
		}
		// Last: until here the trash kept the blobs.
		_, err := q.Exec(ctx, `DELETE FROM trash WHERE op = $1`, op)
		return err
	})
}

type trashRow struct {
	id, repoID, sizeBytes, createdAt, lastPullAt int64
	kind, name, mediaType                        string
	digest                                       oci.Digest
	body                                         []byte
}

func scanTrash(r row, t *trashRow) error {
	return r.Scan(&t.id, &t.kind, &t.repoID, &t.name, &t.digest, &t.mediaType, &t.sizeBytes, &t.createdAt, &t.lastPullAt, &t.body)
}

// restoration puts rows of one deletion, which are of one repository, back.
type restoration struct {
	s     *Store
	q     querier
	force bool

	rows     int
	repoID   int64
	tags     []trashRow
	children []ref
}

// hold locks all rows of the deletion, so that nothing of it is purged, and then
// all blobs they need, in one go and in the order in which everybody does.
func (x *restoration) hold(ctx context.Context, op string) error {
	rs, err := x.q.Query(ctx, `SELECT id FROM trash WHERE op = $1 ORDER BY id {for update}`, op)
	if _, err = collect(rs, err, scanID); err != nil {
		return err
	}
	rs, err = x.q.Query(ctx, `
		SELECT b.id FROM blobs b
		 WHERE b.digest IN (SELECT f.digest FROM trash t JOIN trash_refs f ON f.trash_id = t.id WHERE t.op = $1)
		   AND b.state = 'live' ORDER BY b.id {for key share of b}`, op)
	_, err = collect(rs, err, scanID)
	return err
}

// row puts a manifest back, and keeps for later what must be there for.
func (x *restoration) row(ctx context.Context, t trashRow) error {
	x.rows++
	x.repoID = t.repoID
	if t.kind == "tag" {
		x.tags = append(x.tags, t)
		return nil
	}
	links, err := oci.ParseManifest(t.mediaType, t.body)
	if err != nil {
		return err
	}
	refs := refsOf(links)
	blobs := slices.DeleteFunc(slices.Clone(refs), func(f ref) bool { return f.kind != refBlob || f.foreign })
	if err := x.blobs(ctx, blobs); err != nil {
		return err
	}
	// The trash kept the foreign layers that the repository had. It is given none:
	// it may never have had it, and a manifest can name others' blobs so.
	foreign := slices.DeleteFunc(slices.Clone(refs), func(f ref) bool { return !f.foreign })
	if _, err := x.s.missing(ctx, x.q, t.repoID, foreign); err != nil {
		return err
	}
	for _, f := range refs {
		if f.kind == refChild {
			x.children = append(x.children, f)
		}
	}
	m := NewManifest{Digest: t.digest, Body: t.body, Links: links}
	return x.s.putManifest(ctx, x.q, t.repoID, m, refs, t.lastPullAt)
}

// blobs makes sure of the blobs of a manifest: the trash has kept their bytes,
// but the repository may have lost them, if somebody deleted them one by one.
func (x *restoration) blobs(ctx context.Context, refs []ref) error {
	slices.SortFunc(refs, func(a, b ref) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	for _, f := range refs {
		held, err := holdBlob(ctx, x.q, f.Digest)
		if isNoRow(err) {
			return &MissingError{Missing: []oci.Descriptor{f.Descriptor}}
		}
		if err == nil {
			err = x.s.grant(ctx, x.q, x.repoID, f.Digest, held.SizeBytes)
		}
		if err == nil {
			err = x.s.revive(ctx, x.q, held)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// settle points the tags, once all manifests are there, and looks for indexes'
// manifests that are not.
func (x *restoration) settle(ctx context.Context) error {
	if !x.force {
		missing, err := x.s.missing(ctx, x.q, x.repoID, x.children)
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			return &MissingError{Missing: missing}
		}
	}
	for _, t := range x.tags {
		if err := x.tag(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

func (x *restoration) tag(ctx context.Context, t trashRow) error {
	at := ref{Descriptor: oci.Descriptor{MediaType: t.mediaType, Digest: t.digest, Size: t.sizeBytes}, kind: refChild}
	missing, err := x.s.missing(ctx, x.q, x.repoID, []ref{at})
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return &MissingError{Missing: missing}
	}
	if !x.force {
		return x.claim(ctx, t)
	}
	return x.s.putTag(ctx, x.q, x.repoID, Tag{Name: t.name, Digest: t.digest, MediaType: t.mediaType, SizeBytes: t.sizeBytes})
}

// claim gives the tag of a trash row back, unless it points elsewhere by now.
func (x *restoration) claim(ctx context.Context, t trashRow) error {
	for {
		// Given a row first, the tag cannot be pointed elsewhere after it was looked at.
		_, err := x.q.Exec(ctx, `
			INSERT INTO tags (repo_id, name, digest, media_type, size_bytes, updated_at, checked_at)
			VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT (repo_id, name) DO NOTHING`,
			x.repoID, t.name, t.digest, t.mediaType, t.sizeBytes, t.createdAt)
		if err != nil {
			return err
		}
		var by oci.Digest
		err = x.q.QueryRow(ctx, `SELECT digest FROM tags WHERE repo_id = $1 AND name = $2 {for update}`, x.repoID, t.name).Scan(&by)
		switch {
		case isNoRow(err): // the row that was in the way has just been deleted
			continue
		case err == nil && by != t.digest:
			return &TakenError{Tag: t.name, By: by}
		}
		return err
	}
}
