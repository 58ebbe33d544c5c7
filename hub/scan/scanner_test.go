package scan

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// another is another's scanner, that finds what a test wants.
type another struct {
	mu    sync.Mutex
	about About
	err   error // from About
	scan  func(ctx context.Context, img Task) (Found, error)
	tasks []Task
}

func newAnother(scan func(context.Context, Task) (Found, error)) *another {
	return &another{about: About{Where: "https://scanner", Name: "Another 1", Updated: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, scan: scan}
}

func (a *another) About(context.Context) (About, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.about, a.err
}

func (a *another) Scan(ctx context.Context, img Task) (Found, error) {
	a.mu.Lock()
	a.tasks = append(a.tasks, img)
	scan := a.scan
	a.mu.Unlock()
	return scan(ctx, img)
}

// change changes it, and has it asked who it is.
func (a *another) change(x *scene, fn func()) {
	a.mu.Lock()
	fn()
	a.mu.Unlock()
	x.askAgain()
	x.s.jobs.now()
}

func (x *scene) askAgain() {
	m := x.s.by.(*remote)
	m.asking.Lock()
	defer m.asking.Unlock()
	m.again = time.Time{}
}

func (a *another) times() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.tasks)
}

func vuln(id string, s policy.Severity) match.Finding {
	return match.Finding{Vuln: policy.Vuln{ID: id, Package: "bash", Installed: "5.0", Severity: s}}
}

func finds(all ...match.Finding) func(context.Context, Task) (Found, error) {
	return func(context.Context, Task) (Found, error) {
		return Found{Findings: append([]match.Finding(nil), all...)}, nil
	}
}

func TestAnothersScanner(t *testing.T) {
	metatest.Each(t, func(t *testing.T, driver string) {
		a := newAnother(finds(vuln("CVE-1", policy.Critical), vuln("CVE-2", policy.Low)))
		x := newScene(t, driver, func(o *Options) { o.Scanner, o.Program = a, "/nowhere" })
		d := x.push("base", "an image")
		const release = "Another 1, database of 2026-01-02T03:04:05Z"
		got := x.one(d)
		if got.State != policy.ScanDone || len(got.Vulns) != 2 || got.Vulns[0].ID != "CVE-1" || got.Vulns[0].FirstSeen.IsZero() ||
			got.DBRevision != release || !got.DBTime.Equal(a.about.Updated) || got.At.IsZero() {
			t.Fatalf("fact %+v", got)
		}
		if img := a.tasks[0]; img.Repo != repo || img.Manifest.Digest != d || img.Manifest.MediaType != oci.MediaTypeImage || img.Documents != nil {
			t.Errorf("it was asked to scan %+v", img)
		}
		until(t, "done", func() bool { return x.job(d).State == meta.ScanDone })
		reports, err := x.s.Reports(t.Context(), Image{Repo: repo, Digest: d})
		if err != nil || len(reports) != 1 || reports[0].Scanner != release || reports[0].ScanResult.Findings.Counts != (meta.Severities{Critical: 1, Low: 1}) {
			t.Errorf("reports %+v, %v", reports, err)
		}
		st, err := x.s.State(t.Context())
		if err != nil || st.Program != "https://scanner" || st.Scanner != release || !st.HasDatabase || st.Database.Revision != release || st.Matched != 1 || st.Inventories != 1 {
			t.Errorf("state %+v, %v", st, err)
		}

		// It knows more: the next pass has all images scanned again, and only then.
		pass := func() int64 {
			n, err := x.s.Pass(t.Context())
			must(t, err)
			return n
		}
		if n := pass(); n != 0 {
			t.Errorf("%d images are scanned again by the same scanner", n)
		}
		a.change(x, func() {
			a.about.Updated = a.about.Updated.Add(time.Hour)
			a.scan = finds(vuln("CVE-3", policy.High), vuln("CVE-2", policy.Low))
		})
		until(t, "asked who it is", func() bool {
			st, err := x.s.State(t.Context())
			return err == nil && strings.HasSuffix(st.Scanner, "04:04:05Z")
		})
		if n := pass(); n != 1 {
			t.Errorf("%d images are scanned again by a scanner that knows more", n)
		}
		until(t, "scanned again", func() bool { return a.times() == 2 && x.job(d).State == meta.ScanDone })
		again := x.one(d)
		if again.State != policy.ScanDone || len(again.Vulns) != 2 || again.Vulns[0].ID != "CVE-3" || !again.Vulns[1].FirstSeen.Equal(got.Vulns[1].FirstSeen) ||
			!again.DBTime.Equal(a.about.Updated) {
			t.Errorf("fact %+v", again)
		}
	})
}

