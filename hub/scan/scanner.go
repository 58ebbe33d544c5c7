package scan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Scanner is another's scanner, in the program's place. It fetches images by
// itself, has a vulnerability database of its own, and says what is wrong with
// an image, not what is in it: when it knows more, images are scanned again.
// Its methods may be called concurrently.
type Scanner interface {
	// About says who it is, now. An error is that scans cannot be begun.
	About(ctx context.Context) (About, error)
	// Scan has it look into an image, until ctx ends. A [scanproto.Failed] is why
	// the image has no findings; any other error is the scanner's fault, and may
	// pass.
	Scan(ctx context.Context, img Task) (Found, error)
}

// About is what a scanner says of itself.
type About struct {
	Where   string    // for people: its URL
	Name    string    // with its version
	Updated time.Time // when its vulnerability database was made; zero: it does not say
}

// release names the scanner with what it knows. Images that were scanned by
// another one are scanned again, at the next pass: of a scanner that does not
// say how old its database is, there is another one each day.
func (a About) release(now time.Time) string {
	if a.Updated.IsZero() {
		return a.Name + ", of " + now.UTC().Format(time.DateOnly)
	}
	return a.Name + ", database of " + a.Updated.UTC().Format(time.RFC3339)
}

// Task is an image for a scanner to look into: no index.
type Task struct {
	Repo      string // in this hub
	Manifest  oci.Descriptor
	Documents []string // media types of those that are wanted as well
}

// Found is what a scanner found.
type Found struct {
	Findings  []match.Finding   // the worst first; FirstSeen is left to the service
	Documents map[string][]byte // by media type: of those that were wanted, what it could make
}

// worker is what looks into images for a service.
type worker interface {
	// ready says whether scans can be begun.
	ready(ctx context.Context) bool
	// scan looks into the image that a run has opened. What it returns is to be
	// kept; the error may be a [badEnd].
	scan(r *run) (meta.Inventory, meta.Findings, error)
	// database is by what images are judged now; false for nothing yet.
	database(ctx context.Context) (db match.Database, ok bool, err error)
}

// program is the worker that starts the scanner's program, and matches what that
// found.
type program struct{ *Service }

func (p program) ready(context.Context) bool { return p.findProgram() }

func (p program) database(context.Context) (match.Database, bool, error) {
	db, ok := p.matcher.InUse()
	return db, ok, nil
}

func (p program) scan(r *run) (inv meta.Inventory, found meta.Findings, err error) {
	if err := p.runProgram(r); err != nil {
		return inv, found, err
	}
	// What the program has told is whole from here on.
	if f := r.failed; f != nil {
		return inv, found, &badEnd{string(f.Reason), f.Message, f.Reason.Final()}
	}
	inv = meta.Inventory{Scanner: scannerName(r.inventory.Scanner), Body: p.pack.bytes(r.body), Packages: len(r.inventory.Packages)}
	for _, a := range r.inventory.Applications {
		inv.Packages += len(a.Packages)
	}
	p.mu.Lock()
	p.scanner = inv.Scanner
	p.mu.Unlock()
	was, err := p.before(r)
	if err != nil {
		return inv, found, err
	}
	found, err = p.judge(r.ctx, r.inventory, was)
	return inv, found, err
}

// before is what was found in a run's image earlier.
func (s *Service) before(r *run) ([]byte, error) {
	all, err := s.rows.ScanResults(r.ctx, []oci.Digest{r.job.Digest}, true)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return all[0].Findings.Body, nil
}

const (
	// aboutEvery is how often a scanner is asked who it is, aboutRetry how soon
	// again when it has not answered.
	aboutEvery, aboutRetry = time.Minute, 10 * time.Second
	aboutTimeout           = 5 * time.Second
)

// foreign is the version of the inventory of an image that another's scanner
// has scanned: there is none. Should the program take over, that says that it
// must look at the image.
const foreign = 0

