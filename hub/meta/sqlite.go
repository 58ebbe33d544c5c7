package meta

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"strings"
	"sync"

	"github.com/pressly/goose/v3"
	"golang.org/x/sync/semaphore"
)

// sqliteDB is a SQLite file: a pool of connections that only read, and one
// that writes. Readers never wait for the writer (write-ahead log). Writers
// queue for their turn here, first come first served, rather than each trying
// again and again for SQLite's own lock.
type sqliteDB struct {
	path    string
	readers *sql.DB
	reads   statements

	topics topics

	turn   *semaphore.Weighted
	writer *sql.DB // one connection
	// The rest belongs to who has the turn.
	conn   *sql.Conn // nil until needed, and after it broke
	writes statements
}

// statements are prepared on first use and kept: texts are constants of this
// package, so that there are only so many.
type statements struct {
	mu     sync.RWMutex
	byText map[string]statement
}

// statement is one that outlives its uses.
type statement struct{ *sql.Stmt }

// preparer is a pool or a connection.
type preparer interface {
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
}

func (s *statements) get(ctx context.Context, on preparer, query string) (statement, error) {
	s.mu.RLock()
	st, ok := s.byText[query]
	s.mu.RUnlock()
	if ok {
		return st, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.byText[query]; ok {
		return st, nil
	}
	prepared, err := on.PrepareContext(ctx, spell(sqliteWords, query))
	if err != nil {
		return statement{}, err
	}
	if s.byText == nil {
		s.byText = make(map[string]statement)
	}
	s.byText[query] = statement{prepared}
	return s.byText[query], nil
}

func (s *statements) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.byText {
		st.Close()
	}
	s.byText = nil
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

const (
	// writerCache is 16 MiB of pages: what a step of garbage collection looks at,
	// spread over the indexes of a large registry, and then changes. SQLite's own
	// 2 MiB would have it read most of that several times over.
	writerCache = "cache_size(-16384)"
	// writerLog is 16 MiB of pages that are written to the log before they go to
	// the file. The longer the log, the more often a page has changed again by
	// then, and is written there once.
	writerLog = "wal_autocheckpoint(4000)"
)

func openSQLite(ctx context.Context, path string) (*sqliteDB, error) {
	writer, err := sql.Open("sqlite", sqliteURI(path, "journal_mode(WAL)", writerCache, writerLog))
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
	d := &sqliteDB{path: path, readers: readers, writer: writer, turn: semaphore.NewWeighted(1)}
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
	d.reads.close()
	// Readers first: the last to go folds the log into the file, and they may not write.
	return errors.Join(d.readers.Close(), d.writer.Close())
}

func (d *sqliteDB) Query(ctx context.Context, query string, args ...any) (rows, error) {
	st, err := d.reads.get(ctx, d.readers, query)
	if err != nil {
		return nil, err
	}
	return st.QueryContext(ctx, args...) //nolint:rowserrcheck // collect does
}

// QueryRow does not end with ctx: a look-up is shorter than what it takes the
// driver to watch for that.
func (d *sqliteDB) QueryRow(ctx context.Context, query string, args ...any) row {
	if err := ctx.Err(); err != nil {
		return failedRow{err}
	}
	ctx = context.WithoutCancel(ctx)
	st, err := d.reads.get(ctx, d.readers, query)
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
	t := &sqliteTx{d: d}
	if !strings.Contains(query, "{loose}") {
		return t.Exec(ctx, query, args...)
	}
	// The log is written all the same, and is as whole after a crash as ever: the
	// next commit that waits for the disk waits for this one too.
	if err := d.synchronous(ctx, "NORMAL"); err != nil {
		return 0, err
	}
	n, err := t.Exec(ctx, query, args...)
	if full := d.synchronous(ctx, "FULL"); full != nil {
		d.drop() // the next connection begins with it
		err = errors.Join(err, full)
	}
	return n, err
}

// synchronous says what commits wait for, for who has the turn.
func (d *sqliteDB) synchronous(ctx context.Context, level string) error {
	if err := d.connect(ctx); err != nil {
		return err
	}
	_, err := d.conn.ExecContext(context.WithoutCancel(ctx), "PRAGMA synchronous = "+level)
	return err
}

// connect sees to it that there is a connection, for who has the turn.
func (d *sqliteDB) connect(ctx context.Context) (err error) {
	if d.conn == nil {
		d.conn, err = d.writer.Conn(ctx)
	}
	return err
}

func (d *sqliteDB) Begin(ctx context.Context) (tx, error) {
	if err := d.turn.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	t := &sqliteTx{d: d}
	if _, err := t.Exec(ctx, `BEGIN IMMEDIATE`); err != nil {
		d.turn.Release(1)
		return nil, err
	}
	return t, nil
}

// Notify reaches who listens in this process, the only one there is.
func (d *sqliteDB) Notify(_ context.Context, topic string) error {
	d.topics.send(topic)
	return nil
}

func (d *sqliteDB) Listen(ctx context.Context, fn func(topic string)) error {
	return d.topics.listen(ctx, fn)
}

// Schema leaves a migration as it is written.
func (d *sqliteDB) Schema(text string) string { return text }

func (d *sqliteDB) Migrations(ctx context.Context, fn func(*goose.Provider) error) error {
	if err := d.turn.Acquire(ctx, 1); err != nil {
		return err
	}
	defer d.turn.Release(1)
	pool, err := sql.Open("sqlite", sqliteURI(d.path))
	if err != nil {
		return err
	}
	defer pool.Close()
	pool.SetMaxOpenConns(1)
	p, err := goose.NewProvider(goose.DialectSQLite3, pool, migrations(nil), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	return fn(p)
}

// drop forgets the writing connection; the next writer makes another.
func (d *sqliteDB) drop() {
	d.writes.close()
	if d.conn != nil {
		d.conn.Close()
		d.conn = nil
	}
}

// write is the statement for a text, for who has the turn.
func (d *sqliteDB) write(ctx context.Context, query string) (st statement, err error) {
	if err := d.connect(ctx); err != nil {
		return statement{}, err
	}
	return d.writes.get(ctx, d.conn, query)
}

// sqliteTx is the writer's turn. Its statements are short and are not
// interrupted half-way; a context that ended keeps it from committing.
type sqliteTx struct {
	d      *sqliteDB // nil once it has ended
	topics []string  // to be told of after the commit
}

func (t *sqliteTx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	ctx = context.WithoutCancel(ctx)
	st, err := t.d.write(ctx, query)
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
	st, err := t.d.write(ctx, query)
	if err != nil {
		return nil, err
	}
	return st.QueryContext(ctx, args...) //nolint:rowserrcheck // collect does
}

func (t *sqliteTx) QueryRow(ctx context.Context, query string, args ...any) row {
	ctx = context.WithoutCancel(ctx)
	st, err := t.d.write(ctx, query)
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
	for _, topic := range t.topics {
		t.d.topics.send(topic)
	}
	t.end()
	return nil
}

func (t *sqliteTx) Notify(_ context.Context, topic string) error {
	t.topics = append(t.topics, topic)
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
