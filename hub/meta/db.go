package meta

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pressly/goose/v3"
)

// querier runs statements. A text given to it is a constant of this package:
// implementations keep what they prepared for it.
type querier interface {
	// Exec tells how many rows it changed.
	Exec(ctx context.Context, query string, args ...any) (int64, error)
	Query(ctx context.Context, query string, args ...any) (rows, error)
	QueryRow(ctx context.Context, query string, args ...any) row
	// Notify tells those who listen of a topic: in a transaction, once what it
	// wrote can be seen.
	Notify(ctx context.Context, topic string) error
}

// db is a database. Outside of a transaction Exec is done again when it lost
// against another one. Query and QueryRow are for look-ups there: they are done
// again when the connection breaks, too, and of SQLite they cannot write. A write that returns rows runs in a transaction, or is one that
// may happen twice.
type db interface {
	querier
	Begin(ctx context.Context) (tx, error)
	// Listen calls fn with each topic of a Notify until ctx ends; with "" when
	// some may have been missed, and at its start.
	Listen(ctx context.Context, fn func(topic string)) error
	// Schema is a migration's text as this database spells it.
	Schema(text string) string
	// Migrations runs fn with what applies and lists migrations, while no other
	// process does so.
	Migrations(ctx context.Context, fn func(*goose.Provider) error) error
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

// write runs fn in a transaction, which holds when fn returns nil. When the
// database broke it off for a reason that will pass, such as a deadlock, fn is
// run again in another: it sets its results afresh each time. What fn is given
// is not to be used after a statement failed, but for returning the error.
func (s *Store) write(ctx context.Context, fn func(q querier) error) error {
	return again(ctx, func() error { return s.transact(ctx, fn) })
}

// writeLoosely is write without waiting for the disk: a crash of the database
// may undo it.
func (s *Store) writeLoosely(ctx context.Context, fn func(q querier) error) error {
	return s.write(ctx, func(q querier) error {
		var loose bool
		if err := q.QueryRow(ctx, `SELECT {loose}`).Scan(&loose); err != nil {
			return err
		}
		return fn(q)
	})
}

func (s *Store) transact(ctx context.Context, fn func(q querier) error) error {
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

// attempts is how often a transaction is begun anew, and a look-up is repeated.
const attempts = 5

// again runs try until it does well, or fails for a reason that will not pass.
func again(ctx context.Context, try func() error) error { return againIf(ctx, passes, try) }

func againIf(ctx context.Context, passes func(error) bool, try func() error) error {
	for i := range attempts - 1 {
		err := try()
		if err == nil || ctx.Err() != nil || !passes(err) {
			return err
		}
		// Two that were in each other's way are not to meet again.
		pause := time.NewTimer(rand.N(10 * time.Millisecond << i))
		select {
		case <-ctx.Done():
			pause.Stop()
			return err
		case <-pause.C:
		}
	}
	return try()
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
