package meta

import (
	"context"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Robot is a program that this hub knows.
type Robot struct {
	ID          int64
	Name        string // without robot$
	Description string
	SecretHash  string // as hub/identity writes it
	Rights      []oci.Right
	Disabled    bool
	CreatedBy   string
	CreatedAt   time.Time
	ExpiresAt   time.Time // zero: never
	LastUsedAt  time.Time // zero: never; some seconds late
}

func scanRobot(r row, b *Robot) error {
	return r.Scan(&b.ID, &b.Name, &b.Description, &b.SecretHash, rights{&b.Rights}, &b.Disabled, &b.CreatedBy,
		micros{&b.CreatedAt}, micros{&b.ExpiresAt}, micros{&b.LastUsedAt})
}

// Robot returns a robot by name, or ErrNotFound.
func (s *Store) Robot(ctx context.Context, name string) (b Robot, err error) {
	defer wrap(&err, "meta.Robot(%q)", name)
	err = scanRobot(s.db.QueryRow(ctx, `
		SELECT id, name, description, secret_hash, rights, disabled, created_by, created_at, expires_at, last_used_at
		  FROM robots WHERE name = $1`, name), &b)
	return b, err
}

// Robots lists up to n robots by name, beginning after last.
func (s *Store) Robots(ctx context.Context, n int, last string) (all []Robot, more bool, err error) {
	defer wrap(&err, "meta.Robots(%d, %q)", n, last)
	rs, err := s.db.Query(ctx, `
		SELECT id, name, description, secret_hash, rights, disabled, created_by, created_at, expires_at, last_used_at
		  FROM robots WHERE name > $1 ORDER BY name LIMIT $2`, last, n+1)
	all, err = collect(rs, err, scanRobot)
	all, more = page(all, n)
	return all, more, err
}

// CreateRobot makes a robot and returns it as stored; ErrConflict when one is
// called so.
func (s *Store) CreateRobot(ctx context.Context, b Robot) (out Robot, err error) {
	defer wrap(&err, "meta.CreateRobot(%q)", b.Name)
	text, err := rightsText(b.Rights)
	if err != nil {
		return Robot{}, err
	}
	err = s.write(ctx, func(q querier) error {
		n, err := q.Exec(ctx, `
			INSERT INTO robots (name, description, secret_hash, rights, disabled, created_by, created_at, expires_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT (name) DO NOTHING`,
			b.Name, b.Description, b.SecretHash, text, b.Disabled, b.CreatedBy, s.nowMicros(), usec(b.ExpiresAt))
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrConflict
		}
		out = Robot{}
		return lockRobot(ctx, q, b.Name, &out)
	})
	return out, err
}

// ChangeRobot lets change alter a robot's description, secret, rights, end and
// whether it is disabled, while nobody else does; an error of change ends it.
// It returns the robot as it is then, or ErrNotFound. change may be called more
// than once, each time with what is stored.
func (s *Store) ChangeRobot(ctx context.Context, name string, change func(*Robot) error) (b Robot, err error) {
	defer wrap(&err, "meta.ChangeRobot(%q)", name)
	err = s.write(ctx, func(q querier) error {
		b = Robot{}
		if err := lockRobot(ctx, q, name, &b); err != nil {
			return err
		}
		id := b.ID
		if err := change(&b); err != nil {
			return err
		}
		text, err := rightsText(b.Rights)
		if err != nil {
			return err
		}
		_, err = q.Exec(ctx, `
			UPDATE robots SET description = $2, secret_hash = $3, rights = $4, disabled = $5, expires_at = $6 WHERE id = $1`,
			id, b.Description, b.SecretHash, text, b.Disabled, usec(b.ExpiresAt))
		return err
	})
	return b, err
}

// DeleteRobot removes a robot, or returns ErrNotFound.
func (s *Store) DeleteRobot(ctx context.Context, name string) (err error) {
	defer wrap(&err, "meta.DeleteRobot(%q)", name)
	return s.changeOne(ctx, `DELETE FROM robots WHERE name = $1`, name)
}

func lockRobot(ctx context.Context, q querier, name string, b *Robot) error {
	return scanRobot(q.QueryRow(ctx, `
		SELECT id, name, description, secret_hash, rights, disabled, created_by, created_at, expires_at, last_used_at
		  FROM robots WHERE name = $1 {for update}`, name), b)
}

// RobotUsed notes that a robot signed in now, as [Store.Touch] does for blobs.
func (s *Store) RobotUsed(id int64) {
	s.touched.add(s.nowMicros(), touched{touchRobot, id})
}
