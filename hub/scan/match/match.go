// Package match judges inventories: what is installed in an image against the
// vulnerability database that is in use. It reads nothing of images, and where
// the database comes from is hub/scan/vulndb's.
//
// The database is Trivy's, read in place from its file, so that it costs next
// to no memory of the process. Trivy's packages keep one such file open for the
// whole process; so does this one, behind a lock.
package match

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	tdb "github.com/aquasecurity/trivy-db/pkg/db"
	"github.com/aquasecurity/trivy/pkg/detector/library"
	_ "github.com/aquasecurity/trivy/pkg/detector/library/all" // what library.Detect knows beside its own
	"github.com/aquasecurity/trivy/pkg/detector/ospkg"
	"github.com/aquasecurity/trivy/pkg/detector/ospkg/driver"
	"github.com/aquasecurity/trivy/pkg/detector/ospkg/rapidfort"
	"github.com/aquasecurity/trivy/pkg/detector/ospkg/rootio"
	"github.com/aquasecurity/trivy/pkg/detector/ospkg/seal"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/types"
	"github.com/aquasecurity/trivy/pkg/vulnerability"
	"go.etcd.io/bbolt"

	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
)

// Database names a database in use.
type Database struct {
	ID       int64 // a newer one's is higher
	Revision string
	MadeAt   time.Time // by its maker
}

// From [Matcher.Match].
var (
	// ErrNoDatabase says that none is in use.
	ErrNoDatabase = errors.New("no vulnerability database is in use")
	// ErrTooMany says that an inventory is none of a real image.
	ErrTooMany = fmt.Errorf("it has more than %d findings", maxFindings)
	// ErrBroken says that the database's file is damaged.
	ErrBroken = errors.New("the vulnerability database is damaged")
	// ErrUnfit says, of [Check] alone, that it is whole, and none that can be
	// matched by.
	ErrUnfit = errors.New("the vulnerability database is of no use")
)

const (
	// maxFindings bounds what a hostile inventory can make of itself: an image of
	// years ago with everything installed has about 5,000.
	maxFindings = 30_000
)

// inUse is the one database of the process.
var inUse struct {
	sync.RWMutex
	by  *Matcher
	dir string
	db  Database
}

// Matcher matches. One at a time has a database in use; its methods may be
// called concurrently.
type Matcher struct {
	client    vulnerability.Client
	described described
	packages  *remembered
	damaged   chan struct{}

	soundMu sync.Mutex
	sound   time.Time // when the database in use was last found whole
}

// New returns a matcher without a database.
func New() *Matcher {
	d := newDescribed()
	return &Matcher{client: vulnerability.NewClient(d), described: d, packages: newRemembered(), damaged: make(chan struct{}, 1)}
}

// Use puts the database in dir (trivy.db) to use. Calls of Match that run go on
// with the one before, which is closed after them; when the new one cannot be
// opened, that stays in use. What is in dir is to be checked beforehand, see
// [Check], and left alone while it is in use.
func (m *Matcher) Use(dir string, db Database) error {
	inUse.Lock()
	defer inUse.Unlock()
	was := inUse.dir
	if err := tdb.Close(); err != nil {
		return err
	}
	if err := open(dir); err != nil {
		err = fmt.Errorf("open vulnerability database in %s: %w", dir, err)
		if was == "" {
			return err
		}
		if again := open(was); again != nil {
			inUse.by, inUse.dir = nil, ""
			return errors.Join(err, again)
		}
		return err
	}
	inUse.by, inUse.dir, inUse.db = m, dir, db
	m.Rest()
	m.soundMu.Lock()
	m.sound = time.Time{}
	m.soundMu.Unlock()
	return nil
}

// Damaged is ready once after the database in use was found damaged.
func (m *Matcher) Damaged() <-chan struct{} { return m.damaged }

// soundFor is how long a database counts as whole that was read to its end.
const soundFor = time.Minute

