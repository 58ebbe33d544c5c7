package meta

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"
)

// aliveWithin is how lately a hub was seen that counts as running: several
// times what hubs themselves wait before they take another for dead.
const aliveWithin = 10 * time.Second

// dumpPostgres reads all tables in one transaction, row by row as they arrive,
// into an empty schema of the same version at path.
func dumpPostgres(ctx context.Context, c Config, path string, p Progress) error {
	conn, t, err := beginPostgres(ctx, c, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) // which rolls back: nothing was written
	version, err := postgresVersion(ctx, t)
	if err != nil {
		return err
	}
	if version == 0 {
		return fmt.Errorf("%w: it has no table goose_db_version", ErrNotDatabase)
	}
	pool, err := openPlain(path, "", "journal_mode(OFF)", "synchronous(OFF)", "locking_mode(EXCLUSIVE)", "foreign_keys(OFF)")
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := schemaAt(ctx, pool, version); err != nil {
		return err
	}
	tables, err := tablesOf(ctx, pool)
	if err != nil {
		return err
	}
	indexes, err := dropIndexes(ctx, pool)
	if err != nil {
		return err
	}
	for _, table := range ours(tables) {
		if err := dumpTable(ctx, t, pool, table, p); err != nil {
			return fmt.Errorf("table %s: %w", table, err)
		}
	}
	p.say("building indexes", "", 0)
	if err := execAll(ctx, pool, indexes...); err != nil {
		return err
	}
	return pool.Close()
}

// beginPostgres opens a connection of its own, for one long transaction that no
// time limit of the server's ends.
func beginPostgres(ctx context.Context, c Config, o pgx.TxOptions) (*pgx.Conn, pgx.Tx, error) {
	_, cfg, err := parsePostgres(c.DSN, c.ListenDSN)
	if err != nil {
		return nil, nil, err
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // each statement runs once
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	t, err := conn.BeginTx(ctx, o)
	if err == nil {
		_, err = t.Exec(ctx, `SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0`, pgx.QueryExecModeSimpleProtocol)
	}
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	}
	return conn, t, nil
}

