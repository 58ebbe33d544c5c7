package bench

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
	"github.com/breakwater-oci/breakwater/test/need"
)

const scanTarget = 1.2 // times what trivy takes

// scans: the first scan of an image of 600 MB by a hub that has it, SBOMs included, against `trivy image` of the same
// version, which pulls it from that hub; both with the same database, at the priority that the hub gives to scans. What
// either remembers of layers is removed each time. Java archives are known by what they say of themselves; trivy does not
// look into them unless it has a database of them, and has an empty one.
func scans(t *testing.T, r *report) {
	program := need.Scanner(t, "../..")
	var err error
	trivy := os.Getenv("BREAKWATER_TRIVY")
	if trivy == "" {
		trivy, err = exec.LookPath("trivy")
	}
	if err != nil {
		r.add(row{what: "scan of an image of 600 MB", verdict: "not measured: needs the trivy program, built by hand"})
		return
	}
	fmt.Printf("    trivy %s, %s\n", says(trivy, "--version"), trivy)
	d, image := vulnerabilityDatabases(t), makeUp(t)
	startScanBench(t, program, trivy, d.first, image).compare(t, r)
}

// scanBench is a hub that scans, and trivy.
type scanBench struct {
	grown
	scanner, trivy metered
	trivyCache     string
	args           []string // of trivy
	image          string
	found, theirs  int // vulnerabilities
}

// scanNice is the hub's for its scanner.
const scanNice = 10

func startScanBench(t *testing.T, program, trivy, database string, image *madeUp) *scanBench {
	t.Helper()
	b := &scanBench{trivyCache: rig.TempDir(t, "trivy")}
	b.args = []string{
		"image", "--quiet", "--cache-dir", b.trivyCache, "--image-src", "remote", "--insecure", "--offline-scan", "--skip-db-update", "--skip-java-db-update",
		"--skip-version-check", "--disable-telemetry", "--scanners", "vuln", "--format", "json", "--output", filepath.Join(b.trivyCache, "report.json"),
	}
	javaDatabase(t, filepath.Join(b.trivyCache, "java-db"))
	b.scanner, b.trivy = meter(t, program, 0), meter(t, trivy, scanNice)
	file := filepath.Join(rig.TempDir(t, "db"), "trivy.db")
	db := filepath.Join(b.trivyCache, "db")
	err := os.Mkdir(db, 0o700)
	for _, name := range []string{"trivy.db", "metadata.json"} {
		err = errors.Join(err, copyFile(filepath.Join(filepath.Dir(file), name), filepath.Join(database, name)), copyFile(filepath.Join(db, name), filepath.Join(database, name)))
	}
	if err != nil {
		t.Fatal(err)
	}
	b.grown = grownSQLiteWith(t, rig.Keys{"scan.program": b.scanner.path, "scan.database.file": file, "scan.schedule": "0s", "log.level": "warn"})
	public(t, b.hub, "bench")
	digest := image.push(t, target{b.hub.URL, basic("admin", rig.AdminPassword)}, "bench/app", "1")
	b.image = "localhost:" + b.hub.Port() + "/bench/app@" + digest.String()
	b.settle(t) // the push has begun a scan
	b.scanner.spent(t)
	return b
}

