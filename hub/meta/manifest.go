package meta

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Manifest is a manifest as a repository knows it, by a tag or by its digest.
type Manifest struct {
	Place
	ID         int64 // 0: a proxy's tag that names a manifest which is not stored yet
	Digest     oci.Digest
	MediaType  string
	SizeBytes  int64
	Body       []byte // not to be changed; nil when it was not asked for, or is not stored yet
	LastPullAt time.Time
	// CheckedAt is when a proxy's upstream last said so: that the tag points
	// here or, by digest, that the manifest can be read ([Store.ConfirmRef]).
	CheckedAt time.Time
}

// lookupKey is what is looked up: by which method, where, and which.
type lookupKey struct{ method, repo, which string }

// Descriptor is the manifest's media type, digest and size.
func (m *Manifest) Descriptor() oci.Descriptor {
	return oci.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: m.SizeBytes}
}

// ManifestByTag returns the manifest a tag points at, with its body, or
// ErrNotFound.
func (s *Store) ManifestByTag(ctx context.Context, repo, tag string) (m Manifest, err error) {
	defer wrap(&err, "meta.ManifestByTag(%q, %q)", repo, tag)
	return s.manifests.look(ctx, lookupKey{"ManifestByTag", repo, tag}, func(ctx context.Context) (m Manifest, err error) {
		err = s.db.QueryRow(ctx, `
			SELECT `+placeColumns+`, t.digest, t.media_type, t.size_bytes, t.checked_at,
			       coalesce(m.id, 0), coalesce(m.last_pull_at, 0), m.body
			  FROM repos r JOIN projects p ON p.id = r.project_id
			  JOIN tags t ON t.repo_id = r.id
			  LEFT JOIN manifests m ON m.repo_id = r.id AND m.digest = t.digest
			 WHERE r.name = $1 AND t.name = $2`, repo, tag).
			Scan(m.dest(&m.Digest, &m.MediaType, &m.SizeBytes, micros{&m.CheckedAt}, &m.ID, micros{&m.LastPullAt}, &m.Body)...)
		return m, err
	})
}

// ManifestByDigest returns a stored manifest, with its body, or ErrNotFound.
func (s *Store) ManifestByDigest(ctx context.Context, repo string, d oci.Digest) (m Manifest, err error) {
	defer wrap(&err, "meta.ManifestByDigest(%q, %s)", repo, d)
	return s.manifests.look(ctx, lookupKey{"ManifestByDigest", repo, string(d)}, func(ctx context.Context) (m Manifest, err error) {
		err = s.db.QueryRow(ctx, `
			SELECT `+placeColumns+`, m.digest, m.media_type, m.size_bytes, coalesce(c.checked_at, 0), m.id, m.last_pull_at, m.body
			  FROM repos r JOIN projects p ON p.id = r.project_id
			  JOIN manifests m ON m.repo_id = r.id
			  LEFT JOIN ref_checks c ON c.repo_id = r.id AND c.digest = m.digest
			 WHERE r.name = $1 AND m.digest = $2`, repo, d).
			Scan(m.dest(&m.Digest, &m.MediaType, &m.SizeBytes, micros{&m.CheckedAt}, &m.ID, micros{&m.LastPullAt}, &m.Body)...)
		return m, err
	})
}

// StatTag is ManifestByTag without the body.
func (s *Store) StatTag(ctx context.Context, repo, tag string) (m Manifest, err error) {
	defer wrap(&err, "meta.StatTag(%q, %q)", repo, tag)
	return s.manifests.look(ctx, lookupKey{"StatTag", repo, tag}, func(ctx context.Context) (m Manifest, err error) {
		err = s.db.QueryRow(ctx, `
			SELECT `+placeColumns+`, t.digest, t.media_type, t.size_bytes, t.checked_at,
			       coalesce(m.id, 0), coalesce(m.last_pull_at, 0)
			  FROM repos r JOIN projects p ON p.id = r.project_id
			  JOIN tags t ON t.repo_id = r.id
			  LEFT JOIN manifests m ON m.repo_id = r.id AND m.digest = t.digest
			 WHERE r.name = $1 AND t.name = $2`, repo, tag).
			Scan(m.dest(&m.Digest, &m.MediaType, &m.SizeBytes, micros{&m.CheckedAt}, &m.ID, micros{&m.LastPullAt})...)
		return m, err
	})
}