// postgresVersion is the last migration the database has had, 0 for none.
func postgresVersion(ctx context.Context, t pgx.Tx) (version int64, err error) {
	var has bool
	if err := t.QueryRow(ctx, `SELECT to_regclass('goose_db_version') IS NOT NULL`).Scan(&has); err != nil || !has {
		return 0, err
	}
	err = t.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version`).Scan(&version)
	return version, err
}

// schemaAt makes a SQLite file's schema, as it was after a migration.
func schemaAt(ctx context.Context, pool *sql.DB, version int64) error {
	all, err := sources()
	if err != nil {
		return err
	}
	if newest := all[len(all)-1].Version; version > newest {
		return fmt.Errorf("%w: its schema is version %d, this release knows up to %d", ErrNewer, version, newest)
	}
	m, err := sqliteProvider(pool)
	if err != nil {
		return err
	}
	_, err = m.UpTo(ctx, version)
	return err
}

func sqliteProvider(pool *sql.DB) (*goose.Provider, error) {
	return goose.NewProvider(goose.DialectSQLite3, pool, migrations(nil), goose.WithDisableGlobalRegistry(true))
}

// dropIndexes drops a SQLite file's indexes and returns what makes them again:
// one is built faster than it is kept.
func dropIndexes(ctx context.Context, pool *sql.DB) (again []string, err error) {
	rs, err := pool.QueryContext(ctx, `SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name`)
	all, err := collect(sqlRows(rs, err), err, func(r row, kv *[2]string) error { return r.Scan(&kv[0], &kv[1]) })
	for _, kv := range all {
		if _, err := pool.ExecContext(ctx, `DROP INDEX `+quoted(kv[0])); err != nil {
			return nil, err
		}
		again = append(again, kv[1])
	}
	return again, err
}

// dumpTable copies a table's rows and where its ids go on.
func dumpTable(ctx context.Context, from pgx.Tx, to *sql.DB, table string, p Progress) error {
	cols, err := columnsOf(ctx, to, table)
	if err != nil {
		return err
	}
	names, params := make([]string, len(cols)), make([]string, len(cols))
	for i, c := range cols {
		names[i], params[i] = quoted(c.name), fmt.Sprintf("$%d", i+1)
	}
	list := strings.Join(names, ", ")
	in, err := to.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer in.Rollback()                                                                                                       //nolint:errcheck // does nothing after Commit
	insert, err := in.PrepareContext(ctx, `INSERT INTO `+quoted(table)+` (`+list+`) VALUES (`+strings.Join(params, ", ")+`)`) //nolint:gosec // names of our schema
	if err != nil {
		return err
	}
	defer insert.Close()
	rs, err := from.Query(ctx, `SELECT `+list+` FROM `+quoted(table))
	if err != nil {
		return err
	}
	defer rs.Close()
	for n := int64(1); rs.Next(); n++ {
		values, err := rs.Values()
		if err != nil {
			return err
		}
		if _, err := insert.ExecContext(ctx, values...); err != nil {
			return err
		}
		if n%sayEvery == 0 {
			p.say("copying", table, n)
		}
	}
	if err := rs.Err(); err != nil {
		return err
	}
	if slices.ContainsFunc(cols, isSerial) {
		if err := dumpCounter(ctx, from, in, table); err != nil {
			return err
		}
	}
	return in.Commit()
}

// isSerial says that the column gives ids: both databases' id columns are
// called so, and are declared INTEGER in SQLite.
func isSerial(c column) bool { return c.name == "id" && c.declared == "INTEGER" }

// dumpCounter notes the highest id that a table ever gave.
func dumpCounter(ctx context.Context, from pgx.Tx, to *sql.Tx, table string) error {
	var last int64
	err := from.QueryRow(ctx, `SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence($1, 'id')::regclass), 0)`, table).Scan(&last)
	if err != nil {
		return fmt.Errorf("counter of ids: %w", err)
	}
	if _, err := to.ExecContext(ctx, `DELETE FROM sqlite_sequence WHERE name = $1`, table); err != nil {
		return err
	}
	//nolint:gosec // names of our schema
	insert := `
		INSERT INTO sqlite_sequence (name, seq)
		SELECT $1, max(CAST($2 AS INTEGER), coalesce((SELECT max(id) FROM ` + quoted(table) + `), 0))`
	_, err = to.ExecContext(ctx, insert, table, last)
	return err
}

// restorePostgres loads the backup's rows in one transaction, in which no hub
// can begin to use the tables.
func (b *Backup) restorePostgres(ctx context.Context, c Config, o RestoreOptions) (out Restored, err error) {
	if !o.DryRun {
		s, err := Open(ctx, c)
		if err != nil {
			return out, err
		}
		if err := errors.Join(s.Migrate(ctx), s.Close()); err != nil {
			return out, err
		}
	}
	conn, t, err := beginPostgres(ctx, c, pgx.TxOptions{})
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }() // which rolls back what was not committed
	// Rows of a newer schema's tables would stay beside those of the backup.
	version, err := postgresVersion(ctx, t)
	if err != nil {
		return out, err
	}
	newest, err := newestSchema()
	if err != nil {
		return out, err
	}
	if version > newest {
		return out, fmt.Errorf("%w: its schema is version %d, this release knows up to %d", ErrNewer, version, newest)
	}
	there, err := b.tablesIn(ctx, t)
	if err != nil {
		return out, err
	}
	was, err := lookPostgres(ctx, t, there, o)
	if err != nil || o.DryRun {
		return out, err
	}
	if out.Epoch, err = b.finish(ctx, was); err != nil {
		return out, err
	}
	if err := b.load(ctx, t, there, o.Progress); err != nil {
		return out, err
	}
	if err := t.Commit(ctx); err != nil {
		return out, err
	}
	o.Progress.say("gathering statistics", "", 0)
	_, err = conn.Exec(ctx, `ANALYZE`)
	return out, err
}

// tablesIn lists those of the backup's tables that the database has. In a
// schema that is others' as well, theirs are none of ours.
func (b *Backup) tablesIn(ctx context.Context, t pgx.Tx) ([]string, error) {
	rs, err := t.Query(ctx, `SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() ORDER BY tablename`)
	if err != nil {
		return nil, err
	}
	there, err := pgx.CollectRows(rs, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	pool, err := openPlain(b.path, "mode=ro", "query_only(ON)")
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	known, err := tablesOf(ctx, pool)
	if len(there) > 0 && !slices.Contains(there, goose.DefaultTablename) {
		return nil, fmt.Errorf("%w: it has tables, but none of ours", ErrNotDatabase)
	}
	return slices.DeleteFunc(there, func(name string) bool { return !slices.Contains(known, name) }), err
}

// lookPostgres locks the tables, refuses a database that may not be replaced,
// and says what its epoch is.
func lookPostgres(ctx context.Context, t pgx.Tx, tables []string, o RestoreOptions) (epoch int64, err error) {
	var all []string
	for _, name := range tables {
		if name != goose.DefaultTablename {
			all = append(all, quoted(name))
		}
	}
	if slices.Contains(tables, "replicas") {
		var n int64
		if err := t.QueryRow(ctx, `SELECT count(*) FROM replicas WHERE seen_at > CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT) - $1`,
			aliveWithin.Microseconds()).Scan(&n); err != nil {
			return 0, err
		}
		if n > 0 {
			return 0, fmt.Errorf("%w: %d were seen within the last %s; stop them first", ErrInUse, n, aliveWithin)
		}
	}
	if !o.DryRun {
		if _, err := t.Exec(ctx, `LOCK TABLE `+strings.Join(all, ", ")+` IN ACCESS EXCLUSIVE MODE`); err != nil {
			return 0, err
		}
	}
	var has []string
	for _, name := range ours(tables) {
		var any bool
		if err := t.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM `+missed(name)+`)`).Scan(&any); err != nil { //nolint:gosec // names of our schema
			return 0, err
		}
		if any {
			has = append(has, name)
		}
	}
	if len(has) > 0 && !o.Replace {
		return 0, fmt.Errorf("%w: there are rows in %s", ErrNotEmpty, strings.Join(has, ", "))
	}
	if slices.Contains(has, "facts") {
		err := t.QueryRow(ctx, `SELECT CAST(value AS BIGINT) FROM facts WHERE name = $1`, epochFact).Scan(&epoch)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return 0, err
		}
	}
	if len(all) > 0 && !o.DryRun {
		_, err = t.Exec(ctx, `TRUNCATE `+strings.Join(all, ", ")+` RESTART IDENTITY`)
	}
	return epoch, err
}

