// Package scan finds out what is installed in the images of a hub, and what is
// known to be wrong with that.
//
// A scan is a job of hub/meta, one for each image for one platform. Workers
// claim jobs, start the program breakwater-scan for each, and hand it layers as
// streams, see hub/scan/scanproto: what strangers wrote is taken apart in a
// process of its own, that may run out of memory, hang or crash without harm.
// What it finds is kept, and matched against each new vulnerability database
// without another look at the image, see hub/scan/match.
//
// What follows from that for a pull is for package policy to say; here are the
// facts it needs.
package scan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/hub/scan/vulndb"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy/shape"
)

// Options of a service. Images must be given, and Dir.
type Options struct {
	// Images is what the hub holds and proxies. It is asked by a caller who may
	// read everything.
	Images oci.Puller
	// Dir is this process's alone, for what running scans put on disk; an absolute
	// path where there is a User.
	Dir string

	// Scanner is asked to look into images, in the program's place; nil has the
	// program do it.
	Scanner Scanner
	// Program is the scanner: a path, or a name to be found beside this program
	// or in PATH. "" is breakwater-scan. It may come and go.
	Program string
	// Workers is how many scans run at once in this process; 0 is one, a
	// negative number none.
	Workers int
	// MemoryBytes is what one may use; 0 is 1 GiB.
	MemoryBytes int64
	// DiskBytes is what one may put on disk; 0 is 4 GiB.
	DiskBytes int64
	// User is whom the program runs as: a name, or UID:GID; "" is the hub's own.
	// Only root can.
	User string
	// Timeout is how long one may take; 0 is 10 minutes.
	Timeout time.Duration
	// MaxLayerBytes and MaxLayerFiles are how large a layer may be unpacked; 0 is
	// 16 GiB and a million.
	MaxLayerBytes int64
	MaxLayerFiles int
	// MaxAttempts is how often a scan is begun that fails for a reason that may
	// pass; 0 is four times. One that runs out of time or memory is begun twice.
	MaxAttempts int
	// RetryAfter is the time between the first and the second attempt; it grows
	// fourfold with each. 0 is ten seconds.
	RetryAfter time.Duration
	// Every is how often all images are looked through for those that were not
	// scanned yet, or failed to be; 0 is a day, and a negative one never.
	Every time.Duration
	// Platforms are those of an index that are scanned: "linux/amd64". None is
	// all, and so are those of an index that has none of them.
	Platforms []string
	// Java is what jars are looked up in, which say nothing of themselves; nil for
	// nothing.
	Java *vulndb.Java
	// SBOM has each scan write an SPDX and a CycloneDX document, for Publisher.
	SBOM bool
	// Publisher puts beside images what is known of them; nil for nobody.
	Publisher Publisher
	// Name is what an image in a repository is called by people; nil is the
	// repository's name.
	Name func(repo string) string

	// Metrics is where they are registered; nil for nowhere.
	Metrics prometheus.Registerer
	// Log hears of what went wrong; nil drops it.
	Log *slog.Logger
}

