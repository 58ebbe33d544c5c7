package meta

import (
	"context"
	"errors"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Place is where something was found: a repository, and what of its project
// decides who may see it.
type Place struct {
	RepoID       int64
	ProjectID    int64
	Kind         Kind
	Public       bool           // the project's
	Redirect     Redirect       // the project's
	Visibility   oci.Visibility // the repository's, of a proxy
	VisibilityAt time.Time      // when that was learnt
}

// placeColumns are scanned by [Place.dest]: of repos r and projects p.
const placeColumns = `r.id, p.id, p.kind, p.public, p.redirect, r.visibility, r.visibility_at`

func (p *Place) dest(more ...any) []any {
	return append([]any{&p.RepoID, &p.ProjectID, &p.Kind, &p.Public, &p.Redirect, &p.Visibility, micros{&p.VisibilityAt}}, more...)
}

// Repo is a repository.
type Repo struct {
	Place
	Name       string
	CreatedAt  time.Time
	LastPullAt time.Time
}

// Repo returns a repository by its name, or ErrNotFound.
func (s *Store) Repo(ctx context.Context, name string) (r Repo, err error) {
	defer wrap(&err, "meta.Repo(%q)", name)
	return repo(ctx, s.db, name)
}

func repo(ctx context.Context, q querier, name string) (r Repo, err error) {
	err = q.QueryRow(ctx, `
		SELECT `+placeColumns+`, r.name, r.created_at, r.last_pull_at
		  FROM repos r JOIN projects p ON p.id = r.project_id
		 WHERE r.name = $1`, name).
		Scan(r.dest(&r.Name, micros{&r.CreatedAt}, micros{&r.LastPullAt})...)
	return r, err
}

// Places are those of the repositories that are there, by name.
func (s *Store) Places(ctx context.Context, names []string) (places map[string]Place, err error) {
	defer wrap(&err, "meta.Places(%d names)", len(names))
	list, err := jsonText(append([]string{}, names...)) // none is [], not null
	if err != nil {
		return nil, err
	}
	rs, err := s.db.Query(ctx, `
		SELECT `+placeColumns+`, r.name
		  FROM repos r JOIN projects p ON p.id = r.project_id
		 WHERE r.name IN (SELECT d.value FROM {each $1} AS d)`, list)
	found, err := collect(rs, err, func(r row, one *Repo) error { return r.Scan(one.dest(&one.Name)...) })
	places = make(map[string]Place, len(found))
	for _, r := range found {
		places[r.Name] = r.Place
	}
	return places, err
}

// EnsureRepo returns the repository called name, which it makes when it is not
// there. A local one's project is made too, private; a proxy's must be there,
// else ErrNotFound. ErrOtherKind: the project is of the other kind.
func (s *Store) EnsureRepo(ctx context.Context, name string, kind Kind) (r Repo, err error) {
	defer wrap(&err, "meta.EnsureRepo(%q, %s)", name, kind)
	if r, err = repo(ctx, s.db, name); err == nil {
		return r, r.must(kind)
	}
	err = s.write(ctx, func(q querier) error {
		r, err = s.ensureRepo(ctx, q, name, kind)
		return err
	})
	return r, err
}

// ensureRepo is EnsureRepo within a transaction.
func (s *Store) ensureRepo(ctx context.Context, q querier, name string, kind Kind) (Repo, error) {
	switch r, err := repo(ctx, q, name); {
	case err == nil:
		return r, r.must(kind)
	case !isNoRow(err):
		return Repo{}, err
	}
	project := ProjectName(name)
	if kind == Local {
		_, err := q.Exec(ctx, `
			INSERT INTO projects (name, kind, public, source, created_at) VALUES ($1, 'local', FALSE, 'auto', $2)
			ON CONFLICT (name) DO NOTHING`, project, s.nowMicros())
		if err != nil {
			return Repo{}, err
		}
	}
	_, err := q.Exec(ctx, `
		INSERT INTO repos (project_id, name, created_at)
		SELECT id, $2, $3 FROM projects WHERE name = $1 AND kind = $4
		ON CONFLICT (name) DO NOTHING`, project, name, s.nowMicros(), kind)
	if err != nil {
		return Repo{}, err
	}
	r, err := repo(ctx, q, name)
	if !isNoRow(err) {
		return r, err
	}
	// No project of that name and kind: which of the two is it?
	var other Kind
	if err := q.QueryRow(ctx, `SELECT kind FROM projects WHERE name = $1`, project).Scan(&other); err != nil {
		return Repo{}, err
	}
	return Repo{}, ErrOtherKind
}

// must refuses a repository that is not of the kind meant.
func (p Place) must(kind Kind) error {
	if p.Kind != kind {
		return ErrOtherKind
	}
	return nil
}

// SetVisibility notes what a probe of the upstream has just shown.
func (s *Store) SetVisibility(ctx context.Context, repoID int64, v oci.Visibility) (err error) {
	defer wrap(&err, "meta.SetVisibility(%d, %q)", repoID, v)
	return s.changeOne(ctx, `UPDATE repos SET visibility = $2, visibility_at = $3 WHERE id = $1`, repoID, v, s.nowMicros())
}

// RepoFilter narrows a list of repositories; its zero value does not.
type RepoFilter struct {
	Kind    Kind
	Project string
}

// Repositories lists up to n names of repositories that hold a manifest,
// beginning after last.
func (s *Store) Repositories(ctx context.Context, f RepoFilter, n int, last string) (names []string, more bool, err error) {
	defer wrap(&err, "meta.Repositories(%v, %d, %q)", f, n, last)
	rs, err := s.db.Query(ctx, `
		SELECT r.name FROM repos r JOIN projects p ON p.id = r.project_id
		 WHERE r.name > $1 AND ($2 = '' OR p.kind = $2) AND ($3 = '' OR p.name = $3)
		   AND EXISTS (SELECT 1 FROM manifests m WHERE m.repo_id = r.id)
		 ORDER BY r.name LIMIT $4`, last, f.Kind, f.Project, n+1)
	names, err = collect(rs, err, func(r row, name *string) error { return r.Scan(name) })
	names, more = page(names, n)
	return names, more, err
}

// ReposWithBlob lists up to n local repositories that hold a blob, its bytes
// being here. Those of the project come first: who pushes there is likely to
// be allowed to read them.
func (s *Store) ReposWithBlob(ctx context.Context, d oci.Digest, project string, n int) (names []string, err error) {
	defer wrap(&err, "meta.ReposWithBlob(%s, %q, %d)", d, project, n)
	rs, err := s.db.Query(ctx, `
		SELECT r.name FROM repo_blobs g
		  JOIN blobs b ON b.digest = g.blob_digest AND b.state = 'live'
		  JOIN repos r ON r.id = g.repo_id JOIN projects p ON p.id = r.project_id
		 WHERE g.blob_digest = $1 AND p.kind = 'local'
		 ORDER BY CASE WHEN p.name = $2 THEN 0 ELSE 1 END, r.name LIMIT $3`, d, project, n)
	return collect(rs, err, func(r row, name *string) error { return r.Scan(name) })
}

func isNoRow(err error) bool { return errors.Is(err, errNoRow) }
