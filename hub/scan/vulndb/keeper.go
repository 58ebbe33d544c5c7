package vulndb

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// kind is what one of Trivy's databases has of its own.
type kind struct {
	name      string   // for people
	layerType string   // of the image's one layer, a tar
	files     []string // of the tar, those that are unpacked: the database, and what it says of itself
	folder    string   // where a revision's files are, in its own folder

	// check says what is wrong with what was unpacked into a folder: an error that
	// is not the disk's is a [damage].
	check func(dir string) (match.Info, error)
	// use puts what was checked to use; again is that it was in use when the
	// process ended.
	use func(ctx context.Context, dir string, c current, info match.Info, again bool) error
	// held says whether a folder is to stay, though another is in use; nil never.
	held func(dir string) bool
	// damaged is ready when what is in use was found damaged; nil never.
	damaged <-chan struct{}
}

// keeper has one database on disk, the newest that it could get, and the rest
// is removed.
type keeper struct {
	kind    kind
	o       Options
	now     func() time.Time
	metrics *metrics
	woken   chan struct{} // another replica has found one
	asked   chan struct{} // somebody wants one that was refused tried again, too

	turn chan struct{} // one update at a time; the rest belongs to who has it
	have current       // what is on disk and in use
	file fileMark      // of File, when it was last read
	bad  refused       // not fetched again

	mu    sync.Mutex
	state state
}

// refused is a revision that is damaged, and how.
type refused struct {
	revision string
	why      error
}

// state is what there is of a database.
type state struct {
	have      current
	looking   bool
	lookedAt  time.Time // the end of the last look
	checkedAt time.Time // of the last that did not fail
	entries   int
	err       error
}

// current is what a file beside the unpacked database says of it.
type current struct {
	Revision string    `json:"revision"`
	Source   string    `json:"source"`
	MadeAt   time.Time `json:"madeAt"`
}

const currentFile = "current.json"

func newKeeper(k kind, o Options, now func() time.Time, m *metrics) *keeper {
	return &keeper{kind: k, o: o.complete(), now: now, metrics: m, woken: make(chan struct{}, 1), asked: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
}

// Wake has Run look for a new database now: another replica has found one.
func (d *keeper) Wake() {
	select {
	case d.woken <- struct{}{}:
	default:
	}
}

// Look has Run look for a new database now, and try again one that was refused.
func (d *keeper) Look() {
	select {
	case d.asked <- struct{}{}:
	default:
	}
}

const (
	// retryFirst is after how long a look that failed is repeated, each time
	// after twice as long, but not more than retryLast.
	retryFirst, retryLast = 10 * time.Second, 10 * time.Minute
)

// run opens the database that is on disk, and looks for newer ones until ctx
// ends.
func (d *keeper) run(ctx context.Context) {
	retry, again, opened := retryFirst, false, false
	said := "" // why the look before failed: the same is not told of again
	for {
		pause := d.o.Every
		if !opened {
			opened = d.reopened(ctx)
		}
		if _, err := d.Update(ctx, again); err != nil && ctx.Err() == nil {
			level := slog.LevelWarn
			if err.Error() == said {
				level = slog.LevelDebug
			}
			said = err.Error()
			d.o.Log.Log(ctx, level, "a database is not brought up to date", "database", d.kind.name, "err", err, "source", d.source())
			pause, retry = min(retry, d.o.Every), min(2*retry, retryLast)
		} else {
			retry, opened, said = retryFirst, true, "" // it is that, or newer
		}
		again = false
		tick := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-d.woken:
			tick.Stop()
		case <-d.asked:
			tick.Stop()
			again = true
		case <-d.kind.damaged:
			tick.Stop()
			if err := d.forget(ctx); err == nil {
				d.o.Log.Warn("the database in use was found damaged: it is fetched again", "database", d.kind.name, "source", d.source())
			}
		case <-tick.C:
		}
	}
}

// forget has the next update fetch also what is in use.
func (d *keeper) forget(ctx context.Context) error {
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	d.have, d.file = current{}, fileMark{}
	return nil
}

func (d *keeper) source() string {
	if d.o.File != "" {
		return d.o.File
	}
	if d.o.Ref.IsDigest() {
		return d.o.Repo + "@" + d.o.Ref.String()
	}
	return d.o.Repo + ":" + d.o.Ref.String()
}

