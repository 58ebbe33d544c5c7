package meta

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// RestoreOptions say how to restore; the zero value refuses whatever could
// hurt.
type RestoreOptions struct {
	// Replace takes the place of what the database holds: a SQLite file is kept
	// beside the new one, the rows of Postgres are lost.
	Replace bool
	// DryRun only looks whether the database could be restored into.
	DryRun   bool
	Progress Progress
}

// Restored says what [Backup.Restore] did.
type Restored struct {
	Epoch    int64  // of the hub from now on, see [Store.Epoch]
	SetAside string // where the SQLite file went that was there before; "" for none
}

// Restore makes the database that c names hold the backup's rows, all of them
// or, after an error, none. It must be empty, else ErrNotEmpty, and no hub may
// use it, else ErrLocked or ErrInUse. The backup's file is used up.
//
// What was marked for garbage collection is looked at anew, and the epoch is
// raised, with that of the policy in use. Its [Store.ID] is a new one.
func (b *Backup) Restore(ctx context.Context, c Config, o RestoreOptions) (out Restored, err error) {
	defer wrap(&err, "restore the database")
	switch c.Driver {
	case "sqlite":
		return b.restoreSQLite(ctx, c, o)
	case "postgres":
		return b.restorePostgres(ctx, c, o)
	}
	return out, fmt.Errorf("metadata driver %q is not known, want sqlite or postgres", c.Driver)
}

// finish changes in the backup's rows what a restored database must have
// otherwise. atLeast is the epoch of the database that was there before.
func (b *Backup) finish(ctx context.Context, atLeast int64) (epoch int64, err error) {
	s, err := b.Store(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close(), os.Remove(b.path+".lock")) }()
	err = s.write(ctx, func(q querier) error {
		now := s.nowMicros()
		// A blob in quarantine may have been named again since the backup, or its
		// quarantine be long over: whichever, it has all of its time again.
		if _, err := q.Exec(ctx, `
			UPDATE blobs SET review_at = $1, quarantined_at = 0
			 WHERE state = 'live' AND review_at > 0`, now); err != nil {
			return err
		}
		if epoch, err = raiseEpoch(ctx, q, atLeast, now); err != nil {
			return err
		}
		// It is another database than the one of the backup, which may live on.
		if _, err := q.Exec(ctx, `DELETE FROM facts WHERE name = $1`, IDFact); err != nil {
			return err
		}
		_, err = q.Exec(ctx, `
			UPDATE policies SET epoch = $1 WHERE epoch < $1 AND id = (SELECT max(id) FROM policies)`, epoch*policyEpochs)
		return err
	})
	return epoch, err
}

const epochFact = "epoch"

// raiseEpoch makes the epoch larger than it and atLeast were. It goes with the
// clock, so that two restores of one backup do not end at the same.
func raiseEpoch(ctx context.Context, q querier, atLeast, nowMicros int64) (int64, error) {
	has, err := epochOf(ctx, q)
	if err != nil {
		return 0, err
	}
	epoch := max(has+1, atLeast+1, nowMicros/1e6)
	_, err = q.Exec(ctx, `
		INSERT INTO facts (name, value, updated_at) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at`,
		epochFact, fmt.Sprint(epoch), nowMicros)
	return epoch, err
}

func epochOf(ctx context.Context, q querier) (epoch int64, err error) {
	err = q.QueryRow(ctx, `SELECT CAST(value AS BIGINT) FROM facts WHERE name = $1`, epochFact).Scan(&epoch)
	if isNoRow(err) {
		return 0, nil
	}
	return epoch, err
}

// Epoch is 0 until the database is restored from a backup for the first time,
// and grows with each restore: what others remember of this hub under a smaller
// one may be of a future that never came.
func (s *Store) Epoch(ctx context.Context) (epoch int64, err error) {
	defer wrap(&err, "meta.Epoch")
	return epochOf(ctx, s.db)
}

