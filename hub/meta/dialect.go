package meta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// One text serves both databases. Where they say the same thing differently,
// the text has a word in braces, and each driver puts its own spelling there:
//
//	{each $1} AS d          a table d(value) of the strings of a JSON array
//	{for update}            locks the rows read; {for update of b}, {for update skip locked}
//	{for key share}         keeps the rows read from being deleted, and lets others
//	                        do the same; {for key share of b}
//	{now}                   the database's clock when the statement began, in
//	                        microseconds since 1970
//	{loose}                 true; after a statement on its own that has it, a crash of
//	                        the database may undo what it wrote
//	{json d.value}          a JSON text of {each}, for ->> 'member' to read from
//	{tables}                a table of the tables there are, by name
//
// SQLite has one writer at a time, so that it needs no row locks.
var word = regexp.MustCompile(`\{(each \$[0-9]+|for [a-z ]+|json [a-z.]+|now|loose|tables)\}`)

// The spellings of each word; REST is what follows it within the braces.
var (
	sqliteWords = map[string]string{
		"each":   "json_each(REST)",
		"for":    "",
		"json":   "REST",
		"now":    "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
		"loose":  "TRUE",
		"tables": "(SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%')",
	}
	// As in the tables, so in a list: names sort by byte.
	postgresWords = map[string]string{
		"each":   `(SELECT e.v COLLATE "C" AS value FROM jsonb_array_elements_text(CAST(CAST(REST AS text) AS jsonb)) AS e(v))`,
		"for":    "FOR REST",
		"json":   "CAST(REST AS jsonb)",
		"now":    "CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS bigint)",
		"loose":  "set_config('synchronous_commit', 'off', TRUE) IS NOT NULL",
		"tables": "(SELECT tablename AS name FROM pg_catalog.pg_tables WHERE schemaname = current_schema())",
	}
)

// spell puts a database's spellings into a text.
func spell(words map[string]string, text string) string {
	return word.ReplaceAllStringFunc(text, func(w string) string {
		name, rest, _ := strings.Cut(strings.Trim(w, "{}"), " ")
		return strings.ReplaceAll(words[name], "REST", rest)
	})
}

// unavailableFor is when a client may try again: connections are made anew, and
// a server starts, in about that.
const unavailableFor = 2 * time.Second

// translate turns what a database says into this package's errors.
func translate(err error) error {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
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
	switch state := sqlState(err); {
	case strings.HasPrefix(state, "23"): // a broken key or check
		return fmt.Errorf("%w: %w", ErrConflict, err)
	case state == "53100": // disk_full
		return &oci.Error{Code: oci.NoSpace, Err: err}
	case passes(err), unavailable(state), gone(err) && !ended(err):
		return &oci.Error{Code: oci.Unavailable, RetryAfter: unavailableFor, Err: err}
	}
	return err
}

// sqlState is the code of what a Postgres server said, see "PostgreSQL Error
// Codes" in its manual; "" when it is no server's word.
func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// unavailable says that a server cannot do it now, but may soon, or that
// another can.
func unavailable(state string) bool {
	if len(state) != 5 {
		return false
	}
	switch state[:2] {
	case "08", // connection exception
		"53", // insufficient resources: memory, connections
		"57", // operator intervention: shutting down, starting up, cancelled
		"58": // system error
		return true
	}
	switch state {
	case "25006", // read_only_sql_transaction: a primary that has become a standby
		"25P03", "25P04", // a transaction that sat idle, or took too long
		"55P03": // lock_not_available
		return true
	}
	return false
}

// gone says that a Postgres server did not answer, or that the connection to
// it broke.
func gone(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		// FATAL and PANIC end the connection.
		return e.SeverityUnlocalized == "FATAL" || e.SeverityUnlocalized == "PANIC"
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*net.OpError](err); ok || pgconn.Timeout(err) {
		return true
	}
	return errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// ended says that whoever asked does not want the answer any more.
func ended(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// passes says that a transaction, or a look-up, did not happen, and may do so
// when it is tried again at once: it lost against another one, or the
// connection it was on was dead. A commit that was not answered may have
// happened, and is no such case.
func passes(err error) bool {
	if _, ok := errors.AsType[*unansweredError](err); ok || ended(err) {
		return false
	}
	if undone(err) {
		return true
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return false // the server is away: for longer than a few tries
	}
	return gone(err)
}

// undone says that a statement or transaction was in another one's way and was
// given up for it.
func undone(err error) bool {
	state := sqlState(err)
	return state == "40001" || state == "40P01" // serialization_failure, deadlock_detected
}

// unansweredError says that it is not known whether a commit has happened.
type unansweredError struct{ err error }

func (e *unansweredError) Error() string {
	return "the database did not answer whether it happened: " + e.err.Error()
}
func (e *unansweredError) Unwrap() error { return e.err }