func (o Options) complete() Options {
	o.Program = cmp.Or(o.Program, "breakwater-scan")
	if o.Workers == 0 {
		o.Workers = 1
	}
	o.MemoryBytes = cmp.Or(o.MemoryBytes, 1<<30)
	o.DiskBytes = cmp.Or(o.DiskBytes, 4<<30)
	o.Timeout = cmp.Or(o.Timeout, 10*time.Minute)
	o.MaxLayerBytes = cmp.Or(o.MaxLayerBytes, 16<<30)
	o.MaxLayerFiles = cmp.Or(o.MaxLayerFiles, 1_000_000)
	o.MaxAttempts = cmp.Or(o.MaxAttempts, 4)
	o.RetryAfter = cmp.Or(o.RetryAfter, 10*time.Second)
	o.Every = cmp.Or(o.Every, 24*time.Hour)
	if o.Name == nil {
		o.Name = func(repo string) string { return repo }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Service scans images. Its methods may be called concurrently, and before Run.
type Service struct {
	rows    *meta.Store
	matcher *match.Matcher
	o       Options
	metrics *metrics
	by      worker
	pack    packer
	shapes  *shape.Looker
	as      *account

	jobs, matches, statements, passes wake

	mu      sync.Mutex
	running map[*run]bool // by run: one that was stopped may still end while the next is begun
	watches map[string]*watch
	news    chan struct{} // closed at the next news of any scan
	program string        // path or URL where the scanner was last found; "" for nowhere
	scanner string        // name and version, as it last said
}

// New returns a service that matches by the database that matcher has in use.
func New(rows *meta.Store, matcher *match.Matcher, o Options) (*Service, error) {
	if o.Images == nil || o.Dir == "" {
		return nil, errors.New("scans need images and a folder")
	}
	o = o.complete()
	s := &Service{
		rows: rows, matcher: matcher, o: o,
		jobs: newWake(), matches: newWake(), statements: newWake(), passes: newWake(),
		running: make(map[*run]bool), watches: make(map[string]*watch), news: make(chan struct{}),
	}
	s.metrics = newMetrics(o.Metrics)
	if s.by = (program{s}); o.Scanner != nil {
		s.by = &remote{Service: s, by: o.Scanner}
	}
	var err error
	if s.pack, err = newPacker(); err != nil {
		return nil, err
	}
	if s.as, err = lookup(o.User); err != nil {
		return nil, fmt.Errorf("user of scans: %w", err)
	}
	s.shapes = shape.New(o.Images, maxShapes)
	return s, nil
}

// Run works until ctx ends: it scans, matches, publishes, and looks through all
// images. Scans under way are then given to others.
func (s *Service) Run(ctx context.Context) error {
	if err := s.clear(); err != nil {
		return fmt.Errorf("folder of scans: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { s.dispatch(ctx); return nil })
	g.Go(func() error { s.matchForever(ctx); return nil })
	g.Go(func() error { s.passForever(ctx); return nil })
	if s.o.Publisher != nil {
		g.Go(func() error { s.publishForever(ctx); return nil })
	}
	return g.Wait()
}

// clear removes what scans of a process that was killed left on disk.
func (s *Service) clear() error {
	if err := os.MkdirAll(s.o.Dir, 0o700); err != nil {
		return err
	}
	if err := errors.Join(s.as.pass(s.o.Dir), s.as.reaches(s.o.Dir)); err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(s.o.Dir, jobFolder+"*"))
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// Told hears what the hubs that share the database tell each other, see
// [meta.Store.Listen]. What is missed is found out a little later.
func (s *Service) Told(topic string) {
	if topic == "" || topic == meta.ScanTopic || strings.HasPrefix(topic, meta.ScanTopic+"/sha") { // perhaps one was stopped
		s.jobs.now()
	}
	if topic == "" || topic == meta.MatchTopic {
		s.statements.now()
	}
	if topic == "" || strings.HasPrefix(topic, meta.ScanTopic+"/") {
		s.mu.Lock()
		close(s.news)
		s.news = make(chan struct{})
		s.mu.Unlock()
	}
}

// NewDatabase hears that another database is in use.
func (s *Service) NewDatabase() { s.matches.now() }

// State is what there is to say of scans as a whole.
type State struct {
	Program string // path or URL of the scanner; "" when it is not there
	Scanner string // its name and version, once it has said so
	Workers int    // of this process
	Running int    // of them
	Jobs    map[meta.ScanState]int64
	// Database is in use by this process, or by another's scanner: then it has
	// scanned something by it. Matched of Inventories were matched by it, or a
	// newer one; the rest is on its way.
	Database             match.Database
	HasDatabase          bool
	Matched, Inventories int64
	// Java is the Java database of this process; nil where none is wanted.
	Java *vulndb.JavaState
}

// State says what there is to say.
func (s *Service) State(ctx context.Context) (st State, err error) {
	s.mu.Lock()
	st = State{Program: s.program, Scanner: s.scanner, Workers: max(0, s.o.Workers), Running: len(s.running), Java: s.javaState()}
	s.mu.Unlock()
	if st.Database, st.HasDatabase, err = s.by.database(ctx); err != nil {
		return st, err
	}
	if st.Jobs, err = s.rows.ScanCounts(ctx); err != nil {
		return st, err
	}
	st.Matched, st.Inventories, err = s.rows.Matched(ctx, st.Database.ID)
	return st, err
}

// asService is a context in which images are read.
func asService(ctx context.Context) context.Context {
	return oci.WithCaller(ctx, oci.Caller{Name: "breakwater-scan", Admin: true})
}

// wake has a loop that rests go on.
type wake chan struct{}

func newWake() wake { return make(wake, 1) }

func (w wake) now() {
	select {
	case w <- struct{}{}:
	default:
	}
}

// rest waits until it is woken, or for a while; false: ctx has ended.
func (w wake) rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-w:
	case <-t.C:
	}
	return true
}

// matchers is how many inventories are matched at once: enough to be done soon,
// and few enough to leave the machine to pulls.
func matchers() int { return min(2, runtime.GOMAXPROCS(0)) }