// StatManifest is ManifestByDigest without the body.
func (s *Store) StatManifest(ctx context.Context, repo string, d oci.Digest) (m Manifest, err error) {
	defer wrap(&err, "meta.StatManifest(%q, %s)", repo, d)
	return s.manifests.look(ctx, lookupKey{"StatManifest", repo, string(d)}, func(ctx context.Context) (m Manifest, err error) {
		err = s.db.QueryRow(ctx, `
			SELECT `+placeColumns+`, m.digest, m.media_type, m.size_bytes, coalesce(c.checked_at, 0), m.id, m.last_pull_at
			  FROM repos r JOIN projects p ON p.id = r.project_id
			  JOIN manifests m ON m.repo_id = r.id
			  LEFT JOIN ref_checks c ON c.repo_id = r.id AND c.digest = m.digest
			 WHERE r.name = $1 AND m.digest = $2`, repo, d).
			Scan(m.dest(&m.Digest, &m.MediaType, &m.SizeBytes, micros{&m.CheckedAt}, &m.ID, micros{&m.LastPullAt})...)
		return m, err
	})
}

// NewManifest is a manifest to store.
type NewManifest struct {
	Repo   string
	Digest oci.Digest // of Body
	Body   []byte
	Links  oci.Links // of Body
	Tag    string    // to point at it; "" for none
	// Attached says that the hub itself puts it beside its subject, see
	// [Store.RemoveAttached].
	Attached bool
}

// PutManifest stores a manifest in a local repository, which is made when need
// be, and points the tag at it. A [MissingError] says what it names that the
// repository does not hold; ErrOtherKind that the repository is a proxy's. Foreign
// layers may be missing; those that are there, or come later, it keeps as it does
// the others.
func (s *Store) PutManifest(ctx context.Context, m NewManifest) (err error) {
	defer wrap(&err, "meta.PutManifest(%q, %s)", m.Repo, m.Digest)
	return s.write(ctx, func(q querier) error {
		r, err := s.ensureRepo(ctx, q, m.Repo, Local)
		if err != nil {
			return err
		}
		refs := refsOf(m.Links)
		missing, err := s.missing(ctx, q, r.RepoID, refs)
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			return &MissingError{Missing: missing}
		}
		return s.putManifest(ctx, q, r.RepoID, m, refs, 0)
	})
}

// PutProxied stores a manifest just fetched from the upstream in a proxy's
// repository, which is made when need be: what it names may come later, and
// the blobs it names are granted.
func (s *Store) PutProxied(ctx context.Context, m NewManifest) (err error) {
	defer wrap(&err, "meta.PutProxied(%q, %s)", m.Repo, m.Digest)
	return s.write(ctx, func(q querier) error {
		r, err := s.ensureRepo(ctx, q, m.Repo, Proxy)
		if err != nil {
			return err
		}
		refs := refsOf(m.Links)
		for _, f := range refs {
			if f.kind != refBlob {
				continue
			}
			if err := s.grant(ctx, q, r.RepoID, f.Digest, f.Size); err != nil {
				return err
			}
		}
		if err := s.confirmRef(ctx, q, r.RepoID, m.Digest); err != nil {
			return err
		}
		return s.putManifest(ctx, q, r.RepoID, m, refs, 0)
	})
}

type refKind string

const (
	refBlob  refKind = "blob"
	refChild refKind = "child"
)

type ref struct {
	oci.Descriptor
	kind    refKind
	foreign bool // the repository may have it or not: it can be had elsewhere
}

// refsOf lists what a manifest names, but its subject. An index may list what
// is no manifest (buildkit's caches list their layers): that is a blob. Foreign
// layers come last, and not in between: rows have kept the others' positions.
func refsOf(l oci.Links) []ref {
	refs := make([]ref, 0, len(l.Blobs)+len(l.Children)+len(l.Foreign))
	for _, d := range l.Blobs {
		refs = append(refs, ref{Descriptor: d, kind: refBlob})
	}
	for _, d := range l.Children {
		kind := refBlob
		if d.MediaType == "" || oci.IsManifestType(d.MediaType) {
			kind = refChild
		}
		refs = append(refs, ref{Descriptor: d, kind: kind})
	}
	for _, d := range l.Foreign {
		refs = append(refs, ref{Descriptor: d, kind: refBlob, foreign: true})
	}
	return refs
}