// settle waits until the hub has its database and nothing to scan.
func (b *scanBench) settle(t *testing.T) {
	t.Helper()
	rig.Eventually(t, 5*time.Minute, func() error {
		s, err := hubapi.NewClient(b.hub.URL, "admin", rig.AdminPassword, nil).ScanState(t.Context())
		if err != nil {
			return rig.GiveUp(err)
		}
		if n := s.Jobs["failed"]; n > 0 {
			return rig.GiveUp(fmt.Errorf("a scan has failed:\n%s", b.hub.Log()))
		}
		if s.Database != nil && s.Jobs["queued"]+s.Jobs["running"] == 0 && s.Matched == s.Inventories {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
		return fmt.Errorf("scans are under way: %+v", s)
	})
}

// compare runs both in turn and adds two rows.
func (b *scanBench) compare(t *testing.T, r *report) {
	t.Helper()
	procs := []*rig.Proc{b.hub.Proc}
	var ours, theirs, cpu, trivyCPU []float64
	var base resident
	all := rounds(t, "s",
		side{name: "hub", procs: procs, prepare: func() { base = b.forget(t) }, run: func() result {
			var took float64
			both, hub := b.watch(base, func() { took = b.scanOnce(t) })
			s := b.scanner.spent(t)
			ours = append(ours, both)
			fmt.Printf("    peak of RSS: scanner %.0f MB, hub %.0f MB more than the %.0f MB before, %.0f of it anonymous; %.0f MB at once\n",
				float64(s.PeakBytes)/1e6, hub.all, base.all, hub.anonymous, both)
			cpu = append(cpu, s.CPU.Seconds())
			return result{took, 1}
		}},
		side{name: "trivy", procs: procs, prepare: func() {
			if err := os.RemoveAll(filepath.Join(b.trivyCache, "fanal")); err != nil {
				t.Fatal(err)
			}
		}, run: func() result {
			begun := time.Now()
			b.trivyOnce(t)
			took := time.Since(begun).Seconds()
			s := b.trivy.spent(t)
			theirs, trivyCPU = append(theirs, float64(s.PeakBytes)/1e6), append(trivyCPU, s.CPU.Seconds())
			fmt.Printf("    peak of RSS: trivy %.0f MB\n", theirs[len(theirs)-1])
			return result{took, 1}
		}})
	if b.found != b.theirs || b.found == 0 {
		t.Errorf("the hub found %d vulnerabilities, trivy %d", b.found, b.theirs)
	}
	fmt.Printf("    %d vulnerabilities each; processor time: scanner %s s, trivy %s s; of the hub, with either, %s and %s s; load %s\n",
		b.found, digits(median(cpu)), digits(median(trivyCPU)), digits(median(all[0].cpu)), digits(median(all[1].cpu)), loadNow())
	ratio, _, _ := all[0].against(all[1])
	x := all[0].compare("scan of an image of 600 MB", all[1], "s", "s")
	x.target, x.verdict = "< 1.2", atMost(ratio, scanTarget)
	x.cpu = fmt.Sprintf("%s against %s s, with the hub's", digits(median(cpu)+median(all[0].cpu)), digits(median(trivyCPU)+median(all[1].cpu)))
	r.add(x)
	mine, other := series{name: "scanner and hub's growth at once", values: ours}, series{name: "trivy", values: theirs}
	ratio, least, most := mine.against(other)
	r.add(row{
		what: "its peak of RSS", ours: mine.text("MB"), other: other.text("MB"), result: fmt.Sprintf("%.2f", ratio),
		target: "< 1", verdict: atMost(ratio, 1), spread: fmt.Sprintf("%.2f … %.2f", least, most),
	})
}

// forget makes the hub one that has never scanned, and returns its memory, just started.
func (b *scanBench) forget(t *testing.T) resident {
	t.Helper()
	if err := b.hub.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"scan_findings", "scan_inventories", "scan_analyses", "scans"} {
		b.exec(t, "DELETE FROM "+table)
	}
	b.hub.Start()
	b.hub.WaitReady()
	b.settle(t)
	m, err := residentOf(b.hub.PID())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// scanOnce has the image scanned, and returns how many seconds that took until all of it was said.
func (b *scanBench) scanOnce(t *testing.T) float64 {
	t.Helper()
	api := hubapi.NewClient(b.hub.URL, "admin", rig.AdminPassword, nil)
	begun := time.Now()
	if _, err := api.RequestScan(t.Context(), b.image); err != nil {
		t.Fatal(err)
	}
	b.settle(t)
	took := time.Since(begun).Seconds()
	found, err := api.Scan(t.Context(), b.image)
	if err != nil || len(found.Reports) != 1 || found.Reports[0].Job != "done" {
		t.Fatalf("%+v, %v", found, err)
	}
	b.found = len(found.Reports[0].Findings)
	return took
}

// trivyOnce runs trivy.
func (b *scanBench) trivyOnce(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.trivy.path, append(slices.Clone(b.args), b.image)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.trivyCache, "TMPDIR=" + b.trivyCache}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("trivy: %v\n%s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(b.trivyCache, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Results []struct{ Vulnerabilities []struct{} }
	}
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	b.theirs = 0
	for _, x := range report.Results {
		b.theirs += len(x.Vulnerabilities)
	}
}

// resident is what a process has in memory, in MB: all, and what of it no file backs.
type resident struct{ all, anonymous float64 }

func residentOf(pid int) (m resident, err error) {
	if m.all, err = rssOf(pid); err != nil {
		return m, err
	}
	anonymous, err := rig.RSSAnon(pid)
	m.anonymous = float64(anonymous) / 1e6
	return m, err
}

// watch runs fn and returns the most memory, in MB, that scanner and hub had at once meanwhile, and the hub alone, both
// above the hub's before. It looks every 10 ms; of the scanner it takes the peak up to then, which misses none.
func (b *scanBench) watch(before resident, fn func()) (both float64, hub resident) {
	done, finished := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(finished)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			if now, err := residentOf(b.hub.PID()); err == nil { // without it, fn will fail
				both = max(both, now.all-before.all+b.scanner.peakSoFar())
				hub = resident{max(hub.all, now.all-before.all), max(hub.anonymous, now.anonymous-before.anonymous)}
			}
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	}()
	fn()
	close(done)
	<-finished
	return both, hub
}

// javaDatabase makes Trivy's database of jars, with nothing in it: names are taken from the jars themselves.
func javaDatabase(t *testing.T, dir string) {
	t.Helper()
	err := os.Mkdir(dir, 0o700)
	db, openErr := sql.Open("sqlite", filepath.Join(dir, "trivy-java.db"))
	if err := errors.Join(err, openErr); err != nil {
		t.Fatal(err)
	}
	for statement := range strings.SplitSeq(`
CREATE TABLE artifacts(id INTEGER PRIMARY KEY, group_id TEXT, artifact_id TEXT);
CREATE TABLE indices(artifact_id INTEGER, version TEXT, sha1 BLOB, archive_type TEXT, foreign key (artifact_id) references artifacts(id));
CREATE UNIQUE INDEX artifacts_idx ON artifacts(artifact_id, group_id);
CREATE INDEX indices_artifact_idx ON indices(artifact_id);
CREATE UNIQUE INDEX indices_sha1_idx ON indices(sha1)`, ";") {
		_, execErr := db.ExecContext(t.Context(), statement)
		err = errors.Join(err, execErr)
	}
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	far := time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339)
	write(t, filepath.Join(dir, "metadata.json"), fmt.Sprintf(`{"Version":1,"NextUpdate":%q,"UpdatedAt":%q,"DownloadedAt":%q}`, far, far, far))
}
