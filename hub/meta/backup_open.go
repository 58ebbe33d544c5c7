package meta

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"
)

// Backup is the file of a backup that proved to be whole, and that this
// release can read. The file is the caller's to give away: [Backup.Restore]
// changes it.
type Backup struct {
	Info BackupInfo
	path string
}

// OpenBackup reads all of a backup, written by [Dump], and brings its schema up
// to date in the file. ErrDamaged says where it is not what was written,
// ErrNoBackup that it never was a backup, ErrNewer that a newer release made
// it.
func OpenBackup(ctx context.Context, path string, p Progress) (b *Backup, err error) {
	defer wrap(&err, "open backup")
	if err := checkLength(path); err != nil {
		return nil, err
	}
	b = &Backup{path: path}
	if b.Info, err = verify(ctx, path, p); err != nil {
		return nil, err
	}
	p.say("bringing the schema up to date", "", 0)
	return b, b.migrate(ctx)
}

// checkLength tells a file that ends early: SQLite notices only once it needs
// what is missing.
func checkLength(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var head [100]byte // of the database; the format is SQLite's for good
	if _, err := io.ReadFull(f, head[:]); err != nil || string(head[:16]) != "SQLite format 3\x00" {
		return fmt.Errorf("%w: it is no SQLite file", ErrNoBackup)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	page := int64(binary.BigEndian.Uint16(head[16:]))
	if page == 1 {
		page = 65536
	}
	if want := page * int64(binary.BigEndian.Uint32(head[28:])); info.Size() != want {
		return fmt.Errorf("%w: it has %d bytes and should have %d", ErrDamaged, info.Size(), want)
	}
	return nil
}

// verify compares what the backup says of itself with what is in it.
func verify(ctx context.Context, path string, p Progress) (info BackupInfo, err error) {
	pool, err := openPlain(path, "mode=ro&immutable=1", "query_only(ON)", "cell_size_check(ON)")
	if err != nil {
		return info, err
	}
	defer pool.Close()
	tables, err := tablesOf(ctx, pool)
	if err != nil {
		return info, damaged(err)
	}
	if !slices.Contains(tables, "backup") || !slices.Contains(tables, "backup_tables") {
		return info, fmt.Errorf("%w: it has no table called backup; was it made by the backup command?", ErrNoBackup)
	}
	if info, err = readInfo(ctx, pool); err != nil {
		return info, err
	}
	if err := known(info); err != nil {
		return info, err
	}
	got, err := sums(ctx, pool, p)
	if err != nil {
		return info, damaged(err)
	}
	var bad []error
	for _, want := range info.Tables {
		i := slices.IndexFunc(got, func(t BackupTable) bool { return t.Name == want.Name })
		switch {
		case i < 0:
			bad = append(bad, fmt.Errorf("%w: table %s is missing", ErrDamaged, want.Name))
		case got[i].Rows != want.Rows:
			bad = append(bad, fmt.Errorf("%w: table %s has %d rows and should have %d", ErrDamaged, want.Name, got[i].Rows, want.Rows))
		case got[i].SHA256 != want.SHA256:
			bad = append(bad, fmt.Errorf("%w: the rows of table %s are not those that were written", ErrDamaged, want.Name))
		}
	}
	if len(got) != len(info.Tables) && bad == nil {
		bad = append(bad, fmt.Errorf("%w: it has %d tables and should have %d", ErrDamaged, len(got), len(info.Tables)))
	}
	if bad != nil {
		return info, errors.Join(bad...)
	}
	p.say("checking the file's structure", "", 0)
	return info, integrity(ctx, pool)
}

// integrity looks at what no hash speaks of: indexes, and the file's pages.
func integrity(ctx context.Context, pool *sql.DB) error {
	rs, err := pool.QueryContext(ctx, `PRAGMA integrity_check(3)`)
	faults, err := collect(sqlRows(rs, err), err, func(r row, s *string) error { return r.Scan(s) })
	if err != nil {
		return damaged(err)
	}
	if len(faults) != 1 || faults[0] != "ok" {
		return fmt.Errorf("%w: SQLite finds %q", ErrDamaged, faults)
	}
	return nil
}

// damaged is an error that reading a backup met, if it is the file's fault.
func damaged(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// readInfo reads what the backup says that it is.
func readInfo(ctx context.Context, pool *sql.DB) (info BackupInfo, err error) {
	rs, err := pool.QueryContext(ctx, `SELECT name, value FROM backup`)
	pairs, err := collect(sqlRows(rs, err), err, func(r row, kv *[2]string) error { return r.Scan(&kv[0], &kv[1]) })
	if err != nil {
		return info, damaged(fmt.Errorf("table backup: %w", err))
	}
	rs, err = pool.QueryContext(ctx, `SELECT name, rows, sha256 FROM backup_tables ORDER BY name`)
	info.Tables, err = collect(sqlRows(rs, err), err, func(r row, t *BackupTable) error { return r.Scan(&t.Name, &t.Rows, &t.SHA256) })
	if err != nil {
		return info, damaged(fmt.Errorf("table backup_tables: %w", err))
	}
	says := make(map[string]string)
	for _, kv := range pairs {
		says[kv[0]] = kv[1]
	}
	info.MadeBy, info.Driver = says["made_by"], says["driver"]
	info.Format, err = strconv.Atoi(says["format"])
	if err == nil {
		info.Schema, err = strconv.ParseInt(says["schema"], 10, 64)
	}
	if err == nil {
		info.MadeAt, err = time.Parse(time.RFC3339Nano, says["made_at"])
	}
	if err != nil {
		return info, damaged(fmt.Errorf("table backup: %w", err))
	}
	if info.Format > BackupFormat {
		return info, nil // its hash may be made otherwise: known says so
	}
	for _, kv := range info.facts() {
		if kv[0] == "sha256" && says["sha256"] != kv[1] {
			return info, fmt.Errorf("%w: what tables backup and backup_tables say is not what was written", ErrDamaged)
		}
	}
	return info, nil
}

// known refuses what a newer release made.
func known(info BackupInfo) error {
	all, err := sources()
	if err != nil {
		return err
	}
	newest := all[len(all)-1].Version
	if info.Format > BackupFormat || info.Schema > newest {
		return fmt.Errorf("%w: the backup was made by %s with format %d and schema %d, this release knows up to %d and %d",
			ErrNewer, info.MadeBy, info.Format, info.Schema, BackupFormat, newest)
	}
	return nil
}

// migrate makes of the backup a database of this release, without what makes
// it a backup.
func (b *Backup) migrate(ctx context.Context) (err error) {
	pool, err := openPlain(b.path, "", "journal_mode(OFF)", "synchronous(OFF)")
	if err != nil {
		return err
	}
	if err := errors.Join(execAll(ctx, pool, `DROP TABLE backup`, `DROP TABLE backup_tables`), pool.Close()); err != nil {
		return err
	}
	s, err := Open(ctx, Config{Driver: "sqlite", DSN: b.path, TouchEvery: time.Hour})
	if err != nil {
		return err
	}
	return errors.Join(s.Migrate(ctx), s.Close(), os.Remove(b.path+".lock"))
}

// Store opens the backup's rows, to be read as those of a database are. It is
// to be closed before [Backup.Restore].
func (b *Backup) Store(ctx context.Context) (*Store, error) {
	return Open(ctx, Config{Driver: "sqlite", DSN: b.path, TouchEvery: time.Hour})
}
