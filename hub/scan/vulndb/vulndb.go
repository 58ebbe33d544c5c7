// Package vulndb keeps Trivy's databases up to date: that of vulnerabilities,
// and that of Java archives. It fetches them as images through the hub's own
// proxy, or reads them from a file where there is no network, unpacks them
// beside the one in use, checks them, and puts them to use. One that is damaged
// is refused, and the one before goes on. What they say of images is
// hub/scan/match's, and the scanner's.
package vulndb

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Options say where a database comes from: an image, or File.
type Options struct {
	// Dir is this process's and this database's alone, for what is unpacked: 1 to
	// 2 GB, and twice that while it is changed.
	Dir string

	// Images is what Repo is pulled from, the hub's own proxies; Ref is usually
	// the version of the format, a tag.
	Images oci.Puller
	Repo   string
	Ref    oci.Reference

	// File is what is read instead: the image's layer (db.tar.gz), or the
	// database unpacked (trivy.db, trivy-java.db).
	File string

	// Every is how often a new one is looked for; 0 is six hours. A file is looked
	// at each minute.
	Every time.Duration
	// MaxBytes is how large it may be unpacked; 0 is 8 GiB.
	MaxBytes int64

	// Changed is called when a database was put to use; nil for nobody to tell.
	Changed func()
	// Metrics is where they are registered; nil for nowhere.
	Metrics prometheus.Registerer
	// Log hears of changes and failures; nil drops it.
	Log *slog.Logger
}

func (o Options) complete() Options {
	if o.Every <= 0 {
		o.Every = 6 * time.Hour
	}
	if o.File != "" {
		o.Every = min(o.Every, time.Minute)
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 8 << 30
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	return o
}

// DB is the database of vulnerabilities of this process. Its methods may be
// called concurrently.
type DB struct {
	*keeper
	rows     *meta.Store
	matcher  *match.Matcher
	database match.Database // in use; keeper's mutex guards it
}

// State is what there is of the database.
type State struct {
	Database  match.Database
	InUse     bool
	Source    string // where it came from
	Entries   int
	From      string    // where newer ones are looked for
	Looking   bool      // now
	LookedAt  time.Time // when the last look ended
	CheckedAt time.Time // when the last ended that did not fail
	Err       error     // why the last look failed; nil when it did not
}

// New returns a database that is not open yet: [DB.Run] opens it.
func New(rows *meta.Store, matcher *match.Matcher, o Options) *DB {
	d := &DB{rows: rows, matcher: matcher}
	d.keeper = newKeeper(kind{
		name: "vulnerability database", layerType: "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip",
		files: []string{"trivy.db", "metadata.json"}, check: check, use: d.useBy, damaged: matcher.Damaged(),
	}, o, rows.Now, newMetrics(o.Metrics, "vulndb", "vulnerability database"))
	return d
}

// State says what there is.
func (d *DB) State() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.state
	return State{
		Database: d.database, InUse: d.database.Revision != "", Source: s.have.Source, Entries: s.entries,
		From: d.source(), Looking: s.looking, LookedAt: s.lookedAt, CheckedAt: s.checkedAt, Err: s.err,
	}
}

// Run opens the database that is on disk, and looks for newer ones until ctx
// ends.
func (d *DB) Run(ctx context.Context) error {
	d.run(ctx)
	return d.matcher.Close()
}

// check reads all of the database in dir.
func check(dir string) (match.Info, error) {
	info, err := match.Check(dir)
	if errors.Is(err, match.ErrBroken) || errors.Is(err, match.ErrUnfit) {
		err = damage{err}
	}
	return info, err
}

// useBy has the matcher use what is in dir.
func (d *DB) useBy(ctx context.Context, dir string, c current, _ match.Info, again bool) error {
	var row meta.ScanDatabase
	var err error
	if again {
		row, err = d.rows.DatabaseOf(ctx, c.Revision)
	}
	if !again || errors.Is(err, meta.ErrNotFound) { // the rows may be another's, or an old backup's
		row, err = d.rows.AddDatabase(ctx, meta.ScanDatabase{Revision: c.Revision, Source: c.Source, MadeAt: c.MadeAt})
	}
	if err != nil {
		return err
	}
	db := match.Database{ID: row.ID, Revision: c.Revision, MadeAt: c.MadeAt}
	if err := d.matcher.Use(dir, db); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.database = db
	return nil
}