// missing lists which refs the repository does not hold, each once, but for
// those that need not be there. What is there cannot go before the transaction
// ends.
func (s *Store) missing(ctx context.Context, q querier, repoID int64, refs []ref) ([]oci.Descriptor, error) {
	var missing []oci.Descriptor
	for _, kind := range []refKind{refBlob, refChild} {
		want, needed := make(map[oci.Digest]oci.Descriptor), make(map[oci.Digest]bool)
		for _, f := range refs {
			if f.kind == kind {
				want[f.Digest] = oci.Descriptor{MediaType: f.MediaType, Digest: f.Digest, Size: f.Size}
				needed[f.Digest] = needed[f.Digest] || !f.foreign
			}
		}
		if len(want) == 0 {
			continue
		}
		list, err := jsonText(slices.Sorted(maps.Keys(want)))
		if err != nil {
			return nil, err
		}
		have, err := s.hold(ctx, q, repoID, kind, list)
		if err != nil {
			return nil, err
		}
		for _, d := range slices.Sorted(maps.Keys(want)) {
			if !have[d] && needed[d] {
				missing = append(missing, want[d])
			}
		}
	}
	return missing, nil
}

// hold says which of some digests the repository has, and keeps them there
// until the transaction ends.
func (s *Store) hold(ctx context.Context, q querier, repoID int64, kind refKind, digests string) (map[oci.Digest]bool, error) {
	if kind == refBlob {
		return s.holdBlobs(ctx, q, repoID, digests)
	}
	rs, err := q.Query(ctx, `
		SELECT m.digest FROM manifests m
		 WHERE m.repo_id = $1 AND m.digest IN (SELECT d.value FROM {each $2} AS d) ORDER BY m.id {for key share of m}`, repoID, digests)
	return collectSet(rs, err)
}

// holdBlobs is hold for blobs: first their rows, waiting for a review that has
// them under its eyes, then, by a statement that sees what it did, the
// repository's grants. Those that were in quarantine are out of it.
func (s *Store) holdBlobs(ctx context.Context, q querier, repoID int64, digests string) (map[oci.Digest]bool, error) {
	rs, err := q.Query(ctx, `
		SELECT b.id, b.digest, b.quarantined_at FROM blobs b
		 WHERE b.digest IN (SELECT d.value FROM {each $1} AS d) AND b.state = 'live' ORDER BY b.id {for key share of b}`, digests)
	live, err := collect(rs, err, func(r row, b *heldBlob) error { return r.Scan(&b.ID, &b.Digest, &b.quarantinedAt) })
	if err != nil {
		return nil, err
	}
	// One by one: in a join either database may read all grants of a repository
	// that it takes for one of ordinary size.
	rs, err = q.Query(ctx, `
		SELECT d.value FROM {each $2} AS d
		 WHERE (SELECT count(*) FROM repo_blobs g WHERE g.repo_id = $1 AND g.blob_digest = d.value) > 0`, repoID, digests)
	granted, err := collectSet(rs, err)
	if err != nil {
		return nil, err
	}
	have := make(map[oci.Digest]bool, len(live))
	for _, b := range live {
		if !granted[b.Digest] {
			continue
		}
		have[b.Digest] = true
		if b.quarantinedAt == 0 {
			continue
		}
		if err := s.revive(ctx, q, b); err != nil {
			return nil, err
		}
	}
	return have, nil
}

func collectSet(rs rows, err error) (map[oci.Digest]bool, error) {
	all, err := collect(rs, err, func(r row, d *oci.Digest) error { return r.Scan(d) })
	set := make(map[oci.Digest]bool, len(all))
	for _, d := range all {
		set[d] = true
	}
	return set, err
}

func (s *Store) putManifest(ctx context.Context, q querier, repoID int64, m NewManifest, refs []ref, lastPullAt int64) error {
	subject, annotations := "", ""
	if m.Links.Subject != nil {
		subject = m.Links.Subject.Digest.String()
	}
	if len(m.Links.Annotations) > 0 {
		var err error
		if annotations, err = jsonText(m.Links.Annotations); err != nil {
			return err
		}
	}
	// The same bytes may come again under another of the types that say the
	// same (OCI's and Docker's): the last one holds. Pushed anew, it is as young
	// as one that was not there ([Store.TrashUntagged]).
	var id, attached int64
	if m.Attached && subject != "" {
		attached = 1
	}
	err := q.QueryRow(ctx, `
		INSERT INTO manifests (repo_id, digest, media_type, artifact_type, subject, annotations, size_bytes, created_at, body, last_pull_at, attached)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
		ON CONFLICT (repo_id, digest) DO UPDATE SET media_type = excluded.media_type, created_at = excluded.created_at,
			attached = manifests.attached * excluded.attached
		RETURNING id`,
		repoID, m.Digest, m.Links.MediaType, m.Links.ArtifactType, subject, annotations, len(m.Body), s.nowMicros(), m.Body, lastPullAt, attached).Scan(&id)
	if err != nil {
		return err
	}
	if err := putRefs(ctx, q, id, refs); err != nil {
		return err
	}
	if m.Tag == "" {
		return nil
	}
	return s.putTag(ctx, q, repoID, Tag{Name: m.Tag, Digest: m.Digest, MediaType: m.Links.MediaType, SizeBytes: int64(len(m.Body))})
}

