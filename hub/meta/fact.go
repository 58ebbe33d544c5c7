package meta

import "context"

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
