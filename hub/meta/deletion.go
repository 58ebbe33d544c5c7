package meta

import (
	"context"
	"errors"
	"slices"

	"github.com/google/uuid"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// What users delete goes to the trash and can be restored until GC.TrashFor has
// passed; the blobs it needs are kept that long. All rows of one deletion share
// op, an id that is greater than those of deletions before.

// Cause says what a deletion was of.
type Cause string

// The causes of deletions.
const (
	CauseTag        Cause = "tag"
	CauseManifest   Cause = "manifest"
	CauseRepository Cause = "repository"
	CauseUntagged   Cause = "untagged" // by garbage collection
)

// Deletion is what a deletion takes, or would take, along.
type Deletion struct {
	Op        string // "" of one that was only tried
	Tags      []string
	Manifests []DeletedManifest // the one meant first
}

// DeletedManifest is a manifest that is deleted.
type DeletedManifest struct {
	Digest       oci.Digest
	MediaType    string
	ArtifactType string
	Subject      oci.Digest // "" unless it refers to another
}

// deletion is a deletion under way: in one transaction, of one repository.
type deletion struct {
	s     *Store
	q     querier
	op    string
	repo  int64
	cause Cause
	by    string
	at    int64 // of all its rows: [Store.RestoreTrash] is for all or for none
	out   *Deletion

	ids      []int64 // of the manifests that go
	digests  []oci.Digest
	tagNames []string // that go with what they are about, wherever they point
}

// delete runs fn, which deletes from a repository; with try all is as it was
// before. ErrNotFound: there is no such repository. ErrOtherKind: it is a
// proxy's, which is not the users' to delete.
func (s *Store) delete(ctx context.Context, repoName string, cause Cause, by string, try bool, fn func(x *deletion) error) (out Deletion, err error) {
	op := uuid.Must(uuid.NewV7()).String() // fails only where the system has no randomness
	err = s.write(ctx, func(q querier) error {
		out = Deletion{}
		r, err := repo(ctx, q, repoName)
		if err != nil {
			return err
		}
		if err := r.must(Local); err != nil {
			return err
		}
		if err := fn(&deletion{s: s, q: q, op: op, repo: r.RepoID, cause: cause, by: by, at: s.nowMicros(), out: &out}); err != nil {
			return err
		}
		if try {
			return errTried
		}
		out.Op = op
		return nil
	})
	if errors.Is(err, errTried) {
		err = nil
	}
	return out, err
}

// errTried ends the transaction of a deletion that was only tried.
var errTried = errors.New("only tried")

// DeleteManifest moves a manifest to the trash, and with it the tags that point
// at it and what is about it alone: the manifests whose subject it is
// (distribution-spec v1.1, "Deleting Manifests" and "Referrers"), theirs, and
// what cosign's tags sha256-<hex>.sig, .att and .sbom and the referrers tag
// sha256-<hex> point at, if no other tag does. ErrNotFound: it is not there.
func (s *Store) DeleteManifest(ctx context.Context, repo string, d oci.Digest, by string) (err error) {
	defer wrap(&err, "meta.DeleteManifest(%q, %s)", repo, d)
	_, err = s.delete(ctx, repo, CauseManifest, by, false, func(x *deletion) error {
		return x.manifest(ctx, d, false)
	})
	return err
}

// DeleteTag moves a tag to the trash, or ErrNotFound. The manifest stays.
func (s *Store) DeleteTag(ctx context.Context, repo, name, by string) (err error) {
	defer wrap(&err, "meta.DeleteTag(%q, %q)", repo, name)
	_, err = s.delete(ctx, repo, CauseTag, by, false, func(x *deletion) error {
		_, err := x.tag(ctx, name)
		return err
	})
	return err
}

// DeleteImage moves an image to the trash as people mean it: the tag or the
// manifest, and when no other tag points at the manifest all that
// [Store.DeleteManifest] says, and an index's manifests that nothing else
// holds. With try it only says what would go.
func (s *Store) DeleteImage(ctx context.Context, repo string, ref oci.Reference, by string, try bool) (out Deletion, err error) {
	defer wrap(&err, "meta.DeleteImage(%q, %s)", repo, ref)
	cause := CauseManifest
	if !ref.IsDigest() {
		cause = CauseTag
	}
	return s.delete(ctx, repo, cause, by, try, func(x *deletion) error {
		d := ref.Digest
		if !ref.IsDigest() {
			var err error
			if d, err = x.tag(ctx, ref.Tag); err != nil {
				return err
			}
			var other string
			err = x.q.QueryRow(ctx, `SELECT name FROM tags WHERE repo_id = $1 AND digest = $2 LIMIT 1`, x.repo, d).Scan(&other)
			if !isNoRow(err) {
				return err
			}
		}
		return x.manifest(ctx, d, true)
	})
}

// DeleteRepo moves all of a repository to the trash, or says with try how much
// that is. ErrNotFound: there is nothing in it.
func (s *Store) DeleteRepo(ctx context.Context, repo, by string, try bool) (op string, manifests, tags int64, err error) {
	defer wrap(&err, "meta.DeleteRepo(%q)", repo)
	out, err := s.delete(ctx, repo, CauseRepository, by, try, func(x *deletion) (err error) {
		manifests, tags, err = x.everything(ctx, try)
		return err
	})
	return out.Op, manifests, tags, err
}

// tag moves one tag, and returns where it pointed.
func (x *deletion) tag(ctx context.Context, name string) (d oci.Digest, err error) {
	err = x.q.QueryRow(ctx, `SELECT digest FROM tags WHERE repo_id = $1 AND name = $2 {for update}`, x.repo, name).Scan(&d)
	if err != nil {
		return "", err
	}
	return d, x.tags(ctx, nil, []string{name})
}

// manifest moves a manifest with all that goes along.
func (x *deletion) manifest(ctx context.Context, d oci.Digest, children bool) error {
	if err := x.takeOne(ctx, d); err != nil {
		return err
	}
	return x.finish(ctx, x.digests, children)
}

// takeOne is take for one that must be there.
func (x *deletion) takeOne(ctx context.Context, d oci.Digest) error {
	err := x.take(ctx, []oci.Digest{d})
	if err == nil && len(x.ids) == 0 {
		err = errNoRow
	}
	return err
}

// finish finds what goes along with the manifests taken so far, and moves all.
func (x *deletion) finish(ctx context.Context, about []oci.Digest, children bool) error {
	for len(about) > 0 {
		had := len(x.digests)
		if err := x.referrers(ctx, about); err != nil {
			return err
		}
		if err := x.namedAfter(ctx, about); err != nil {
			return err
		}
		if children {
			if err := x.children(ctx); err != nil {
				return err
			}
		}
		about = x.digests[had:]
	}
	if err := x.manifests(ctx); err != nil {
		return err
	}
	if err := x.tags(ctx, x.digests, x.tagNames); err != nil {
		return err
	}
	_, err := x.forget(ctx, x.ids)
	return err
}

// take locks manifests that are to go along; one that is absent is left out.
// Until the transaction ends nobody can tag them or list them in an index.
func (x *deletion) take(ctx context.Context, digests []oci.Digest) error {
	list, err := jsonText(digests)
	if err != nil {
		return err
	}
	rs, err := x.q.Query(ctx, `
		SELECT id, digest, media_type, artifact_type, subject FROM manifests
		 WHERE repo_id = $1 AND digest IN (SELECT d.value FROM {each $2} AS d) ORDER BY id {for update}`, x.repo, list)
	return x.add(rs, err)
}

func (x *deletion) add(rs rows, err error) error {
	type taken struct {
		id int64
		DeletedManifest
	}
	all, err := collect(rs, err, func(r row, m *taken) error {
		return r.Scan(&m.id, &m.Digest, &m.MediaType, &m.ArtifactType, &m.Subject)
	})
	for _, m := range all {
		if !slices.Contains(x.ids, m.id) {
			x.ids, x.digests = append(x.ids, m.id), append(x.digests, m.Digest)
			x.out.Manifests = append(x.out.Manifests, m.DeletedManifest)
		}
	}
	return err
}

// manifests copies the manifests taken to the trash, the first one first, with
// what they name. Their rows go later: what keeps their blobs must at no moment
// be neither here nor there.
func (x *deletion) manifests(ctx context.Context) error {
	for _, ids := range [][]int64{x.ids[:1], x.ids[1:]} {
		list, err := idList(ids, func(id int64) int64 { return id })
		if err != nil {
			return err
		}
		_, err = x.q.Exec(ctx, `
			INSERT INTO trash (op, cause, kind, repo_id, digest, media_type, size_bytes, created_at, last_pull_at, body, deleted_by, deleted_at)
			SELECT CAST($2 AS TEXT), CAST($3 AS TEXT), 'manifest', m.repo_id, m.digest, m.media_type, m.size_bytes, m.created_at, m.last_pull_at, m.body,
			       CAST($4 AS TEXT), CAST($5 AS BIGINT)
			  FROM manifests m WHERE m.id IN (SELECT CAST(d.value AS BIGINT) FROM {each $1} AS d) ORDER BY m.id`,
			list, x.op, x.cause, x.by, x.at)
		if err != nil {
			return err
		}
	}
	return x.refs(ctx)
}

// refs notes what the manifests of the deletion name.
func (x *deletion) refs(ctx context.Context) error {
	_, err := x.q.Exec(ctx, `
		INSERT INTO trash_refs (trash_id, digest)
		SELECT DISTINCT t.id, f.digest FROM trash t
		  JOIN manifests m ON m.repo_id = t.repo_id AND m.digest = t.digest
		  JOIN manifest_refs f ON f.manifest_id = m.id
		 WHERE t.op = $1 AND t.kind = 'manifest'`, x.op)
	return err
}

// tags moves the tags that point at some digests, and those called names.
func (x *deletion) tags(ctx context.Context, digests []oci.Digest, names []string) error {
	byDigest, err := jsonText(append([]oci.Digest{}, digests...))
	if err != nil {
		return err
	}
	byName, err := jsonText(append([]string{}, names...))
	if err != nil {
		return err
	}
	// Found by their names, for which there is an index as for digests, but none
	// for one or the other. Who waited for a row asks again of what it is by then:
	// a tag that points elsewhere since stays.
	rs, err := x.q.Query(ctx, `
		SELECT name FROM tags
		 WHERE repo_id = $1
		   AND name IN (SELECT t.name FROM tags t WHERE t.repo_id = $1 AND t.digest IN (SELECT d.value FROM {each $2} AS d)
		                UNION ALL SELECT d.value FROM {each $3} AS d)
		   AND (digest IN (SELECT d.value FROM {each $2} AS d) OR name IN (SELECT d.value FROM {each $3} AS d))
		 ORDER BY name {for update}`, x.repo, byDigest, byName)
	locked, err := collect(rs, err, func(r row, name *string) error { return r.Scan(name) })
	if err != nil || len(locked) == 0 {
		return err
	}
	x.out.Tags = append(x.out.Tags, locked...)
	list, err := jsonText(locked)
	if err != nil {
		return err
	}
	_, err = x.q.Exec(ctx, `
		INSERT INTO trash (op, cause, kind, repo_id, name, digest, media_type, size_bytes, created_at, deleted_by, deleted_at)
		SELECT CAST($3 AS TEXT), CAST($4 AS TEXT), 'tag', t.repo_id, t.name, t.digest, t.media_type, t.size_bytes, t.updated_at,
		       CAST($5 AS TEXT), CAST($6 AS BIGINT)
		  FROM tags t WHERE t.repo_id = $1 AND t.name IN (SELECT d.value FROM {each $2} AS d) ORDER BY t.name`,
		x.repo, list, x.op, x.cause, x.by, x.at)
	if err != nil {
		return err
	}
	_, err = x.q.Exec(ctx, `
		DELETE FROM tags WHERE repo_id = $1 AND name IN (SELECT d.value FROM {each $2} AS d)`, x.repo, list)
	return err
}

// everything moves all of a repository, which may be large, by statements that
// take it whole; with try it only counts.
func (x *deletion) everything(ctx context.Context, try bool) (manifests, tags int64, err error) {
	if err = x.q.QueryRow(ctx, `SELECT count(*) FROM manifests WHERE repo_id = $1`, x.repo).Scan(&manifests); err != nil {
		return 0, 0, err
	}
	if err = x.q.QueryRow(ctx, `SELECT count(*) FROM tags WHERE repo_id = $1`, x.repo).Scan(&tags); err != nil {
		return 0, 0, err
	}
	if manifests+tags == 0 {
		return 0, 0, errNoRow
	}
	if try {
		return manifests, tags, nil
	}
	rs, err := x.q.Query(ctx, `SELECT id FROM manifests WHERE repo_id = $1 ORDER BY id {for update}`, x.repo)
	if _, err = collect(rs, err, scanID); err != nil {
		return 0, 0, err
	}
	copied, err := x.q.Exec(ctx, `
		INSERT INTO trash (op, cause, kind, repo_id, digest, media_type, size_bytes, created_at, last_pull_at, body, deleted_by, deleted_at)
		SELECT CAST($2 AS TEXT), CAST($3 AS TEXT), 'manifest', m.repo_id, m.digest, m.media_type, m.size_bytes, m.created_at, m.last_pull_at, m.body,
		       CAST($4 AS TEXT), CAST($5 AS BIGINT)
		  FROM manifests m WHERE m.repo_id = $1 ORDER BY m.id`, x.repo, x.op, x.cause, x.by, x.at)
	if err != nil {
		return 0, 0, err
	}
	ids, err := x.copied(ctx, copied)
	if err != nil {
		return 0, 0, err
	}
	_, err = x.q.Exec(ctx, `
		INSERT INTO trash (op, cause, kind, repo_id, name, digest, media_type, size_bytes, created_at, deleted_by, deleted_at)
		SELECT CAST($2 AS TEXT), CAST($3 AS TEXT), 'tag', t.repo_id, t.name, t.digest, t.media_type, t.size_bytes, t.updated_at,
		       CAST($4 AS TEXT), CAST($5 AS BIGINT)
		  FROM tags t WHERE t.repo_id = $1 AND EXISTS (SELECT 1 FROM trash x WHERE x.repo_id = t.repo_id AND x.digest = t.digest AND x.op = $2)
		 ORDER BY t.name`, x.repo, x.op, x.cause, x.by, x.at)
	if err != nil {
		return 0, 0, err
	}
	if err := x.refs(ctx); err != nil {
		return 0, 0, err
	}
	tags, err = x.q.Exec(ctx, `
		DELETE FROM tags WHERE repo_id = $1
		   AND EXISTS (SELECT 1 FROM trash x WHERE x.repo_id = $1 AND x.digest = tags.digest AND x.op = $2)`, x.repo, x.op)
	if err != nil {
		return 0, 0, err
	}
	manifests, err = x.forget(ctx, ids)
	return manifests, tags, err
}

// copied locks the manifests that everything has copied to the trash, which are
// so many, and returns their ids. What was pushed meanwhile may be in the copy:
// then it goes too, and nobody is to tag it any more. What another has deleted
// meanwhile may be in it as well: that is in the trash as the other's, and may
// come again before all is done.
func (x *deletion) copied(ctx context.Context, n int64) (ids []int64, err error) {
	rs, err := x.q.Query(ctx, `
		SELECT t.id, m.id FROM trash t JOIN manifests m ON m.repo_id = t.repo_id AND m.digest = t.digest
		 WHERE t.op = $1 AND t.kind = 'manifest' ORDER BY m.id {for update of m}`, x.op)
	type copied struct{ trashID, id int64 }
	all, err := collect(rs, err, func(r row, c *copied) error { return r.Scan(&c.trashID, &c.id) })
	for _, c := range all {
		ids = append(ids, c.id)
	}
	if err != nil || int64(len(all)) == n {
		return ids, err
	}
	list, err := idList(all, func(c copied) int64 { return c.trashID })
	if err != nil {
		return nil, err
	}
	_, err = x.q.Exec(ctx, `
		DELETE FROM trash WHERE op = $1 AND id NOT IN (SELECT CAST(d.value AS BIGINT) FROM {each $2} AS d)`, x.op, list)
	return ids, err
}

// forget deletes the rows of manifests that are in the trash by now.
func (x *deletion) forget(ctx context.Context, ids []int64) (int64, error) {
	list, err := idList(ids, func(id int64) int64 { return id })
	if err != nil {
		return 0, err
	}
	return x.q.Exec(ctx, `DELETE FROM manifests WHERE id IN (SELECT CAST(d.value AS BIGINT) FROM {each $1} AS d)`, list)
}
