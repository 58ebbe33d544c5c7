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
	Driver string // "sqlite"
	DSN    string // sqlite: the file's path; made when it is not there, with its folder

	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Log hears what goes wrong in the background; nil drops it.
	Log *slog.Logger
	// TouchEvery is how long uses are gathered in memory before they are
	// written; 0 is five seconds.
	TouchEvery time.Duration
}

// Store is an open database. Its methods may be called concurrently.
type Store struct {
	db      db
	lock    *os.File
	path    string
	now     func() time.Time
	touched touches
}

// Open opens the database and checks that this release can use it; it does
// not bring its schema up to date, see [Store.Migrate]. One process at a time
// may have it open.
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.Driver != "sqlite" {
		return nil, fmt.Errorf("metadata driver %q is not known, want sqlite", c.Driver)
	}
	if c.DSN == "" {
		return nil, errors.New("the metadata dsn is empty, want the path of a file")
	}
	path, err := filepath.Abs(c.DSN)
	if err != nil {
		return nil, err
	}
	s := &Store{path: path, now: c.Now}
	if s.now == nil {
		s.now = time.Now
	}
	s.touched.init(s, c)
	if err := s.open(ctx); err != nil {
		err = translate(err)
		if s.lock != nil {
			err = errors.Join(err, s.lock.Close())
		}
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) (err error) {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return err
	}
	if s.lock, err = lockFile(s.path + ".lock"); err != nil {
		return err
	}
	if err := makeFile(s.path); err != nil {
		return err
	}
	d, err := openSQLite(ctx, s.path)
	if err != nil {
		return err
	}
	s.db = d
	if err := s.checkSchema(ctx); err != nil {
		return errors.Join(err, d.Close())
	}
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

// Close writes what is still in memory and closes the database.
func (s *Store) Close() error {
	return errors.Join(s.touched.close(), s.db.Close(), s.lock.Close())
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
