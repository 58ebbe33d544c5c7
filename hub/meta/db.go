package meta

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"
)

// querier runs statements. A text given to it is a constant of this package:
// implementations keep what they prepared for it.
type querier interface {
	// Exec tells how many rows it changed.
	Exec(ctx context.Context, query string, args ...any) (int64, error)
	Query(ctx context.Context, query string, args ...any) (rows, error)
	QueryRow(ctx context.Context, query string, args ...any) row
}

// db is a database. Outside of a transaction Query and QueryRow only read; a
// write that returns rows runs in a transaction.
type db interface {
	querier
	Begin(ctx context.Context) (tx, error)
	// Plain runs fn with a pool as database/sql knows it, while nobody else
	// writes: for migrations.
	Plain(ctx context.Context, fn func(*sql.DB) error) error
	Close() error
}

// tx is a transaction. Rollback after Commit does nothing.
type tx interface {
	querier
	Commit(ctx context.Context) error
	Rollback(ctx context.Context)
}

type row interface{ Scan(dest ...any) error }

type rows interface {
	row
	Next() bool
	Err() error
	Close() error
}

// write runs fn in a transaction, which holds when fn returns nil.
func (s *Store) write(ctx context.Context, fn func(q querier) error) error {
	t, err := s.db.Begin(ctx)
	if err != nil {
		return err
	}
	defer t.Rollback(ctx)
	if err := fn(t); err != nil {
		return err
	}
	return t.Commit(ctx)
}

// collect reads all rows of a query. scan fills v from one row.
func collect[T any](rs rows, err error, scan func(r row, v *T) error) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer rs.Close()
	var all []T
	for rs.Next() {
		var v T
		if err := scan(rs, &v); err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rs.Err()
}

// page cuts off the row that was asked for beyond the page: that there is one
// says that more follows.
func page[T any](all []T, n int) ([]T, bool) {
	if len(all) > n {
		return all[:n], true
	}
	return all, false
}

// micros scans microseconds since 1970; 0, never, is the zero time.
type micros struct{ t *time.Time }

// Scan implements sql.Scanner.
func (m micros) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("a time is stored as %T", v)
	}
	*m.t = time.Time{}
	if n != 0 {
		*m.t = time.UnixMicro(n).UTC()
	}
	return nil
}

func usec(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// jsonText is v as a JSON text.
func jsonText(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// errNoRow is what a row scans to when there is none.
var errNoRow = sql.ErrNoRows
