package meta

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// A backup is a SQLite file of this package's schema, whichever database it
// was made from: anybody can look into it with sqlite3, and either database can
// be made from it. It has two tables more: backup says what it is, and
// backup_tables how many rows each table has and what they hash to. What only
// running hubs need is left out, see transient.
//
// It holds password hashes and all else that is secret in the rows: it is to be
// kept as they are.

// BackupFormat is the version of the above. A release reads its own and older.
const BackupFormat = 1

// transient are tables whose rows speak of running hubs and of what these were
// in the middle of. No restored hub can go on with that.
var transient = []string{"uploads", "fills", "leases", "replicas"}

// From [OpenBackup] and [Backup.Restore].
var (
	ErrDamaged  = errors.New("the backup is damaged")
	ErrNoBackup = errors.New("not a backup of this program")
	ErrNotEmpty = errors.New("the database to restore into is not empty")
	ErrInUse    = errors.New("a running hub uses the database")
)

// BackupInfo says what a backup is.
type BackupInfo struct {
	Format int           `json:"format"` // see [BackupFormat]
	Schema int64         `json:"schema"` // the last migration that was applied
	MadeAt time.Time     `json:"madeAt"`
	MadeBy string        `json:"madeBy"` // release of the program
	Driver string        `json:"driver"` // of the database it was made from
	Tables []BackupTable `json:"tables"` // by name
}

// Rows is how many rows a table has, 0 when there is no such table.
func (b *BackupInfo) Rows(table string) int64 {
	for _, t := range b.Tables {
		if t.Name == table {
			return t.Rows
		}
	}
	return 0
}

// BackupTable is a table of a backup.
type BackupTable struct {
	Name   string `json:"name"`
	Rows   int64  `json:"rows"`
	SHA256 string `json:"sha256"` // hex, of the rows
}

// Progress hears how a long piece of work comes on: what is being done, in
// words, and to which table so many rows were done. It may be nil.
type Progress func(doing, table string, rows int64)

func (p Progress) say(doing, table string, rows int64) {
	if p != nil {
		p(doing, table, rows)
	}
}

// sayEvery is after how many rows.
const sayEvery = 10_000

// Dump writes a backup of the database that c names to the new file path,
// which only its owner may read. The rows are those of one moment, and the hub
// may go on working meanwhile; its lock is not needed. madeBy is the program's
// release. When Dump fails, the file is gone.
//
// On a SQLite database reading keeps its log from being cut back, so that this
// grows while Dump runs.
func Dump(ctx context.Context, c Config, path, madeBy string, p Progress) (info BackupInfo, err error) {
	defer wrap(&err, "back up the database")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return info, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeDatabase(path))
		}
	}()
	if err := f.Close(); err != nil {
		return info, err
	}
	info = BackupInfo{Format: BackupFormat, MadeAt: time.Now().UTC().Truncate(time.Microsecond), MadeBy: madeBy, Driver: c.Driver}
	if c.Now != nil {
		info.MadeAt = c.Now().UTC()
	}
	switch c.Driver {
	case "sqlite":
		err = dumpSQLite(ctx, c.DSN, path, p)
	case "postgres":
		err = dumpPostgres(ctx, c, path, p)
	default:
		err = fmt.Errorf("metadata driver %q is not known, want sqlite or postgres", c.Driver)
	}
	if err != nil {
		return info, err
	}
	return info, seal(ctx, path, &info, p)
}

// dumpSQLite copies the file from, of which SQLite makes a tidy one on the way.
// One that is not there is not made.
func dumpSQLite(ctx context.Context, from, path string, p Progress) error {
	if _, err := os.Stat(from); err != nil {
		return err
	}
	p.say("copying the database", "", 0)
	src, err := openPlain(from, "mode=ro", "busy_timeout(10000)")
	if err != nil {
		return err
	}
	defer src.Close()
	tables, err := tablesOf(ctx, src)
	if err != nil {
		return err
	}
	if !slices.Contains(tables, "goose_db_version") {
		return fmt.Errorf("%w: %s", ErrNotDatabase, from)
	}
	_, err = src.ExecContext(ctx, `VACUUM INTO $1`, path) // which may be there when it is empty
	return err
}

// seal empties the transient tables and writes what the backup is, so that
// [OpenBackup] can tell that it is still the same.
func seal(ctx context.Context, path string, info *BackupInfo, p Progress) error {
	pool, err := openPlain(path, "", "journal_mode(OFF)", "synchronous(OFF)", "locking_mode(EXCLUSIVE)", "foreign_keys(OFF)")
	if err != nil {
		return err
	}
	defer pool.Close()
	for _, t := range transient {
		if err := execIfTable(ctx, pool, t, `DELETE FROM `+quoted(t)); err != nil {
			return err
		}
	}
	if err := pool.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version`).Scan(&info.Schema); err != nil {
		return err
	}
	// How the source wrote its log is its own affair; the columns are those of
	// the tables described above.
	if err := execAll(ctx, pool,
		`CREATE TABLE backup (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)`,
		`CREATE TABLE backup_tables (name TEXT NOT NULL PRIMARY KEY, rows BIGINT NOT NULL, sha256 TEXT NOT NULL)`); err != nil {
		return err
	}
	if info.Tables, err = sums(ctx, pool, p); err != nil {
		return err
	}
	t, err := pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer t.Rollback() //nolint:errcheck // does nothing after Commit
	for _, b := range info.Tables {
		if _, err := t.ExecContext(ctx, `INSERT INTO backup_tables (name, rows, sha256) VALUES ($1, $2, $3)`, b.Name, b.Rows, b.SHA256); err != nil {
			return err
		}
	}
	for _, kv := range info.facts() {
		if _, err := t.ExecContext(ctx, `INSERT INTO backup (name, value) VALUES ($1, $2)`, kv[0], kv[1]); err != nil {
			return err
		}
	}
	if err := t.Commit(); err != nil {
		return err
	}
	if err := pool.Close(); err != nil {
		return err
	}
	return syncFile(path)
}

// removeDatabase removes a SQLite file and what SQLite puts beside it.
func removeDatabase(path string) error {
	var errs []error
	for _, suffix := range []string{"", "-journal", "-wal", "-shm", ".lock"} {
		if err := os.Remove(path + suffix); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// execIfTable runs a statement if there is such a table.
func execIfTable(ctx context.Context, pool *sql.DB, table, query string) error {
	tables, err := tablesOf(ctx, pool)
	if err != nil || !slices.Contains(tables, table) {
		return err
	}
	_, err = pool.ExecContext(ctx, query)
	return err
}

func execAll(ctx context.Context, pool *sql.DB, queries ...string) error {
	for _, q := range queries {
		if _, err := pool.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}
