package vulndb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/breakwater-oci/breakwater/hub/scan/match"
)

// javaFolder is where breakwater-scan looks for the database, in the folder that
// it is given.
const javaFolder = "java-db"

// javaSchema is the version of the format that breakwater-scan reads.
const javaSchema = 1

// Java is the database of Java archives: which one a file is, by its SHA-1. It
// is read by scanners, processes of their own, each of which opens it when it
// begins and keeps it. Its methods may be called concurrently.
type Java struct {
	*keeper

	hold sync.Mutex
	dir  string         // in use; "" none
	uses map[string]int // of each folder that scans use
}

// JavaState is what there is of it.
type JavaState struct {
	Revision  string // "": none is in use
	Source    string
	MadeAt    time.Time // by its maker
	Entries   int       // archives that it knows, about
	From      string    // where newer ones are looked for
	Looking   bool      // now
	LookedAt  time.Time // when the last look ended
	CheckedAt time.Time // when the last ended that did not fail
	Err       error     // why the last look failed; nil when it did not
}

// NewJava returns a database that is not open yet: [Java.Run] opens it. now is
// the hub's clock.
func NewJava(now func() time.Time, o Options) *Java {
	j := &Java{uses: make(map[string]int)}
	j.keeper = newKeeper(kind{
		name: "Java database", layerType: "application/vnd.aquasec.trivy.javadb.layer.v1.tar+gzip",
		files: []string{"trivy-java.db", "metadata.json"}, folder: javaFolder,
		check: checkJava, use: j.useBy, held: j.isHeld,
	}, o, now, newMetrics(o.Metrics, "javadb", "Java database"))
	return j
}

// State says what there is.
func (j *Java) State() JavaState {
	s := j.stateNow()
	return JavaState{
		Revision: s.have.Revision, Source: s.have.Source, MadeAt: s.have.MadeAt, Entries: s.entries,
		From: j.source(), Looking: s.looking, LookedAt: s.lookedAt, CheckedAt: s.checkedAt, Err: s.err,
	}
}

// Run opens the database that is on disk, and looks for newer ones until ctx
// ends.
func (j *Java) Run(ctx context.Context) error {
	j.run(ctx)
	return nil
}

// Hold returns the folder of the database in use, for a scan, and has it stay
// until release is called, once. It is "" while there is none.
func (j *Java) Hold() (dir string, release func()) {
	j.hold.Lock()
	defer j.hold.Unlock()
	if j.dir == "" {
		return "", func() {}
	}
	dir = j.dir
	j.uses[dir]++
	return dir, func() { j.release(dir) }
}

// release gives a folder up. The last scan that used one that was replaced
// removes it.
func (j *Java) release(dir string) {
	j.hold.Lock()
	defer j.hold.Unlock() // to its end: the folder may be about to be used again
	if j.uses[dir]--; j.uses[dir] > 0 {
		return
	}
	delete(j.uses, dir)
	if dir == j.dir {
		return
	}
	if err := os.RemoveAll(dir); err != nil {
		j.o.Log.Warn("an old Java database stays on disk until the next is used", "dir", dir, "err", err)
	}
}

func (j *Java) isHeld(dir string) bool {
	j.hold.Lock()
	defer j.hold.Unlock()
	return j.uses[dir] > 0
}

// useBy has scans that begin use what is in dir.
func (j *Java) useBy(_ context.Context, dir string, _ current, _ match.Info, _ bool) error {
	j.hold.Lock()
	defer j.hold.Unlock()
	if _, err := os.Stat(dir); err != nil { // released since it was found held
		return err
	}
	j.dir = dir
	return nil
}

// checkJava opens the database in dir and asks it what a scanner will ask.
func checkJava(dir string) (info match.Info, err error) {
	text, err := os.ReadFile(filepath.Join(dir, javaFolder, "metadata.json"))
	if errors.Is(err, os.ErrNotExist) {
		return info, damage{errors.New("it has no metadata.json, which says what format it is of")}
	}
	if err != nil {
		return info, err
	}
	var m struct {
		Version               int
		NextUpdate, UpdatedAt time.Time
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return info, damage{fmt.Errorf("metadata.json: %w", err)}
	}
	if m.Version != javaSchema {
		return info, damage{fmt.Errorf("the Java database has schema %d, this release reads %d", m.Version, javaSchema)}
	}
	info.MadeAt, info.NextUpdate = m.UpdatedAt, m.NextUpdate
	info.Entries, err = askJava(filepath.Join(dir, javaFolder, "trivy-java.db"))
	return info, err
}

// askJava says how many archives the database knows, about.
func askJava(path string) (entries int, err error) {
	if _, err := os.Stat(path); err != nil {
		return 0, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return 0, err
	}
	// Nobody writes to it: no locks, no journal beside it.
	name := url.URL{Scheme: "file", Path: path, RawQuery: "mode=ro&immutable=1"}
	db, err := sql.Open("sqlite", name.String())
	if err != nil {
		return 0, damage{fmt.Errorf("it is no Java database of Trivy: %w", err)}
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	ctx := context.Background() // it takes milliseconds
	var last sql.NullInt64      // rows are not removed: to count them would take minutes
	if err := db.QueryRowContext(ctx, `SELECT max(rowid) FROM indices`).Scan(&last); err != nil {
		return 0, noJava(err)
	}
	if last.Int64 == 0 {
		return 0, damage{errors.New("the Java database is empty")}
	}
	var group, artifact, version, kind string
	var sum []byte
	err = db.QueryRowContext(ctx, `
		SELECT a.group_id, a.artifact_id, i.version, i.archive_type, i.sha1
		  FROM indices i JOIN artifacts a ON a.id = i.artifact_id
		 WHERE i.sha1 = (SELECT sha1 FROM indices WHERE rowid = $1)`, last.Int64).Scan(&group, &artifact, &version, &kind, &sum)
	if err != nil {
		return 0, noJava(err)
	}
	return int(last.Int64), nil
}

// noJava is a query's error: damage, unless it is the disk's, or a want of files
// or memory.
func noJava(err error) error {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		switch e.Code() & 0xff { // the rest says more of the same
		case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM:
			return fmt.Errorf("the Java database cannot be read: %w", err)
		}
	}
	return damage{fmt.Errorf("it is no Java database of Trivy: %w", err)}
}