// A scanner that does not say how old its database is, is as old as its scans,
// and another one each day.
func TestScannerWithoutADate(t *testing.T) {
	about := About{Name: "Another 1"}
	day := time.Date(2026, 1, 2, 23, 59, 0, 0, time.UTC)
	if x, y := about.release(day), about.release(day.Add(time.Minute)); x != "Another 1, of 2026-01-02" || y != "Another 1, of 2026-01-03" {
		t.Errorf("it is %q, and then %q", x, y)
	}
	a := newAnother(finds())
	a.about.Updated = time.Time{}
	x := newScene(t, "sqlite", func(o *Options) { o.Scanner = a })
	f := x.one(x.push("base"))
	if f.State != policy.ScanDone || len(f.Vulns) != 0 || !f.DBTime.IsZero() || f.At.IsZero() {
		t.Errorf("fact %+v", f)
	}
}

func TestHowAnothersScansEnd(t *testing.T) {
	passing := 0
	failed := func(r scanproto.Reason) error { return &scanproto.Failed{Reason: r, Message: "so it says"} }
	type end struct {
		state    policy.ScanState
		reason   string // of the job
		attempts int
		message  string
	}
	for name, tt := range map[string]struct {
		scan func(context.Context, Task) (Found, error)
		want end
	}{
		"well":            {finds(), end{policy.ScanDone, "", 1, ""}},
		"unscannable":     {func(context.Context, Task) (Found, error) { return Found{}, failed(scanproto.ReasonUnscannable) }, end{policy.ScanUnscannable, "unscannable", 1, "so it says"}},
		"its fault":       {func(context.Context, Task) (Found, error) { return Found{}, errors.New("500 oh") }, end{policy.ScanError, "scanner", 4, "500 oh"}},
		"a fault, wordy":  {func(context.Context, Task) (Found, error) { return Found{}, errors.New(strings.Repeat("x", 1<<20)) }, end{policy.ScanError, "scanner", 4, strings.Repeat("x", scanproto.MaxMessageBytes)}},
		"a fault, silent": {func(context.Context, Task) (Found, error) { return Found{}, errors.New("") }, end{policy.ScanError, "scanner", 4, "it does not say why"}},
		"never": {func(ctx context.Context, _ Task) (Found, error) {
			<-ctx.Done()
			return Found{}, fmt.Errorf("no report: %w", ctx.Err())
		}, end{policy.ScanError, "timeout", 2, "it was not done after 100ms: no report: context deadline exceeded"}},
		"twice a fault": {func(context.Context, Task) (Found, error) {
			if passing++; passing <= 2 {
				return Found{}, errors.New("500 oh")
			}
			return Found{}, nil
		}, end{policy.ScanDone, "", 3, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			x := newScene(t, "sqlite", func(o *Options) { o.Scanner, o.Timeout = newAnother(tt.scan), 100*time.Millisecond })
			d := x.push("base", name)
			must(t, x.s.Request(t.Context(), Image{Repo: repo, Digest: d}, meta.ScanPush))
			until(t, "ended", func() bool { s := x.job(d).State; return s == meta.ScanDone || s == meta.ScanFailed })
			f, err := x.s.Facts(t.Context(), Image{Repo: repo, Digest: d})
			must(t, err)
			job := x.job(d)
			if got := (end{f.Scans[0].State, job.Reason, job.Attempts, job.Message}); got != tt.want {
				t.Errorf("%.300v, want %.300v", got, tt.want)
			}
		})
	}
}

// While a scanner is not there nothing is begun, and no attempt used up.
func TestScannerComesLater(t *testing.T) {
	a := newAnother(finds())
	a.err = errors.New("connection refused")
	x := newScene(t, "sqlite", func(o *Options) { o.Scanner = a })
	d := x.push("base")
	f, err := x.s.Wait(t.Context(), Image{Repo: repo, Digest: d}, time.Now().Add(50*time.Millisecond))
	if err != nil || f.Scans[0].State != policy.ScanPending || f.Scans[0].Reason != policy.NoScanner {
		t.Errorf("without a scanner: %+v, %v", f, err)
	}
	if st, err := x.s.State(t.Context()); err != nil || st.Program != "" || st.HasDatabase || st.Jobs[meta.ScanQueued] != 1 {
		t.Errorf("state %+v, %v", st, err)
	}
	a.change(x, func() { a.err = nil })
	if f := x.one(d); f.State != policy.ScanDone {
		t.Errorf("with one: %+v", f)
	}
	if job := x.job(d); job.Attempts != 1 {
		t.Errorf("job %+v", job)
	}
}