// putRefs notes what a manifest names, unless all of it stands there: the same
// manifest is pushed under one tag after the other.
func putRefs(ctx context.Context, q querier, manifestID int64, refs []ref) error {
	type column struct {
		Position  int        `json:"position"`
		Kind      refKind    `json:"kind"`
		Digest    oci.Digest `json:"digest"`
		MediaType string     `json:"media_type"`
		SizeBytes int64      `json:"size_bytes"`
	}
	rows := make([]column, len(refs))
	for i, f := range refs {
		rows[i] = column{i, f.kind, f.Digest, f.MediaType, f.Size}
	}
	list, err := jsonText(rows)
	if err != nil {
		return err
	}
	_, err = q.Exec(ctx, `
		INSERT INTO manifest_refs (manifest_id, position, kind, digest, media_type, size_bytes)
		SELECT CAST($1 AS BIGINT), CAST({json d.value} ->> 'position' AS BIGINT), {json d.value} ->> 'kind', {json d.value} ->> 'digest',
		       {json d.value} ->> 'media_type', CAST({json d.value} ->> 'size_bytes' AS BIGINT)
		  FROM {each $2} AS d
		 WHERE (SELECT count(*) FROM manifest_refs f WHERE f.manifest_id = $1) < CAST($3 AS BIGINT)
		ON CONFLICT (manifest_id, position) DO NOTHING`, manifestID, list, len(refs))
	return err
}

// ForgetManifest removes a manifest from a proxy's repository, and the tags
// that point at it: its upstream has it no longer. ErrNotFound: it was not
// there. What users delete goes to the trash, see [Store.DeleteManifest].
func (s *Store) ForgetManifest(ctx context.Context, repo string, d oci.Digest) (err error) {
	defer wrap(&err, "meta.ForgetManifest(%q, %s)", repo, d)
	return s.write(ctx, func(q querier) error {
		n, err := q.Exec(ctx, `
			DELETE FROM manifests WHERE digest = $2 AND repo_id = (SELECT id FROM repos WHERE name = $1)`, repo, d)
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrNotFound
		}
		_, err = q.Exec(ctx, `
			DELETE FROM tags WHERE digest = $2 AND repo_id = (SELECT id FROM repos WHERE name = $1)`, repo, d)
		return err
	})
}

// ConfirmRef notes that an upstream has just confirmed that a digest, of a
// manifest or a blob, can be read in a repository.
func (s *Store) ConfirmRef(ctx context.Context, repoID int64, d oci.Digest) (err error) {
	defer wrap(&err, "meta.ConfirmRef(%d, %s)", repoID, d)
	return s.confirmRef(ctx, s.db, repoID, d)
}

func (s *Store) confirmRef(ctx context.Context, q querier, repoID int64, d oci.Digest) error {
	_, err := q.Exec(ctx, `
		INSERT INTO ref_checks (repo_id, digest, checked_at) VALUES ($1, $2, $3)
		ON CONFLICT (repo_id, digest) DO UPDATE SET checked_at = excluded.checked_at`, repoID, d, s.nowMicros())
	return err
}

// RefChecked is when ConfirmRef was last called for a digest; the zero time
// for never.
func (s *Store) RefChecked(ctx context.Context, repoID int64, d oci.Digest) (at time.Time, err error) {
	defer wrap(&err, "meta.RefChecked(%d, %s)", repoID, d)
	err = s.db.QueryRow(ctx, `
		SELECT checked_at FROM ref_checks WHERE repo_id = $1 AND digest = $2`, repoID, d).Scan(micros{&at})
	if isNoRow(err) {
		return time.Time{}, nil
	}
	return at, err
}
