package meta

import (
	"errors"
	"fmt"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// One text serves both databases. Where they say the same thing differently,
// the text has a word in braces, and each driver puts its own spelling there:
//
//	{each $1} AS d          a table d(value) of the strings of a JSON array
//	{for update}            locks the rows read; {for update skip locked}
//	{for key share}         keeps the rows read from being deleted, and lets others
//	                        do the same; {for key share of b}
//	{now}                   the database's clock, in microseconds since 1970
//	{tables}                a table of the tables there are, by name
//
// SQLite has one writer at a time, so that it needs no row locks.
var sqliteWords = strings.NewReplacer(
	"{each $1}", "json_each($1)", "{each $2}", "json_each($2)", "{each $3}", "json_each($3)",
	"{for update}", "", "{for update skip locked}", "",
	"{for key share}", "", "{for key share of b}", "", "{for key share of m}", "",
	"{now}", "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)",
	"{tables}", "(SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%')",
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
