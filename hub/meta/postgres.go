package meta

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// postgresDB is a Postgres database: a pool of connections, on each of which
// pgx keeps what it has prepared.
//
// Through a pooler that gives a connection away between transactions
// (pgbouncer), a DSN with default_query_exec_mode=exec keeps nothing prepared;
// what needs a connection of its own goes by direct. Nothing is SET on a
// connection for longer than a transaction, so that none of it reaches others.
type postgresDB struct {
	pool   *pgxpool.Pool
	direct *pgx.ConnConfig
	texts  sync.Map     // a statement of this package to its text for Postgres
	broke  atomic.Int64 // when a connection was last found broken, in microseconds
}

const (
	// A transaction here never waits for anything but the database. One that
	// does was left by a process that hangs or a machine that is gone, and its
	// locks are not to outlive it for long.
	postgresBegin = `BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '15s'`

	connectTimeout = 5 * time.Second
	// settleTimeout is how long a COMMIT or ROLLBACK may take once whoever asked
	// for it has gone.
	settleTimeout = 10 * time.Second
)

// parsePostgres reads two DSNs, see [Config]. Errors do not show passwords.
func parsePostgres(dsn, listenDSN string) (pool *pgxpool.Config, direct *pgx.ConnConfig, err error) {
	if pool, err = pgxpool.ParseConfig(dsn); err != nil {
		return nil, nil, hidden("dsn", err)
	}
	if !strings.Contains(dsn, "pool_max_conns") {
		pool.MaxConns = max(10, 4*int32(runtime.GOMAXPROCS(0)))
	}
	// A look-up that is no longer wanted is shorter than what a new connection
	// takes; one that is not is cancelled on the server.
	pool.ConnConfig.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{
			Conn: c, CancelRequestDelay: 100 * time.Millisecond, DeadlineDelay: 5 * time.Second,
		}
	}
	if listenDSN == "" {
		listenDSN = dsn
	}
	other, err := pgxpool.ParseConfig(listenDSN) // takes the pool's words out
	if err != nil {
		return nil, nil, hidden("listen dsn", err)
	}
	for _, c := range []*pgx.ConnConfig{pool.ConnConfig, other.ConnConfig} {
		c.ConnectTimeout = cmp.Or(c.ConnectTimeout, connectTimeout)
		c.RuntimeParams["application_name"] = cmp.Or(c.RuntimeParams["application_name"], "breakwater-hub")
		if c.ValidateConnect == nil {
			// Of a primary and its standbys, the primary; and none that was one.
			c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
		}
	}
	return pool, other.ConnConfig, nil
}

// hidden is what was wrong with a DSN, without the DSN: how much of one that
// cannot be read is a password, nobody can say.
func hidden(what string, err error) error {
	if cause := errors.Unwrap(err); cause != nil {
		return fmt.Errorf("the metadata %s is not one of Postgres, want postgres://user@host/name?options: %w", what, cause)
	}
	return fmt.Errorf("the metadata %s is not one of Postgres, want postgres://user@host/name?options", what)
}

func openPostgres(ctx context.Context, c *pgxpool.Config, direct *pgx.ConnConfig) (*postgresDB, error) {
	d := &postgresDB{direct: direct}
	// When the server has gone, most of its connections are broken, and each is
	// found out by who uses it. After the first, who gets one tries it before.
	c.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool {
		return p.IdleDuration > time.Second || time.Now().Add(-p.IdleDuration).UnixMicro() <= d.broke.Load()
	}
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, err
	}
	d.pool = pool
	var schema *string
	if err := d.QueryRow(ctx, `SELECT current_schema()`).Scan(&schema); err != nil {
		pool.Close()
		return nil, err
	}
	if schema == nil {
		pool.Close()
		return nil, errors.New("none of the schemas in search_path exists: CREATE SCHEMA makes one")
	}
	return d, nil
}

// Close waits for statements that still run.
func (d *postgresDB) Close() error {
	d.pool.Close()
	return nil
}

func (d *postgresDB) text(query string) string {
	if text, ok := d.texts.Load(query); ok {
		return text.(string)
	}
	text, _ := d.texts.LoadOrStore(query, spell(postgresWords, query))
	return text.(string)
}