// restoreSQLite makes the backup's file the database.
func (b *Backup) restoreSQLite(ctx context.Context, c Config, o RestoreOptions) (out Restored, err error) {
	path, err := filepath.Abs(c.DSN)
	if err != nil {
		return out, err
	}
	if _, err := os.Stat(path); os.IsNotExist(err) && o.DryRun {
		return out, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return out, err
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	there, was, err := lookSQLite(ctx, path, o)
	if err != nil || o.DryRun {
		return out, err
	}
	if out.Epoch, err = b.finish(ctx, was); err != nil {
		return out, err
	}
	if err := syncFile(b.path); err != nil {
		return out, err
	}
	if there > 0 {
		// Put aside by a second name: at no moment there is no database.
		out.SetAside = path + ".before-restore-" + time.Now().UTC().Format("20060102T150405Z")
		if err := os.Link(path, out.SetAside); err != nil {
			return out, err
		}
	}
	if err := os.Rename(b.path, path); err != nil {
		return out, err
	}
	return out, syncFolder(filepath.Dir(path))
}

// lookSQLite says how many rows the database at path has and what its epoch
// is, and refuses one that may not be replaced.
func lookSQLite(ctx context.Context, path string, o RestoreOptions) (n, epoch int64, err error) {
	info, err := os.Stat(path)
	if os.IsNotExist(err) || err == nil && info.Size() == 0 {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	pool, err := openPlain(path, "", "busy_timeout(1000)")
	if err != nil {
		return 0, 0, err
	}
	defer pool.Close()
	tables, err := tablesOf(ctx, pool)
	if err != nil {
		return 0, 0, err
	}
	if len(tables) > 0 && !slices.Contains(tables, "goose_db_version") {
		return 0, 0, fmt.Errorf("%w: %s has tables, but none of ours", ErrNotDatabase, path)
	}
	for _, t := range ours(tables) {
		var has int64
		if err := pool.QueryRowContext(ctx, `SELECT count(*) FROM `+missed(t)).Scan(&has); err != nil { //nolint:gosec // names of our schema
			return 0, 0, err
		}
		n += has
	}
	if n > 0 && !o.Replace {
		return n, 0, fmt.Errorf("%w: %s has %d rows", ErrNotEmpty, path, n)
	}
	if slices.Contains(tables, "facts") {
		err := pool.QueryRowContext(ctx, `SELECT CAST(value AS BIGINT) FROM facts WHERE name = $1`, epochFact).Scan(&epoch)
		if err != nil && !isNoRow(err) {
			return n, 0, err
		}
	}
	// The last to close folds the log into the file. A log that stays is someone
	// else's, and would be taken for the new file's.
	if err := pool.Close(); err != nil {
		return n, epoch, err
	}
	for _, suffix := range []string{"-wal", "-journal"} {
		if info, err := os.Stat(path + suffix); err == nil && info.Size() > 0 {
			return n, epoch, fmt.Errorf("%w: %s%s is there; stop what has it open", ErrInUse, path, suffix)
		}
	}
	return n, epoch, nil
}

// ours are those tables that hold what a backup brings.
func ours(tables []string) []string {
	return slices.DeleteFunc(slices.Clone(tables), func(name string) bool {
		return name == "goose_db_version" || slices.Contains(transient, name)
	})
}

// missed is of a table, with a condition, what is lost when it is replaced: not
// what [Store.Migrate] notes by itself.
func missed(table string) string {
	if table == "facts" {
		return `"facts" WHERE name NOT LIKE '` + schemaFacts + `%'`
	}
	return quoted(table)
}

func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// inOrder lists the tables so that each comes after those it refers to.
func inOrder(ctx context.Context, pool *sql.DB, tables []string) ([]string, error) {
	needs := make(map[string][]string)
	for _, t := range tables {
		rs, err := pool.QueryContext(ctx, `SELECT DISTINCT "table" FROM pragma_foreign_key_list($1)`, t)
		needs[t], err = collect(sqlRows(rs, err), err, func(r row, name *string) error { return r.Scan(name) })
		if err != nil {
			return nil, err
		}
	}
	var order []string
	for len(order) < len(tables) {
		i := slices.IndexFunc(tables, func(t string) bool {
			return !slices.Contains(order, t) && !slices.ContainsFunc(needs[t], func(n string) bool { return n != t && !slices.Contains(order, n) })
		})
		if i < 0 {
			return nil, fmt.Errorf("tables refer to each other in a circle: %v of %v are in order", order, tables)
		}
		order = append(order, tables[i])
	}
	return order, nil
}
