package meta

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"math"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// openPlain opens a SQLite file as it lies there: one connection, and pragmas
// as given. It is for files that no [Store] has open, and for reading.
func openPlain(path, query string, pragmas ...string) (*sql.DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	q, err := url.ParseQuery(query)
	if err != nil {
		return nil, err
	}
	q["_pragma"] = pragmas
	u := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
	pool, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(1)
	return pool, nil
}

// quoted is a name of the schema within a statement.
func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// tablesOf lists a SQLite file's tables by name, SQLite's own left out.
func tablesOf(ctx context.Context, pool *sql.DB) ([]string, error) {
	rs, err := pool.QueryContext(ctx, `
		SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY name`)
	return collect(sqlRows(rs, err), err, func(r row, name *string) error { return r.Scan(name) })
}

// sqlRows is rs as an interface that is nil when there is none.
func sqlRows(rs *sql.Rows, err error) rows {
	if err != nil {
		return nil
	}
	return rs
}

// column is a column of a table.
type column struct {
	name     string
	declared string // its type as the schema spells it: BOOLEAN, BYTEA, ...
}

func columnsOf(ctx context.Context, pool *sql.DB, table string) ([]column, error) {
	rs, err := pool.QueryContext(ctx, `SELECT name, type FROM pragma_table_info($1) ORDER BY cid`, table)
	return collect(sqlRows(rs, err), err, func(r row, c *column) error { return r.Scan(&c.name, &c.declared) })
}

// facts are the rows of the table backup: what info says but its tables, and a
// hash of all that and of backup_tables, since these are in no other hash.
func (b *BackupInfo) facts() [][2]string {
	all := [][2]string{
		{"driver", b.Driver},
		{"format", strconv.Itoa(b.Format)},
		{"made_at", b.MadeAt.Format(time.RFC3339Nano)},
		{"made_by", b.MadeBy},
		{"note", "A backup of a Breakwater hub's metadata. It holds password hashes and keys: keep it as you keep these."},
		{"schema", strconv.FormatInt(b.Schema, 10)},
	}
	h := sha256.New()
	for _, kv := range all {
		hashText(h, kv[0])
		hashText(h, kv[1])
	}
	for _, t := range b.Tables {
		hashText(h, t.Name)
		hashInt(h, t.Rows)
		hashText(h, t.SHA256)
	}
	return append(all, [2]string{"sha256", hex.EncodeToString(h.Sum(nil))})
}

// sums hashes each table of a backup, and under names that no table has the
// schema and the counters of ids.
func sums(ctx context.Context, pool *sql.DB, p Progress) ([]BackupTable, error) {
	tables, err := tablesOf(ctx, pool)
	if err != nil {
		return nil, err
	}
	tables = slices.DeleteFunc(tables, func(name string) bool { return name == "backup" || name == "backup_tables" })
	tables = append(tables, "sqlite_sequence", "sqlite_master")
	var all []BackupTable
	for _, name := range tables {
		t, err := sum(ctx, pool, name, p)
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", name, err)
		}
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b BackupTable) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// sum hashes a table's rows in the order in which they lie in the file. Each
// column goes through an expression, so that no type declared for it changes
// what is read.
func sum(ctx context.Context, pool *sql.DB, table string, p Progress) (BackupTable, error) {
	t := BackupTable{Name: table}
	cols, err := columnsOf(ctx, pool, table)
	if err != nil {
		return t, err
	}
	query, where := "", ""
	for i, c := range cols {
		if table == "sqlite_master" && c.name == "rootpage" {
			continue // where the rows lie says nothing of them
		}
		if i > 0 {
			query += ", "
		}
		query += "+" + quoted(c.name)
	}
	if table == "sqlite_master" {
		where = ` WHERE tbl_name NOT IN ('backup', 'backup_tables')`
	}
	rs, err := pool.QueryContext(ctx, `SELECT `+query+` FROM `+quoted(table)+where+` ORDER BY rowid`) //nolint:gosec // names of our schema
	if err != nil {
		return t, err
	}
	defer rs.Close()
	h := sha256.New()
	names, err := rs.Columns()
	if err != nil {
		return t, err
	}
	values, dest := make([]any, len(names)), make([]any, len(names))
	for i := range values {
		dest[i] = &values[i]
	}
	for rs.Next() {
		if err := rs.Scan(dest...); err != nil {
			return t, err
		}
		for _, v := range values {
			if err := hashValue(h, v); err != nil {
				return t, err
			}
		}
		if t.Rows++; t.Rows%sayEvery == 0 {
			p.say("checking", table, t.Rows)
		}
	}
	t.SHA256 = hex.EncodeToString(h.Sum(nil))
	return t, rs.Err()
}

// hashValue writes a value so that no two different ones, or lists of them,
// come out the same.
func hashValue(h hash.Hash, v any) error {
	switch v := v.(type) {
	case nil:
		h.Write([]byte{'n'})
	case int64:
		hashInt(h, v)
	case float64:
		h.Write(binary.BigEndian.AppendUint64([]byte{'f'}, math.Float64bits(v)))
	case string:
		hashText(h, v)
	case []byte:
		h.Write(binary.BigEndian.AppendUint64([]byte{'b'}, uint64(len(v))))
		h.Write(v)
	default:
		return fmt.Errorf("a value is stored as %T", v)
	}
	return nil
}

func hashInt(h hash.Hash, v int64) {
	h.Write(binary.BigEndian.AppendUint64([]byte{'i'}, uint64(v)))
}

func hashText(h hash.Hash, v string) {
	h.Write(binary.BigEndian.AppendUint64([]byte{'t'}, uint64(len(v))))
	h.Write([]byte(v))
}