// remote is the worker that asks another's scanner.
type remote struct {
	*Service
	by Scanner

	asking sync.Mutex
	again  time.Time // then it is asked anew who it is
	ok     bool      // it has said so
	about  About
}

func (m *remote) ready(ctx context.Context) bool {
	if m.o.Workers < 0 {
		return false
	}
	m.asking.Lock()
	defer m.asking.Unlock()
	now := time.Now()
	if now.Before(m.again) {
		return m.ok
	}
	asked, cancel := context.WithTimeout(ctx, aboutTimeout)
	defer cancel()
	about, err := m.by.About(asked)
	if ctx.Err() != nil {
		return false
	}
	was := m.ok
	if m.ok = err == nil; m.ok {
		m.about, m.again = about, now.Add(aboutEvery)
	} else {
		m.again = now.Add(aboutRetry)
	}
	m.mu.Lock()
	if m.program = ""; m.ok {
		m.program, m.scanner = m.about.Where, m.about.release(m.rows.Now())
	}
	scanner := m.scanner
	m.mu.Unlock()
	switch {
	case m.ok && !was:
		m.o.Log.Info("images are scanned", "url", about.Where, "scanner", scanner)
	case !m.ok && m.metrics.programMissing():
		m.o.Log.Warn("images are not scanned: the scanner does not answer as one", "err", err)
	}
	m.metrics.program(m.ok)
	return m.ok
}

// known is who the scanner last said it is.
func (m *remote) known() (about About, release string) {
	m.asking.Lock()
	defer m.asking.Unlock()
	return m.about, m.about.release(m.rows.Now())
}

func (m *remote) database(ctx context.Context) (db match.Database, ok bool, err error) {
	_, release := m.known()
	row, err := m.rows.DatabaseOf(ctx, release)
	if errors.Is(err, meta.ErrNotFound) {
		return db, false, nil
	}
	return match.Database{ID: row.ID, Revision: row.Revision, MadeAt: row.MadeAt}, err == nil, err
}

func (m *remote) scan(r *run) (inv meta.Inventory, f meta.Findings, err error) {
	// As it is before the scan: what it learns meanwhile is a reason to scan
	// again.
	about, release := m.known()
	ctx, cancel := context.WithTimeout(r.ctx, m.o.Timeout)
	defer cancel()
	task := Task{Repo: r.job.Repo, Manifest: r.manifest.Descriptor}
	if m.o.SBOM && m.o.Publisher != nil {
		task.Documents = []string{TypeSPDX, TypeCycloneDX}
	}
	found, err := m.by.Scan(ctx, task)
	if err != nil {
		return inv, f, m.fault(ctx, r, err)
	}
	db, err := m.rows.AddDatabase(r.ctx, meta.ScanDatabase{Revision: release, Source: about.Where, MadeAt: about.Updated})
	if err != nil {
		return inv, f, err
	}
	was, err := m.before(r)
	if err != nil {
		return inv, f, err
	}
	if f, err = m.of(db.ID, found.Findings, was); err != nil {
		return inv, f, err
	}
	r.documents = found.Documents
	inv.Scanner = release
	inv.Body, err = m.pack.json(scanproto.Inventory{Version: foreign, Scanner: scanproto.Scanner{Name: about.Name}, At: m.rows.Now().UTC()})
	return inv, f, err
}

// fault says what the error of a scan of ctx means.
func (m *remote) fault(ctx context.Context, r *run, err error) error {
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	if f, ok := errors.AsType[*scanproto.Failed](err); ok {
		return &badEnd{string(f.Reason), clip(f.Message), f.Reason.Final()}
	}
	if ctx.Err() != nil {
		return &badEnd{string(scanproto.ReasonTimeout), clip(fmt.Sprintf("it was not done after %s: %v", m.o.Timeout, err)), false}
	}
	return &badEnd{reasonScanner, clip(cmp.Or(err.Error(), "it does not say why")), false}
}