// blame says whose fault a panic was: the database's, or else that of what was
// being matched. The caller holds the lock of inUse.
func (m *Matcher) blame(p any) error {
	m.soundMu.Lock()
	defer m.soundMu.Unlock()
	if time.Since(m.sound) > soundFor {
		if _, err := walk(tdb.Path(inUse.dir)); err != nil {
			select {
			case m.damaged <- struct{}{}:
			default:
			}
			return fmt.Errorf("%w: %v", ErrBroken, p)
		}
		m.sound = time.Now()
	}
	return fmt.Errorf("it cannot be matched: %v", p)
}

// open opens a database to read it. Its lock is shared, so that another process
// may read it too.
func open(dir string) error {
	return tdb.Init(dir, tdb.WithBoltOptions(&bbolt.Options{ReadOnly: true, Timeout: time.Second}))
}

// Rest gives back the memory that makes matching many inventories fast; the next
// ones fill it again.
func (m *Matcher) Rest() {
	m.described.known.Purge()
	m.packages.forget()
}

// InUse is the database in use; false for none.
func (m *Matcher) InUse() (Database, bool) {
	inUse.RLock()
	defer inUse.RUnlock()
	return inUse.db, inUse.by == m
}

// Close ends the use of the database.
func (m *Matcher) Close() error {
	inUse.Lock()
	defer inUse.Unlock()
	if inUse.by != m {
		return nil
	}
	inUse.by, inUse.dir = nil, ""
	m.Rest()
	return tdb.Close()
}

// Result is what is known of an inventory.
type Result struct {
	Database  Database // by which
	Findings  []Finding
	EndOfLife bool // its OS gets no fixes any more
}

// Match returns what the database in use says of inv, which it does not change:
// the worst first. A finding's FirstSeen is left to the caller. [ErrBroken] is
// the database's fault, and that of each inventory; other errors, but ctx's and
// [ErrNoDatabase], are of this one.
func (m *Matcher) Match(ctx context.Context, inv *scanproto.Inventory) (r Result, err error) {
	inUse.RLock()
	defer inUse.RUnlock()
	if inUse.by != m {
		return r, ErrNoDatabase
	}
	// A page that cannot be read is a fault in memory, of a file that is mapped;
	// bbolt panics at one that makes no sense.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			r, err = Result{}, m.blame(p)
		}
	}()
	c := collector{m: m, ctx: ctx}
	r.Database = inUse.db
	if r.EndOfLife, err = c.osPackages(inv); err != nil {
		return Result{}, err
	}
	for _, app := range inv.Applications {
		if err := c.libraries(app); err != nil {
			return Result{}, err
		}
	}
	r.Findings = c.sorted()
	return r, nil
}

type collector struct {
	m    *Matcher
	ctx  context.Context // of one call
	all  []Finding
	seen map[seen]bool
}

// seen is what makes two findings the same to a person.
type seen struct{ id, name, version, path string }

// osPackages matches what the OS's package manager has installed, as Trivy's
// pkg/scan/ospkg does, but each package by itself: a hostile image has a thousand
// of which each is the kernel.
func (c *collector) osPackages(inv *scanproto.Inventory) (endOfLife bool, err error) {
	if inv.OS == nil || !inv.OS.Detected() || !inv.OS.Family.HasOSPackages() {
		return false, nil
	}
	target := types.ScanTarget{OS: *inv.OS, Repository: inv.Repository}
	if target.OS.Extended {
		target.OS.Name += "-ESM"
	}
	special := supplier(target.OS, inv.Packages)
	detect := func(pkgs ...ftypes.Package) ([]types.DetectedVulnerability, bool, error) {
		target.Packages = pkgs
		d, err := ospkg.NewDetector(target, ospkg.WithSupplier(func(ftypes.OS, []ftypes.Package) driver.Driver { return special }))
		if err != nil {
			return nil, false, err
		}
		vulns, eol, err := d.Detect(c.ctx)
		if err != nil {
			err = fmt.Errorf("match packages of %s %s: %w", target.OS.Family, target.OS.Name, err)
		}
		return vulns, eol, err
	}
	// Whether an OS is past its end does not depend on its packages.
	_, endOfLife, err = detect()
	if errors.Is(err, ospkg.ErrUnsupportedOS) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	of := osSubject(target.OS, inv.Repository)
	for i := range inv.Packages {
		p, s := &inv.Packages[i], subject{}
		if special == nil { // which looks at all packages
			s = subjectOf(of, p)
		}
		found, err := c.found(s, string(target.OS.Family), func() ([]types.DetectedVulnerability, error) {
			vulns, _, err := detect(*p)
			return vulns, err
		})
		if err != nil {
			return false, err
		}
		if err := c.add(found, p, ""); err != nil {
			return false, err
		}
	}
	return endOfLife, nil
}