// A scan that is stopped is not waited for.
func TestStopAnothersScan(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error, 1)
	a := newAnother(func(ctx context.Context, _ Task) (Found, error) {
		close(began)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return Found{}, ctx.Err()
	})
	x := newScene(t, "sqlite", func(o *Options) { o.Scanner = a })
	d := x.push("base")
	img := Image{Repo: repo, Digest: d}
	must(t, x.s.Request(t.Context(), img, meta.ScanHand))
	<-began
	if n, err := x.s.Stop(t.Context(), img); n != 1 || err != nil {
		t.Errorf("stopped %d, %v", n, err)
	}
	if err := <-ended; !errors.Is(err, errNotOurs) {
		t.Errorf("it ended for %v", err)
	}
	if job := x.job(d); job.State != meta.ScanFailed || job.Reason != reasonStopped {
		t.Errorf("job %+v", job)
	}
}

func TestAnothersDocuments(t *testing.T) {
	p := &published{documents: make(map[string]int)}
	a := newAnother(func(_ context.Context, img Task) (Found, error) {
		return Found{Findings: []match.Finding{vuln("CVE-1", policy.High)}, Documents: map[string][]byte{img.Documents[0]: []byte("{}")}}, nil
	})
	x := newScene(t, "sqlite", func(o *Options) { o.Scanner, o.Publisher, o.SBOM = a, p, true })
	d := x.push("base")
	x.one(d)
	until(t, "stated", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.statements) == 1 && p.statements[0].Counts.High == 1
	})
	until(t, "done", func() bool { return x.job(d).State == meta.ScanDone })
	if p.documents[TypeSPDX] != 1 || len(p.documents) != 1 {
		t.Errorf("documents %v", p.documents)
	}
}

// When the program takes over from another's scanner, it looks at each image,
// and until it has there is no word on it; and the other way round.
func TestScannersTakeTurns(t *testing.T) {
	a := newAnother(finds(vuln("CVE-1", policy.High)))
	first := newScene(t, "sqlite", func(o *Options) { o.Scanner = a })
	d := first.push("base", "well")
	first.one(d)
	until(t, "done", func() bool { return first.job(d).State == meta.ScanDone })
	first.stop()

	second := sceneOn(t, first.rows, first.images, match.New(), func(o *Options) { o.Workers = -1 })
	db := second.use(matchtest.Libidn2)
	until(t, "matched", func() bool {
		f, err := second.s.Facts(t.Context(), Image{Repo: repo, Digest: d})
		must(t, err)
		return f.Scans[0].State == policy.ScanPending
	})
	if job := second.job(d); job.State != meta.ScanQueued {
		t.Errorf("job %+v", job)
	}
	second.stop()

	third := sceneOn(t, first.rows, first.images, match.New(), nil)
	if f := third.one(d); f.State != policy.ScanPending && f.State != policy.ScanDone {
		t.Errorf("fact %+v", f)
	}
	again := third.use(matchtest.Libidn2)
	until(t, "scanned and matched", func() bool {
		f := third.one(d)
		return f.State == policy.ScanDone && f.DBRevision == again.Revision && len(f.Vulns) == 1 && f.Vulns[0].ID == matchtest.Libidn2.ID
	})
	if db.ID == again.ID {
		t.Errorf("two databases are %+v", db)
	}
	third.stop()

	fourth := sceneOn(t, first.rows, first.images, match.New(), func(o *Options) { o.Scanner = a })
	until(t, "known", func() bool {
		st, err := fourth.s.State(t.Context())
		return err == nil && st.Program != ""
	})
	if n, err := fourth.s.Pass(t.Context()); n != 1 || err != nil {
		t.Errorf("a pass queued %d, %v", n, err)
	}
	until(t, "scanned by the other", func() bool {
		f := fourth.one(d)
		return f.State == policy.ScanDone && f.Vulns[0].ID == "CVE-1"
	})
}