// Exec is tried once: one that was not answered may have happened.
func (d *postgresDB) Exec(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = againIf(ctx, undone, func() error { // not where the connection broke: it may have happened
		tag, err := d.pool.Exec(ctx, d.text(query), args...)
		n = tag.RowsAffected()
		return d.because(ctx, err)
	})
	return n, err
}

func (d *postgresDB) Query(ctx context.Context, query string, args ...any) (rows, error) {
	var rs pgx.Rows
	var first bool
	err := again(ctx, func() (err error) {
		if rs, err = d.pool.Query(ctx, d.text(query), args...); err != nil { //nolint:sqlclosecheck // collect closes it
			return d.because(ctx, err)
		}
		if first = rs.Next(); !first { // whether it was done is only known now
			return d.because(ctx, rs.Err())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &postgresRows{d: d, ctx: ctx, rs: rs, peeked: true, first: first}, nil
}

func (d *postgresDB) QueryRow(ctx context.Context, query string, args ...any) row {
	return postgresRow(func(dest ...any) error {
		return again(ctx, func() error {
			return d.because(ctx, d.pool.QueryRow(ctx, d.text(query), args...).Scan(dest...))
		})
	})
}

func (d *postgresDB) Begin(ctx context.Context) (tx, error) {
	t, err := d.pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: postgresBegin})
	if err != nil {
		return nil, d.because(ctx, err)
	}
	return &postgresTx{d, t}, nil
}

// postgresTx is a transaction on one of the pool's connections.
type postgresTx struct {
	d *postgresDB
	t pgx.Tx
}

func (t *postgresTx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	tag, err := t.t.Exec(ctx, t.d.text(query), args...)
	return tag.RowsAffected(), t.d.because(ctx, err)
}

func (t *postgresTx) Query(ctx context.Context, query string, args ...any) (rows, error) {
	rs, err := t.t.Query(ctx, t.d.text(query), args...)
	if err != nil {
		return nil, t.d.because(ctx, err)
	}
	return &postgresRows{d: t.d, ctx: ctx, rs: rs}, nil
}

func (t *postgresTx) QueryRow(ctx context.Context, query string, args ...any) row {
	return postgresRow(func(dest ...any) error {
		return t.d.because(ctx, t.t.QueryRow(ctx, t.d.text(query), args...).Scan(dest...))
	})
}

// Commit does not end with ctx half-way, when it would not be known whether it
// happened; a context that ended before keeps it from happening.
func (t *postgresTx) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	err := t.t.Commit(ctx)
	if err == nil {
		return nil
	}
	if err = t.d.because(ctx, err); sqlState(err) == "" && !errors.Is(err, pgx.ErrTxCommitRollback) || gone(err) {
		err = &unansweredError{err}
	}
	return fmt.Errorf("commit: %w", err)
}

// Rollback gives the connection back, or ends it when it does not answer.
func (t *postgresTx) Rollback(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	_ = t.t.Rollback(ctx) // after Commit it says that there is nothing to do
}

type postgresRow func(dest ...any) error

func (r postgresRow) Scan(dest ...any) error { return r(dest...) }

type postgresRows struct {
	d      *postgresDB
	ctx    context.Context // of the query, and as short
	rs     pgx.Rows
	peeked bool // Next was called already, and said first
	first  bool
}

func (r *postgresRows) Next() bool {
	if r.peeked {
		r.peeked = false
		return r.first
	}
	return r.rs.Next()
}

func (r *postgresRows) Scan(dest ...any) error { return r.rs.Scan(dest...) }
func (r *postgresRows) Err() error             { return r.d.because(r.ctx, r.rs.Err()) }

func (r *postgresRows) Close() error {
	r.rs.Close()
	return nil
}

// because looks at why a statement failed. When its context has ended, that is
// why: what the server or the connection says then is only that it was told to
// stop.
func (d *postgresDB) because(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ended := ctx.Err(); ended != nil {
		if errors.Is(err, ended) {
			return err
		}
		return fmt.Errorf("%w: %w", ended, err)
	}
	if gone(err) {
		d.broke.Store(time.Now().UnixMicro())
	}
	return err
}

