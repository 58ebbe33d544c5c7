package meta

import (
	"context"
	"errors"

	"github.com/google/uuid"
)

// Fact returns what was last noted under a name, or ErrNotFound.
func (s *Store) Fact(ctx context.Context, name string) (value string, err error) {
	defer wrap(&err, "meta.Fact(%q)", name)
	err = s.db.QueryRow(ctx, `SELECT value FROM facts WHERE name = $1`, name).Scan(&value)
	return value, err
}

// SetFact notes something of the whole hub under a name.
func (s *Store) SetFact(ctx context.Context, name, value string) (err error) {
	defer wrap(&err, "meta.SetFact(%q)", name)
	_, err = s.db.Exec(ctx, `
		INSERT INTO facts (name, value, updated_at) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at`,
		name, value, s.nowMicros())
	return err
}

// IDFact is the name of what [Store.ID] gives; there is none before it is asked
// for, and after a restore.
const IDFact = "id"

// ID is the database's own id, a UUID: all hubs on it are given the same, and
// one that was restored from its backup another.
func (s *Store) ID(ctx context.Context) (id string, err error) {
	defer wrap(&err, "meta.ID")
	if id, err = s.Fact(ctx, IDFact); !errors.Is(err, ErrNotFound) {
		return id, err
	}
	_, err = s.db.Exec(ctx, `
		INSERT INTO facts (name, value, updated_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING`,
		IDFact, uuid.NewString(), s.nowMicros())
	if err != nil {
		return "", err
	}
	return s.Fact(ctx, IDFact)
}
