package meta

import (
	"context"
	"strings"
	"time"
)

// Kind says what a project's repositories are.
type Kind string

// The kinds of project.
const (
	Local Kind = "local" // images are pushed to it
	Proxy Kind = "proxy" // images are an upstream's
)

// Source says who made a project.
type Source string

// The sources of projects.
const (
	FromFile Source = "file" // the configuration
	FromAPI  Source = "api"  // a person
	FromPush Source = "auto" // a push to a name that was free
)

// Redirect says whether clients fetch blobs from the storage directly.
type Redirect string

// The ways of redirecting.
const (
	RedirectDefault Redirect = "" // as the hub is configured
	RedirectOn      Redirect = "on"
	RedirectOff     Redirect = "off"
)

// Project is a namespace of repositories: the first segment of their names.
type Project struct {
	ID        int64
	Name      string
	Kind      Kind
	Public    bool
	Redirect  Redirect
	Source    Source
	CreatedAt time.Time
}

// ProjectName is the name of the project a repository is in.
func ProjectName(repo string) string {
	name, _, _ := strings.Cut(repo, "/")
	return name
}

func scanProject(r row, p *Project) error {
	return r.Scan(&p.ID, &p.Name, &p.Kind, &p.Public, &p.Redirect, &p.Source, micros{&p.CreatedAt})
}

// Project returns a project by its name, or ErrNotFound.
func (s *Store) Project(ctx context.Context, name string) (p Project, err error) {
	defer wrap(&err, "meta.Project(%q)", name)
	err = project(ctx, s.db, name, &p)
	return p, err
}

func project(ctx context.Context, q querier, name string, p *Project) error {
	return scanProject(q.QueryRow(ctx, `
		SELECT id, name, kind, public, redirect, source, created_at FROM projects WHERE name = $1`, name), p)
}

// Projects lists up to n projects by name, beginning after last.
func (s *Store) Projects(ctx context.Context, n int, last string) (all []Project, more bool, err error) {
	defer wrap(&err, "meta.Projects(%d, %q)", n, last)
	rs, err := s.db.Query(ctx, `
		SELECT id, name, kind, public, redirect, source, created_at
		  FROM projects WHERE name > $1 ORDER BY name LIMIT $2`, last, n+1)
	all, err = collect(rs, err, scanProject)
	all, more = page(all, n)
	return all, more, err
}

// PutProject makes the project called p.Name, or sets its Public and Source, and
// its Redirect where p has one: the configuration of a proxy says nothing of it.
// It returns the row, or ErrOtherKind when the name is one of the other kind.
func (s *Store) PutProject(ctx context.Context, p Project) (out Project, err error) {
	defer wrap(&err, "meta.PutProject(%q)", p.Name)
	err = s.write(ctx, func(q querier) error {
		n, err := q.Exec(ctx, `
			INSERT INTO projects (name, kind, public, redirect, source, created_at) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (name) DO UPDATE SET public = excluded.public, source = excluded.source,
			       redirect = CASE WHEN excluded.redirect = '' THEN projects.redirect ELSE excluded.redirect END
			 WHERE projects.kind = excluded.kind`,
			p.Name, p.Kind, p.Public, p.Redirect, p.Source, s.nowMicros())
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrOtherKind
		}
		return project(ctx, q, p.Name, &out)
	})
	return out, err
}

// ProjectChange is what is to be set of a project; nil leaves it as it is.
type ProjectChange struct {
	Public   *bool
	Redirect *Redirect
}

// ChangeProject changes what is given of a local project, or makes it: private,
// and with RedirectDefault, where nothing else is said. It returns the row, or
// ErrOtherKind when the name is a proxy's.
func (s *Store) ChangeProject(ctx context.Context, name string, c ProjectChange) (out Project, err error) {
	defer wrap(&err, "meta.ChangeProject(%q)", name)
	err = s.write(ctx, func(q querier) error {
		n, err := q.Exec(ctx, `
			INSERT INTO projects (name, kind, public, redirect, source, created_at)
			VALUES ($1, 'local', COALESCE($2, FALSE), COALESCE($3, ''), 'api', $4)
			ON CONFLICT (name) DO UPDATE SET public = COALESCE($2, projects.public), redirect = COALESCE($3, projects.redirect), source = 'api'
			 WHERE projects.kind = 'local'`, name, c.Public, c.Redirect, s.nowMicros())
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrOtherKind
		}
		return project(ctx, q, name, &out)
	})
	return out, err
}

// SetRedirect sets how clients fetch the blobs of a project that is there, of
// either kind, and returns the row; ErrNotFound when it is not.
func (s *Store) SetRedirect(ctx context.Context, name string, r Redirect) (out Project, err error) {
	defer wrap(&err, "meta.SetRedirect(%q, %q)", name, r)
	err = s.write(ctx, func(q querier) error {
		if _, err := q.Exec(ctx, `UPDATE projects SET redirect = $2 WHERE name = $1`, name, r); err != nil {
			return err
		}
		return project(ctx, q, name, &out)
	})
	return out, err
}

// SetPublic makes a project public or private, at once for all its images.
func (s *Store) SetPublic(ctx context.Context, name string, public bool) (err error) {
	defer wrap(&err, "meta.SetPublic(%q)", name)
	return s.changeOne(ctx, `UPDATE projects SET public = $2 WHERE name = $1`, name, public)
}

// changeOne runs a statement that is to change a row; ErrNotFound when it did not.
func (s *Store) changeOne(ctx context.Context, query string, args ...any) error {
	n, err := s.db.Exec(ctx, query, args...)
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return err
}