// lock waits for the turn.
func (d *keeper) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case d.turn <- struct{}{}:
		return func() { <-d.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// reopened says whether what is on disk is to be left at that: it is in use, or
// of no use. A fault of the disk, or a want of files, may pass.
func (d *keeper) reopened(ctx context.Context) bool {
	err := d.reopen(ctx)
	if err != nil && ctx.Err() == nil {
		d.o.Log.Warn("a database on disk is not used", "database", d.kind.name, "err", err)
	}
	return err == nil || isDamage(err)
}

// reopen puts to use what was in use when the process ended, and removes all
// else from the folder. What cannot be read now, but is not damaged, stays.
func (d *keeper) reopen(ctx context.Context) error {
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	text, err := os.ReadFile(filepath.Join(d.o.Dir, currentFile))
	if errors.Is(err, fs.ErrNotExist) {
		return d.sweep("")
	}
	if err != nil {
		return err
	}
	var c current
	if err := json.Unmarshal(text, &c); err != nil {
		return errors.Join(damage{err}, d.sweep("")) // nobody knows what is there
	}
	info, err := d.kind.check(d.dir(c.Revision))
	if isDamage(err) {
		return errors.Join(err, d.sweep(""))
	}
	if err != nil {
		return err
	}
	return d.use(ctx, c, info, true)
}

// Update looks for a new database and puts it to use, after an update that is
// under way. again has it try one that was refused before. changed says that
// there was one.
func (d *keeper) Update(ctx context.Context, again bool) (changed bool, err error) {
	unlock, err := d.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	d.note(func(s *state) { s.looking = true })
	if again {
		d.bad, d.file = refused{}, fileMark{}
	}
	changed, err = d.look(ctx)
	d.note(func(s *state) {
		s.looking, s.lookedAt = false, d.now()
		if s.err = err; err == nil {
			s.checkedAt = s.lookedAt
		}
	})
	d.metrics.looked(changed, err)
	return changed, err
}

func (d *keeper) look(ctx context.Context) (changed bool, err error) {
	if err := os.MkdirAll(d.o.Dir, 0o700); err != nil {
		return false, err
	}
	if d.o.File != "" {
		return d.fromFile(ctx)
	}
	return d.fromImage(oci.WithCaller(ctx, oci.Caller{Name: "breakwater-scan", Admin: true}))
}

func (d *keeper) note(fn func(*state)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fn(&d.state)
}

func (d *keeper) stateNow() state {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

// install checks what was unpacked into dir and puts it to use.
func (d *keeper) install(ctx context.Context, dir string, c current) error {
	info, err := d.kind.check(dir)
	if err != nil {
		return errors.Join(d.refuse(c.Revision, err), os.RemoveAll(dir))
	}
	c.MadeAt = info.MadeAt
	final := d.dir(c.Revision)
	switch {
	case dir == final:
	case d.held(final): // it was in use before, and is what this one is
		err = os.RemoveAll(dir)
	default:
		err = errors.Join(os.RemoveAll(final), os.Rename(dir, final))
	}
	if err != nil {
		return err
	}
	if err := d.use(ctx, c, info, false); err != nil {
		return err
	}
	d.o.Log.Info("database in use", "database", d.kind.name, "revision", c.Revision, "made", c.MadeAt, "entries", info.Entries, "source", c.Source)
	d.o.Changed()
	return nil
}

// use puts a checked database to use and forgets all others.
func (d *keeper) use(ctx context.Context, c current, info match.Info, again bool) error {
	if err := d.kind.use(ctx, d.dir(c.Revision), c, info, again); err != nil {
		return err
	}
	d.have = c
	d.note(func(s *state) { s.have, s.entries = c, info.Entries })
	d.metrics.uses(c.MadeAt, info)
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(d.o.Dir, currentFile), text); err != nil {
		return err
	}
	return d.sweep(c.Revision)
}

// dir is where a revision is unpacked.
func (d *keeper) dir(revision string) string {
	return filepath.Join(d.o.Dir, "db-"+oci.FromBytes([]byte(revision)).Encoded()[:16])
}

func (d *keeper) held(dir string) bool { return d.kind.held != nil && d.kind.held(dir) }

// sweep removes all that is unpacked but one revision, and what is held.
func (d *keeper) sweep(revision string) error {
	found, err := filepath.Glob(filepath.Join(d.o.Dir, "db-*"))
	for _, dir := range found {
		if (revision == "" || dir != d.dir(revision)) && !d.held(dir) {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}
	return err
}

// writeFile replaces a file at once.
func writeFile(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