// osSubject is an OS as a [subject] is of it: no two make the same text.
func osSubject(os ftypes.OS, repo *ftypes.Repository) string {
	of := fmt.Sprintf("%q %q", os.Family, os.Name)
	if repo != nil {
		of += fmt.Sprintf(" %q %q", repo.Family, repo.Release)
	}
	return of
}

// supplier is who maintains an OS's packages instead of its vendor, which shows
// in all of them together; nil for nobody.
func supplier(os ftypes.OS, all ftypes.Packages) driver.Driver {
	for _, s := range []driver.Supplier{rapidfort.Supplier, rootio.Supplier, seal.Supplier} {
		if d := s(os, all); d != nil {
			return d
		}
	}
	return nil
}

// libraries matches what one program is made of, or has beside it.
func (c *collector) libraries(app ftypes.Application) error {
	for i := range app.Packages {
		p := &app.Packages[i]
		if p.Dev {
			continue
		}
		s := subject{of: string(app.Type), name: p.Name, version: p.Version}
		found, err := c.found(s, string(app.Type), func() ([]types.DetectedVulnerability, error) {
			return library.Detect(c.ctx, app.Type, []ftypes.Package{*p})
		})
		if err != nil {
			return fmt.Errorf("match %s packages of %q: %w", app.Type, app.FilePath, err)
		}
		if err := c.add(found, p, cmp.Or(p.FilePath, app.FilePath)); err != nil {
			return err
		}
	}
	return nil
}

// auto is Trivy's order of whose severity counts: of the vendor whose package it
// is, then NVD's.
var auto = []dbSource{"auto"}

// found is what a package comes to, wherever it is: as is remembered of s, or
// else as detect says. Without a name, s is not remembered.
func (c *collector) found(s subject, kind string, detect func() ([]types.DetectedVulnerability, error)) ([]Finding, error) {
	if err := c.ctx.Err(); err != nil {
		return nil, err
	}
	if found, ok := c.m.packages.get(s); ok {
		return found, nil
	}
	vulns, err := detect()
	if err != nil {
		return nil, err
	}
	c.m.client.FillInfo(vulns, auto)
	found := make([]Finding, len(vulns))
	for i := range vulns {
		found[i] = finding(&vulns[i], kind)
	}
	if s.name != "" {
		c.m.packages.put(s, found)
	}
	return found, nil
}

// add adds what the package p comes to, that is at path.
func (c *collector) add(found []Finding, p *ftypes.Package, path string) error {
	for _, f := range found {
		f.DiffID, f.Path = p.Layer.DiffID, path
		key := seen{f.ID, f.Package, f.Installed, f.Path}
		if c.seen[key] {
			continue
		}
		if len(c.all) == maxFindings {
			return ErrTooMany
		}
		if c.seen == nil {
			c.seen = make(map[seen]bool)
		}
		c.seen[key] = true
		c.all = append(c.all, f)
	}
	return nil
}

func (c *collector) sorted() []Finding {
	slices.SortFunc(c.all, func(a, b Finding) int {
		if a.Severity != b.Severity {
			return int(b.Severity) - int(a.Severity)
		}
		for _, pair := range [][2]string{{a.ID, b.ID}, {a.Package, b.Package}, {a.Installed, b.Installed}, {a.Path, b.Path}} {
			if d := strings.Compare(pair[0], pair[1]); d != 0 {
				return d
			}
		}
		return 0
	})
	return c.all
}