const channel = "breakwater"

func (d *postgresDB) Notify(ctx context.Context, topic string) error {
	return notifyBy(ctx, d, topic)
}

func (t *postgresTx) Notify(ctx context.Context, topic string) error {
	return notifyBy(ctx, t, topic)
}

func notifyBy(ctx context.Context, q querier, topic string) error {
	_, err := q.Exec(ctx, `SELECT pg_notify($1, $2)`, channel, topic)
	return err
}

const (
	// listenPing is after how long without news the connection is tried.
	listenPing = 10 * time.Second
	// listenRetry is between attempts to connect, at first and at most.
	listenRetry, listenRetryMax = 100 * time.Millisecond, 5 * time.Second
)

func (d *postgresDB) Listen(ctx context.Context, fn func(topic string)) error {
	pause := listenRetry
	for {
		// Whatever breaks it, the answer is another connection.
		_ = d.listenOnce(ctx, func(topic string) {
			pause = listenRetry
			fn(topic)
		})
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
			pause = min(2*pause, listenRetryMax)
		}
	}
}

// listenOnce listens until the connection breaks.
func (d *postgresDB) listenOnce(ctx context.Context, fn func(topic string)) error {
	c, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer hangUp(c)
	if _, err := c.Exec(ctx, `LISTEN `+channel); err != nil {
		return err
	}
	for fn(""); ; {
		n, err := wait(ctx, c)
		switch {
		case err == nil:
			fn(n.Payload)
		case ctx.Err() == nil && pgconn.Timeout(err):
			if err := ping(ctx, c); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

func wait(ctx context.Context, c *pgx.Conn) (*pgconn.Notification, error) {
	ctx, cancel := context.WithTimeout(ctx, listenPing)
	defer cancel()
	return c.WaitForNotification(ctx)
}

func ping(ctx context.Context, c *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return c.Ping(ctx)
}

// connect makes a connection beside the pool. [hangUp] ends it.
func (d *postgresDB) connect(ctx context.Context) (*pgx.Conn, error) {
	return pgx.ConnectConfig(ctx, d.direct.Copy())
}

func hangUp(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx) // it is of no more use either way
}

var (
	schemaID   = regexp.MustCompile(`\bINTEGER PRIMARY KEY AUTOINCREMENT\b`)
	schemaText = regexp.MustCompile(`\bTEXT\b`)
)

// Schema spells ids, and makes names sort by byte whatever the database's
// locale is.
func (d *postgresDB) Schema(text string) string {
	text = schemaID.ReplaceAllString(text, "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY")
	return schemaText.ReplaceAllString(text, `TEXT COLLATE "C"`)
}

func (d *postgresDB) Migrations(ctx context.Context, fn func(*goose.Provider) error) error {
	pool := stdlib.OpenDB(*d.direct)
	defer pool.Close()
	pool.SetMaxOpenConns(1) // the one that holds the lock
	p, err := goose.NewProvider(goose.DialectPostgres, pool, migrations(d.Schema),
		goose.WithDisableGlobalRegistry(true), goose.WithSessionLocker(migrationLock{}))
	if err != nil {
		return err
	}
	return fn(p)
}

// migrationLock lets one process at a time migrate a database: goose's
// lock.SessionLocker.
type migrationLock struct{}

const (
	migrationLockKey  = 7_165_214_630_152_941 // any number that others do not use
	migrationLockPoll = 100 * time.Millisecond
)

// SessionLock asks again and again: a statement that waited would keep a
// CREATE INDEX CONCURRENTLY of the one who has the lock from its end.
func (migrationLock) SessionLock(ctx context.Context, c *sql.Conn) error {
	for {
		var mine bool
		if err := c.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, migrationLockKey).Scan(&mine); err != nil || mine {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(migrationLockPoll):
		}
	}
}

// SessionUnlock gives the lock back. When it cannot, the connection is broken,
// and the lock went with it.
func (migrationLock) SessionUnlock(ctx context.Context, c *sql.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	_, err := c.ExecContext(ctx, `SELECT pg_advisory_unlock($1)`, migrationLockKey)
	return err
}
