// Package meta is the hub's memory of everything but bytes: each SQL statement
// of the hub, its schema and its migrations.
//
// Methods are facts and transactions, not decisions: what may be read by whom,
// and what a client is told, is for others. Repositories are named by their
// whole path, whose first segment names the project.
package meta

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// Config says where the database is.
type Config struct {
	Driver string // "sqlite" or "postgres"
	// DSN is, of sqlite, the file's path, made when it is not there, with its
	// folder; of postgres, a URL or a list of keywords as libpq has them
	// ("Connection Strings"). search_path may name a schema of ours among
	// others', pool_max_conns bounds the connections (the larger of 10 and four
	// times the CPUs), and default_query_exec_mode=exec is for a pooler such as
	// pgbouncer that gives each transaction another connection.
	DSN string
	// ListenDSN is, of postgres, how to reach the server itself when DSN is
	// that of a pooler: notifications and migrations need a connection that
	// stays theirs. "" is DSN.
	ListenDSN string

	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Log hears what goes wrong in the background; nil drops it.
	Log *slog.Logger
	// TouchEvery is how long uses are gathered in memory before they are
	// written; 0 is five seconds.
	TouchEvery time.Duration
	// GC is how long garbage collection waits; its zero value has defaults.
	GC GC
}

// Store is an open database. Its methods may be called concurrently.
type Store struct {
	db      db
	lock    *os.File // nil of Postgres
	name    string   // for messages: without a password
	knows   int64    // the newest version of the schema that this release knows
	now     func() time.Time
	touched touches
	replica replica
	holds   holds
	gc      GC

	// The look-ups of the pull path.
	manifests herd[lookupKey, Manifest]
	grants    herd[lookupKey, GrantedBlob]
}

// Open opens the database and checks that this release can use it, ErrNewer
// where it cannot; it does not bring its schema up to date, see
// [Store.Migrate]. A newer schema may be used by the releases that its own says
// it may, so that one can be rolled back. A SQLite file is one
// process's at a time; a Postgres database may be many hubs'.
func Open(ctx context.Context, c Config) (*Store, error) {
	newest, err := newestSchema()
	if err != nil {
		return nil, err
	}
	return openKnowing(ctx, c, newest)
}

// openKnowing is Open of a release that knows the schema up to a version.
func openKnowing(ctx context.Context, c Config, newest int64) (*Store, error) {
	s := &Store{knows: newest, now: c.Now, gc: c.GC.complete()}
	if s.now == nil {
		s.now = time.Now
	}
	s.touched.init(s, c)
	s.replica.init(s, c)
	open, err := s.opener(c)
	if err != nil {
		return nil, err
	}
	if err := open(ctx); err != nil {
		return nil, fmt.Errorf("open database %s: %w", s.name, translate(err))
	}
	if err := s.checkSchema(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", s.name, err), s.closeDatabase())
	}
	return s, nil
}

// opener says what is wrong with the configuration, or what opens s.db.
func (s *Store) opener(c Config) (func(context.Context) error, error) {
	switch {
	case c.Driver == "sqlite" && c.DSN == "":
		return nil, errors.New("the metadata dsn is empty, want the path of a file")
	case c.Driver == "sqlite":
		path, err := filepath.Abs(c.DSN)
		s.name = path
		return func(ctx context.Context) error { return s.openSQLite(ctx, path) }, err
	case c.Driver == "postgres" && c.DSN == "":
		return nil, errors.New("the metadata dsn is empty, want postgres://user@host/name?options")
	case c.Driver == "postgres":
		pool, direct, err := parsePostgres(c.DSN, c.ListenDSN)
		if err != nil {
			return nil, err
		}
		s.name = fmt.Sprintf("%s at %s", pool.ConnConfig.Database, pool.ConnConfig.Host)
		return func(ctx context.Context) error {
			d, err := openPostgres(ctx, pool, direct)
			if err == nil {
				s.db = d
			}
			return err
		}, nil
	}
	return nil, fmt.Errorf("metadata driver %q is not known, want sqlite or postgres", c.Driver)
}

func (s *Store) openSQLite(ctx context.Context, path string) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if s.lock, err = lockFile(path + ".lock"); err != nil {
		return err
	}
	if err := makeFile(path); err != nil {
		return errors.Join(err, s.lock.Close())
	}
	d, err := openSQLite(ctx, path)
	if err != nil {
		return errors.Join(err, s.lock.Close())
	}
	s.db = d
	return nil
}

// makeFile makes an empty file, which SQLite takes for an empty database, so
// that it and the files SQLite puts beside it are nobody else's to read, and
// that its name is on disk before anything in it is.
func makeFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Close writes what is still in memory, ends this replica, and closes the
// database. It waits for calls that still run.
func (s *Store) Close() error {
	return errors.Join(s.touched.close(), s.replica.close(), s.closeDatabase())
}

func (s *Store) closeDatabase() error {
	err := s.db.Close()
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	return err
}

// Now is the store's clock.
func (s *Store) Now() time.Time { return s.now() }

// nowMicros is the present as it is stored.
func (s *Store) nowMicros() int64 { return usec(s.now()) }

// Ping says whether the database answers.
func (s *Store) Ping(ctx context.Context) (err error) {
	defer wrap(&err, "meta.Ping")
	var one int
	return s.db.QueryRow(ctx, `SELECT 1`).Scan(&one)
}
