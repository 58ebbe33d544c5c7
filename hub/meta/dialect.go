package meta

import (
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Where SQLite and Postgres differ in what a statement says, the spelling is
// here. SQLite has one writer at a time, so that it needs no row locks; the
// statements show where Postgres does.
const (
	// eachOf1 and eachOf2 are a table d(value) of the strings of the JSON array
	// $1 or $2; Postgres: jsonb_array_elements_text($1::jsonb) AS d(value).
	eachOf1 = `json_each($1) AS d`
	eachOf2 = `json_each($2) AS d`
	// forUpdate locks the rows read; Postgres: FOR UPDATE.
	forUpdate = ``
	// forKeyShare keeps the rows read from being deleted; Postgres: FOR KEY SHARE.
	forKeyShare = ``
	// tableNames lists the tables there are; Postgres: from pg_tables.
	tableNames = `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`
)

// translate turns what SQLite says into this package's errors.
func translate(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_CONSTRAINT:
		return fmt.Errorf("%w: %w", ErrConflict, err)
	case sqlite3.SQLITE_FULL:
		return &oci.Error{Code: oci.NoSpace, Err: err}
	case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
		return fmt.Errorf("%w: %w", ErrNotDatabase, err)
	}
	return err
}
