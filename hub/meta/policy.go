package meta

import (
	"context"
	"fmt"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// PolicySource is where a policy document came from.
type PolicySource string

// A document is the configured file's, or was set through the API.
const (
	PolicyFile PolicySource = "file"
	PolicyAPI  PolicySource = "api"
)

// Policy is a policy document that is or was in use.
type Policy struct {
	Revision  int64
	Epoch     int64 // of the sealed policy: greater than that of each before, see policyEpochs
	Digest    oci.Digest
	Source    PolicySource
	Author    string // who set it; "" for a file's
	Text      string // as it was given
	Body      string // as it is judged by: JSON, trusted roots inside
	CreatedAt time.Time
}

// PolicyTopic is notified when another document is in use.
const PolicyTopic = "policy"

// keepPolicies is how many documents are kept.
const keepPolicies = 200

const policyColumns = `revision, epoch, digest, source, author, text, body, created_at`

func scanPolicy(r row, p *Policy) error {
	return r.Scan(&p.Revision, &p.Epoch, &p.Digest, &p.Source, &p.Author, &p.Text, &p.Body, micros{&p.CreatedAt})
}

// Policy is the document in use, or ErrNotFound.
func (s *Store) Policy(ctx context.Context) (p Policy, err error) {
	defer wrap(&err, "meta.Policy")
	err = scanPolicy(s.db.QueryRow(ctx, `SELECT `+policyColumns+` FROM policies WHERE id > 0 ORDER BY id DESC LIMIT 1`), &p)
	return p, err
}

// RevisionError says that a document was not taken because its revision is not
// greater than that of the one in use.
type RevisionError struct {
	Revision, InUse int64
}

func (e *RevisionError) Error() string {
	return fmt.Sprintf("revision %d is in use; a document with other content needs a greater one, this one says %d", e.InUse, e.Revision)
}

// Unwrap makes it an ErrConflict.
func (e *RevisionError) Unwrap() error { return ErrConflict }

// policyEpochs is how many epochs of policies there are in one of the hub's: the
// first after a restore is greater than those that were given out after the
// backup, which nodes may hold. For a revision, which one before a restore may
// be, is less than 10¹⁵ (package policy sees to it), and one after it at least the
// time in microseconds, which is more since 2001.
const policyEpochs = 1_000_000

// PutPolicy puts a document to use, and returns it with its epoch. The one in
// use already stays as it is; another needs a greater revision, else it is a
// [*RevisionError].
func (s *Store) PutPolicy(ctx context.Context, n Policy) (p Policy, err error) {
	defer wrap(&err, "meta.PutPolicy(%d)", n.Revision)
	err = s.write(ctx, func(q querier) error {
		var now Policy
		err := scanPolicy(q.QueryRow(ctx, `SELECT `+policyColumns+` FROM policies WHERE id > 0 ORDER BY id DESC LIMIT 1 {for update}`), &now)
		switch {
		case err != nil && !isNoRow(err):
			return err
		case err == nil && now.Digest == n.Digest:
			p = now
			return nil
		case err == nil && n.Revision <= now.Revision:
			return &RevisionError{n.Revision, now.Revision}
		}
		hub, err := epochOf(ctx, q)
		if err != nil {
			return err
		}
		p = n
		p.Epoch, p.CreatedAt = max(now.Epoch+1, n.Revision, hub*policyEpochs), s.now().UTC().Truncate(time.Microsecond)
		_, err = q.Exec(ctx, `
			INSERT INTO policies (revision, epoch, digest, source, author, text, body, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			p.Revision, p.Epoch, p.Digest, p.Source, p.Author, p.Text, p.Body, usec(p.CreatedAt))
		if err != nil {
			return err
		}
		_, err = q.Exec(ctx, `
			DELETE FROM policies WHERE id <= (SELECT id FROM policies WHERE id > 0 ORDER BY id DESC LIMIT 1 OFFSET $1)`, keepPolicies)
		if err != nil {
			return err
		}
		return q.Notify(ctx, PolicyTopic)
	})
	return p, err
}

// ManifestsNaming lists up to n manifests of a repository that name d: images a
// blob, with child indexes a manifest. The latest come first.
func (s *Store) ManifestsNaming(ctx context.Context, repo string, d oci.Digest, child bool, n int) (all []oci.Digest, err error) {
	defer wrap(&err, "meta.ManifestsNaming(%q, %s)", repo, d)
	kind := "blob"
	if child {
		kind = "child"
	}
	rs, err := s.db.Query(ctx, `
		SELECT m.digest, m.id FROM manifest_refs f JOIN manifests m ON m.id = f.manifest_id JOIN repos r ON r.id = m.repo_id
		 WHERE f.digest = $1 AND f.kind = $2 AND r.name = $3
		 GROUP BY m.digest, m.id ORDER BY m.id DESC LIMIT $4`, d, kind, repo, n)
	return collect(rs, err, func(r row, m *oci.Digest) error { var id int64; return r.Scan(m, &id) })
}

// ManifestDigests lists up to n manifests of a repository that are about no
// other, beginning after last.
func (s *Store) ManifestDigests(ctx context.Context, repo string, n int, last oci.Digest) (all []oci.Digest, more bool, err error) {
	defer wrap(&err, "meta.ManifestDigests(%q, %d, %q)", repo, n, last)
	rs, err := s.db.Query(ctx, `
		SELECT m.digest FROM repos r JOIN manifests m ON m.repo_id = r.id
		 WHERE r.name = $1 AND m.digest > $2 AND m.subject = '' ORDER BY m.digest LIMIT $3`, repo, last, n+1)
	all, err = collect(rs, err, func(r row, d *oci.Digest) error { return r.Scan(d) })
	all, more = page(all, n)
	return all, more, err
}
