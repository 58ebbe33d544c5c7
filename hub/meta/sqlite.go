package meta

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"sync"

	"golang.org/x/sync/semaphore"
)

// sqliteDB is a SQLite file: a pool of connections that only read, and one
// that writes. Readers never wait for the writer (write-ahead log). Writers
// queue for their turn here, first come first served, rather than each trying
// again and again for SQLite's own lock.
type sqliteDB struct {
	readers *sql.DB
	stmts   sync.Map // text → *sql.Stmt of readers

	turn   *semaphore.Weighted
	writer *sql.DB // one connection
	// The rest belongs to who has the turn.
	conn   *sql.Conn // nil until needed, and after it broke
	wstmts map[string]*sql.Stmt
}

// sqliteURI is the driver's name for the file at path, an absolute one.
//
// synchronous FULL makes a commit wait for the disk: what was acknowledged
// survives a power failure. The log is cut back after it has grown.
func sqliteURI(path string, pragmas ...string) string {
	q := url.Values{"_pragma": append([]string{
		"busy_timeout(10000)", // for others' tools, such as a backup
		"synchronous(FULL)",
		"foreign_keys(ON)",
		"journal_size_limit(67108864)",
	}, pragmas...)}
	u := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
	return u.String()
}

func openSQLite(ctx context.Context, path string) (*sqliteDB, error) {
	writer, err := sql.Open("sqlite", sqliteURI(path, "journal_mode(WAL)"))
	if err != nil {
		return nil, err
	}
	writer.SetMaxOpenConns(1)
	readers, err := sql.Open("sqlite", sqliteURI(path, "query_only(ON)"))
	if err != nil {
		return nil, errors.Join(err, writer.Close())
	}
	n := max(4, runtime.GOMAXPROCS(0))
	readers.SetMaxOpenConns(n)
	readers.SetMaxIdleConns(n)
	d := &sqliteDB{readers: readers, writer: writer, turn: semaphore.NewWeighted(1)}
	// The writer first: it makes the log that readers look for.
	if err := errors.Join(writer.PingContext(ctx), readers.PingContext(ctx)); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Close waits for the writer's turn to end.
func (d *sqliteDB) Close() error {
	if err := d.turn.Acquire(context.Background(), 1); err != nil {
		return err
	}
	defer d.turn.Release(1)
	d.drop()
	// Readers first: the last to go folds the log into the file, and they may not write.
	return errors.Join(d.readers.Close(), d.writer.Close())
}

// readStmt is the statement for a text, prepared on first use.
func (d *sqliteDB) readStmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if st, ok := d.stmts.Load(query); ok {
		return st.(*sql.Stmt), nil
	}
	st, err := d.readers.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	if first, loaded := d.stmts.LoadOrStore(query, st); loaded {
		st.Close()
		return first.(*sql.Stmt), nil
	}
	return st, nil
}

func (d *sqliteDB) Query(ctx context.Context, query string, args ...any) (rows, error) {
	st, err := d.readStmt(ctx, query)
	if err != nil {
		return nil, err
	}
	return st.QueryContext(ctx, args...)
}

// QueryRow does not end with ctx: a look-up is shorter than what it takes the
// driver to watch for that.
func (d *sqliteDB) QueryRow(ctx context.Context, query string, args ...any) row {
	if err := ctx.Err(); err != nil {
		return failedRow{err}
	}
	ctx = context.WithoutCancel(ctx)
	st, err := d.readStmt(ctx, query)
	if err != nil {
		return failedRow{err}
	}
	return st.QueryRowContext(ctx, args...)
}

func (d *sqliteDB) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	if err := d.turn.Acquire(ctx, 1); err != nil {
		return 0, err
	}
	defer d.turn.Release(1)
	return (&sqliteTx{d}).Exec(ctx, query, args...)
}

func (d *sqliteDB) Begin(ctx context.Context) (tx, error) {
	if err := d.turn.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	t := &sqliteTx{d}
	if _, err := t.Exec(ctx, `BEGIN IMMEDIATE`); err != nil {
		d.turn.Release(1)
		return nil, err
	}
	return t, nil
}

// exclusively runs fn while nobody else writes.
func (d *sqliteDB) exclusively(ctx context.Context, fn func() error) error {
	if err := d.turn.Acquire(ctx, 1); err != nil {
		return err
	}
	defer d.turn.Release(1)
	return fn()
}

// drop forgets the writing connection; the next writer makes another.
func (d *sqliteDB) drop() {
	for _, st := range d.wstmts {
		st.Close()
	}
	if d.conn != nil {
		d.conn.Close()
	}
	d.conn, d.wstmts = nil, nil
}

// writeStmt is readStmt for who has the turn.
func (d *sqliteDB) writeStmt(ctx context.Context, query string) (st *sql.Stmt, err error) {
	if d.conn == nil {
		if d.conn, err = d.writer.Conn(ctx); err != nil {
			return nil, err
		}
		d.wstmts = make(map[string]*sql.Stmt)
	}
	if st = d.wstmts[query]; st != nil {
		return st, nil
	}
	if st, err = d.conn.PrepareContext(ctx, query); err != nil {
		return nil, err
	}
	d.wstmts[query] = st
	return st, nil
}

// sqliteTx is the writer's turn. Its statements are short and are not
// interrupted half-way; a context that ended keeps it from committing.
type sqliteTx struct{ d *sqliteDB } // d is nil once it has ended

func (t *sqliteTx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	ctx = context.WithoutCancel(ctx)
	st, err := t.d.writeStmt(ctx, query)
	if err != nil {
		return 0, err
	}
	res, err := st.ExecContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (t *sqliteTx) Query(ctx context.Context, query string, args ...any) (rows, error) {
	ctx = context.WithoutCancel(ctx)
	st, err := t.d.writeStmt(ctx, query)
	if err != nil {
		return nil, err
	}
	return st.QueryContext(ctx, args...)
}

func (t *sqliteTx) QueryRow(ctx context.Context, query string, args ...any) row {
	ctx = context.WithoutCancel(ctx)
	st, err := t.d.writeStmt(ctx, query)
	if err != nil {
		return failedRow{err}
	}
	return st.QueryRowContext(ctx, args...)
}

func (t *sqliteTx) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := t.Exec(ctx, `COMMIT`); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	t.end()
	return nil
}

func (t *sqliteTx) Rollback(ctx context.Context) {
	if t.d == nil {
		return
	}
	// A connection that cannot go back to where it was is of no more use.
	// (SQLite may have rolled back by itself, on a full disk; it then says that
	// there is no transaction, and a fresh connection costs little.)
	if _, err := t.Exec(ctx, `ROLLBACK`); err != nil {
		t.d.drop()
	}
	t.end()
}

func (t *sqliteTx) end() {
	t.d.turn.Release(1)
	t.d = nil
}

type failedRow struct{ err error }

func (r failedRow) Scan(...any) error { return r.err }
