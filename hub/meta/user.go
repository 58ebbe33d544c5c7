package meta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// ErrLastAdmin refuses a change that would leave the hub without an admin who
// can sign in.
var ErrLastAdmin = errors.New("the last admin cannot be removed")

// User is a person that this hub itself knows.
type User struct {
	ID           int64
	Name         string
	PasswordHash string // as hub/identity writes it
	Admin        bool
	Disabled     bool
	Rights       []oci.Right
	CreatedAt    time.Time
}

// governs says that the user can sign in and do everything.
func (u User) governs() bool { return u.Admin && !u.Disabled }

func scanUser(r row, u *User) error {
	return r.Scan(&u.ID, &u.Name, &u.PasswordHash, &u.Admin, &u.Disabled, rights{&u.Rights}, micros{&u.CreatedAt})
}

// User returns a user by name, or ErrNotFound.
func (s *Store) User(ctx context.Context, name string) (u User, err error) {
	defer wrap(&err, "meta.User(%q)", name)
	err = scanUser(s.db.QueryRow(ctx, `
		SELECT id, name, password_hash, admin, disabled, rights, created_at FROM users WHERE name = $1`, name), &u)
	return u, err
}

// Users lists up to n users by name, beginning after last.
func (s *Store) Users(ctx context.Context, n int, last string) (all []User, more bool, err error) {
	defer wrap(&err, "meta.Users(%d, %q)", n, last)
	rs, err := s.db.Query(ctx, `
		SELECT id, name, password_hash, admin, disabled, rights, created_at
		  FROM users WHERE name > $1 ORDER BY name LIMIT $2`, last, n+1)
	all, err = collect(rs, err, scanUser)
	all, more = page(all, n)
	return all, more, err
}

// PutUser makes the user called u.Name, or sets its password hash and whether
// it is an admin. A user that is there keeps its rights, and can sign in again.
func (s *Store) PutUser(ctx context.Context, u User) (err error) {
	defer wrap(&err, "meta.PutUser(%q)", u.Name)
	_, err = s.db.Exec(ctx, `
		INSERT INTO users (name, password_hash, admin, created_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (name) DO UPDATE SET password_hash = excluded.password_hash, admin = excluded.admin, disabled = FALSE`,
		u.Name, u.PasswordHash, u.Admin, s.nowMicros())
	return err
}

// CreateUser makes a user; ErrConflict when one is called so.
func (s *Store) CreateUser(ctx context.Context, u User) (err error) {
	defer wrap(&err, "meta.CreateUser(%q)", u.Name)
	text, err := rightsText(u.Rights)
	if err != nil {
		return err
	}
	n, err := s.db.Exec(ctx, `
		INSERT INTO users (name, password_hash, admin, disabled, rights, created_at) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (name) DO NOTHING`,
		u.Name, u.PasswordHash, u.Admin, u.Disabled, text, s.nowMicros())
	if err == nil && n == 0 {
		return ErrConflict
	}
	return err
}

// ChangeUser lets change alter a user, all but its ID and name, while nobody
// else does; an error of change ends it. It returns the user as it is then,
// ErrNotFound, or ErrLastAdmin. change may be called more than once, each time
// with what is stored.
func (s *Store) ChangeUser(ctx context.Context, name string, change func(*User) error) (u User, err error) {
	defer wrap(&err, "meta.ChangeUser(%q)", name)
	err = s.write(ctx, func(q querier) error {
		admins, err := lockAdmins(ctx, q)
		if err != nil {
			return err
		}
		u = User{}
		if err := lockUser(ctx, q, name, &u); err != nil {
			return err
		}
		was, id := u, u.ID
		if err := change(&u); err != nil {
			return err
		}
		if was.governs() && !u.governs() && admins < 2 {
			return ErrLastAdmin
		}
		text, err := rightsText(u.Rights)
		if err != nil {
			return err
		}
		_, err = q.Exec(ctx, `
			UPDATE users SET password_hash = $2, admin = $3, disabled = $4, rights = $5 WHERE id = $1`,
			id, u.PasswordHash, u.Admin, u.Disabled, text)
		return err
	})
	return u, err
}

// DeleteUser removes a user: ErrNotFound, ErrLastAdmin.
func (s *Store) DeleteUser(ctx context.Context, name string) (err error) {
	defer wrap(&err, "meta.DeleteUser(%q)", name)
	return s.write(ctx, func(q querier) error {
		admins, err := lockAdmins(ctx, q)
		if err != nil {
			return err
		}
		var u User
		if err := lockUser(ctx, q, name, &u); err != nil {
			return err
		}
		if u.governs() && admins < 2 {
			return ErrLastAdmin
		}
		_, err = q.Exec(ctx, `DELETE FROM users WHERE id = $1`, u.ID)
		return err
	})
}

// lockAdmins counts the admins who can sign in, and keeps them so: of two
// transactions that each remove another one, the second waits and counts anew.
func lockAdmins(ctx context.Context, q querier) (int, error) {
	rs, err := q.Query(ctx, `SELECT id FROM users WHERE admin AND NOT disabled ORDER BY id {for update}`)
	ids, err := collect(rs, err, func(r row, id *int64) error { return r.Scan(id) })
	return len(ids), err
}

func lockUser(ctx context.Context, q querier, name string, u *User) error {
	return scanUser(q.QueryRow(ctx, `
		SELECT id, name, password_hash, admin, disabled, rights, created_at FROM users WHERE name = $1 {for update}`, name), u)
}

// rights scans the JSON text of rights; none is nil.
type rights struct{ to *[]oci.Right }

// Scan implements sql.Scanner.
func (r rights) Scan(v any) error {
	text, ok := v.(string)
	if !ok {
		return fmt.Errorf("rights are stored as %T", v)
	}
	var all []oci.Right
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return fmt.Errorf("rights: %w", err)
	}
	if len(all) == 0 {
		all = nil
	}
	*r.to = all
	return nil
}

func rightsText(all []oci.Right) (string, error) {
	return jsonText(append([]oci.Right{}, all...)) // none is [], not null
}
