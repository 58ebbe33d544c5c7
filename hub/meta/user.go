package meta

import (
	"context"
	"time"
)

// User is a person that this hub itself knows.
type User struct {
	ID           int64
	Name         string
	PasswordHash string // as hub/identity writes it
	Admin        bool
	CreatedAt    time.Time
}

// User returns a user by name, or ErrNotFound.
func (s *Store) User(ctx context.Context, name string) (u User, err error) {
	defer wrap(&err, "meta.User(%q)", name)
	err = s.db.QueryRow(ctx, `
		SELECT id, name, password_hash, admin, created_at FROM users WHERE name = $1`, name).
		Scan(&u.ID, &u.Name, &u.PasswordHash, &u.Admin, micros{&u.CreatedAt})
	return u, err
}

// PutUser makes the user called u.Name, or sets its password hash and whether
// it is an admin.
func (s *Store) PutUser(ctx context.Context, u User) (err error) {
	defer wrap(&err, "meta.PutUser(%q)", u.Name)
	_, err = s.db.Exec(ctx, `
		INSERT INTO users (name, password_hash, admin, created_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (name) DO UPDATE SET password_hash = excluded.password_hash, admin = excluded.admin`,
		u.Name, u.PasswordHash, u.Admin, s.nowMicros())
	return err
}