// load copies the backup's tables, those first that others refer to.
func (b *Backup) load(ctx context.Context, t pgx.Tx, there []string, p Progress) error {
	pool, err := openPlain(b.path, "mode=ro", "query_only(ON)")
	if err != nil {
		return err
	}
	defer pool.Close()
	tables, err := tablesOf(ctx, pool)
	if err != nil {
		return err
	}
	if tables, err = inOrder(ctx, pool, ours(tables)); err != nil {
		return err
	}
	for _, table := range tables {
		if !slices.Contains(there, table) {
			return fmt.Errorf("table %s is in the backup and not in the database", table)
		}
		if err := loadTable(ctx, pool, t, table, p); err != nil {
			return fmt.Errorf("table %s: %w", table, err)
		}
	}
	return nil
}

func loadTable(ctx context.Context, from *sql.DB, to pgx.Tx, table string, p Progress) error {
	cols, err := columnsOf(ctx, from, table)
	if err != nil {
		return err
	}
	names, exprs := make([]string, len(cols)), make([]string, len(cols))
	for i, c := range cols {
		names[i], exprs[i] = c.name, "+"+quoted(c.name)
	}
	rs, err := from.QueryContext(ctx, `SELECT `+strings.Join(exprs, ", ")+` FROM `+quoted(table)) //nolint:gosec,rowserrcheck // names of our schema; CopyFrom asks for its error
	if err != nil {
		return err
	}
	defer rs.Close()
	src := &copySource{rows: rs, cols: cols, values: make([]any, len(cols)), said: func(n int64) { p.say("loading", table, n) }}
	if _, err := to.CopyFrom(ctx, pgx.Identifier{table}, names, src); err != nil {
		return err
	}
	if !slices.ContainsFunc(cols, isSerial) {
		return nil
	}
	var last int64
	if err := from.QueryRowContext(ctx, `
		SELECT max(coalesce((SELECT max(seq) FROM sqlite_sequence WHERE name = $1), 0), coalesce((SELECT max(id) FROM `+quoted(table)+`), 0))`, //nolint:gosec // names of our schema
		table).Scan(&last); err != nil {
		return err
	}
	if last > 0 {
		_, err = to.Exec(ctx, `SELECT setval(pg_get_serial_sequence($1, 'id')::regclass, $2)`, table, last)
	}
	return err
}

// copySource feeds a COPY with a table's rows, of which one is in memory.
type copySource struct {
	rows   *sql.Rows
	cols   []column
	values []any
	n      int64
	said   func(n int64)
}

// Next implements pgx.CopyFromSource.
func (s *copySource) Next() bool {
	if s.n++; s.n%sayEvery == 0 {
		s.said(s.n)
	}
	return s.rows.Next()
}

// Values implements pgx.CopyFromSource.
func (s *copySource) Values() ([]any, error) {
	dest := make([]any, len(s.values))
	for i := range s.values {
		dest[i] = &s.values[i]
	}
	if err := s.rows.Scan(dest...); err != nil {
		return nil, err
	}
	for i, c := range s.cols {
		if n, ok := s.values[i].(int64); ok && c.declared == "BOOLEAN" {
			s.values[i] = n != 0
		}
	}
	return s.values, nil
}

// Err implements pgx.CopyFromSource.
func (s *copySource) Err() error { return s.rows.Err() }
