package scan

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
	"github.com/breakwater-oci/breakwater/hub/scan/scantest"
	"github.com/breakwater-oci/breakwater/hub/scan/vulndb"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/test/need"
)

// javaScene is a scene whose Java database is read from a file, once there is
// one.
type javaScene struct {
	*scene
	java *vulndb.Java
	file string
	dir  string // where it is unpacked
}

func newJavaScene(t *testing.T, change func(*Options)) *javaScene {
	t.Helper()
	x := &javaScene{file: filepath.Join(t.TempDir(), "java.tar.gz"), dir: t.TempDir()}
	var s *Service
	x.java = vulndb.NewJava(time.Now, vulndb.Options{Dir: x.dir, File: x.file, Changed: func() { s.NewJavaDatabase() }})
	x.scene = newScene(t, "sqlite", func(o *Options) {
		if o.Java = x.java; change != nil {
			change(o)
		}
	})
	s = x.s
	return x
}

// publish puts a database that knows some jars to use.
func (x *javaScene) publish(all ...scantest.KnownJar) {
	x.t.Helper()
	dir := x.t.TempDir()
	scantest.WriteJavaDB(x.t, dir, time.Now(), all...)
	b, err := matchtest.ArchiveOf(dir, scantest.JavaDBFile, scantest.JavaDBMetadata)
	must(x.t, err)
	must(x.t, os.WriteFile(x.file, b, 0o600))
	if changed, err := x.java.Update(x.t.Context(), false); !changed || err != nil {
		x.t.Fatalf("the Java database is changed %t, %v", changed, err)
	}
}

// scannedBy is which scanner has scanned an image.
func (x *scene) scannedBy(d oci.Digest) string {
	x.t.Helper()
	reports, err := x.s.Reports(x.t.Context(), Image{Repo: repo, Digest: d})
	must(x.t, err)
	if len(reports) != 1 {
		return ""
	}
	return reports[0].Scanner
}

// passed waits for the look through all images that Run begins with.
func (x *scene) passed() {
	x.t.Helper()
	until(x.t, "passed", func() bool {
		_, err := x.rows.Fact(x.t.Context(), passFact)
		return err == nil
	})
}

// The first Java database has all images scanned again, and no other does; nor
// does a hub without one.
func TestJavaDatabaseComesLater(t *testing.T) {
	x := newJavaScene(t, func(o *Options) { o.Every = time.Hour })
	x.use(matchtest.Libidn2)
	x.passed()
	d := x.push("base", "well")
	x.one(d)
	if by := x.scannedBy(d); by != "test v1" {
		t.Fatalf("scanned by %q", by)
	}
	st, err := x.s.State(t.Context())
	if err != nil || st.Java == nil || st.Java.Revision != "" || st.Java.From != x.file {
		t.Errorf("state without a Java database: %+v, %v", st.Java, err)
	}
	x.publish(scantest.KnownJar{Group: "g", Artifact: "a", Version: "1", Content: "a"})
	until(t, "scanned by it", func() bool { return x.scannedBy(d) == "test v1+java" })
	until(t, "done", func() bool { return x.job(d).State == meta.ScanDone })
	if st, err := x.s.State(t.Context()); err != nil || st.Java.Entries != 1 {
		t.Errorf("state with one: %+v, %v", st.Java, err)
	}
	until(t, "noted", func() bool {
		_, err := x.rows.Fact(t.Context(), javaFact)
		return err == nil
	})
	run := x.job(d).Run
	x.publish(scantest.KnownJar{Group: "g", Artifact: "a", Version: "2", Content: "b"})
	if n, err := x.s.Pass(t.Context()); n != 0 || err != nil || x.job(d).Run != run {
		t.Errorf("for a newer one %d images were queued, %v; the run is %d", n, err, x.job(d).Run)
	}
	x.stop()
	other := sceneOn(t, x.rows, x.images, match.New(), nil)
	other.use(matchtest.Libidn2)
	other.one(other.push("base", "well", "well")) // and so it knows who its scanner is
	if n, err := other.s.Pass(t.Context()); n != 0 || err != nil {
		t.Errorf("a hub without one queued %d images, %v", n, err)
	}
}

// A hub that has scanned nothing since it began knows what to scan again.
func TestJavaDatabaseAfterARestart(t *testing.T) {
	rows, from := metatest.Open(t, "sqlite", meta.Config{}), &images{Memory: ocitest.NewMemory()}
	x := sceneOn(t, rows, from, match.New(), nil)
	x.use(matchtest.Libidn2)
	d := x.push("base", "well")
	x.one(d)
	x.stop()
	file := filepath.Join(t.TempDir(), "java.tar.gz")
	y := &javaScene{file: file, java: vulndb.NewJava(time.Now, vulndb.Options{Dir: t.TempDir(), File: file})}
	y.scene = &scene{t: t}
	y.publish(scantest.KnownJar{Group: "g", Artifact: "a", Version: "1", Content: "a"})
	y.scene = sceneOn(t, rows, from, match.New(), func(o *Options) { o.Java, o.Every = y.java, time.Hour })
	y.use(matchtest.Libidn2)
	until(t, "scanned by it", func() bool { return y.scannedBy(d) == "test v1+java" })
}

// A scan keeps the database that it began with.
func TestScanKeepsItsJavaDatabase(t *testing.T) {
	x := newJavaScene(t, nil)
	x.use(matchtest.Libidn2)
	x.publish(scantest.KnownJar{Group: "g", Artifact: "a", Version: "1", Content: "a"})
	dir := t.TempDir()
	d := x.push("base", "slow "+dir)
	must(t, x.s.Request(t.Context(), Image{Repo: repo, Digest: d}, meta.ScanHand))
	until(t, "begun", func() bool { return exists(filepath.Join(dir, "begun")) })
	x.publish(scantest.KnownJar{Group: "g", Artifact: "a", Version: "2", Content: "b"})
	both, err := filepath.Glob(filepath.Join(x.dir, "db-*"))
	if err != nil || len(both) != 2 {
		t.Errorf("while a scan runs there are %q, %v", both, err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "go"), nil, 0o600))
	if f := x.one(d); f.State != policy.ScanDone || x.scannedBy(d) != "test v1+java" {
		t.Errorf("it ended as %+v by %q", f, x.scannedBy(d))
	}
	until(t, "the old one is gone", func() bool {
		left, err := filepath.Glob(filepath.Join(x.dir, "db-*"))
		return err == nil && len(left) == 1
	})
}

// The scanner as it is, from a war to the finding: first by what archives say of
// themselves, then by a database.
func TestRealScannerOfJars(t *testing.T) {
	program := need.Scanner(t, "../..")
	x := newJavaScene(t, func(o *Options) { o.Program, o.MaxAttempts, o.Every = program, 1, time.Hour })
	x.use(matchtest.Log4Shell)
	x.passed()
	silent := scantest.Jar(t, scantest.File{Name: "org/apache/logging/log4j/core/lookup/JndiLookup.class", Content: "\xca\xfe\xba\xbe"})
	war := scantest.Jar(t, scantest.File{Name: "WEB-INF/lib/logging.jar",
		Content: scantest.Jar(t, scantest.Log4jManifest, scantest.PomProperties("org.apache.logging.log4j", "log4j-core", "2.14.1"))})
	named := x.pushLayers(scantest.Layer(t, scantest.File{Name: "app/app.war", Content: war}))
	unnamed := x.pushLayers(scantest.Layer(t, scantest.File{Name: "app/logging.jar", Content: silent}))
	log4shell := func(f policy.Scan) bool {
		return f.State == policy.ScanDone && len(f.Vulns) == 1 && f.Vulns[0].ID == "CVE-2021-44228" && f.Vulns[0].Severity == policy.Critical &&
			f.Vulns[0].Package == "org.apache.logging.log4j:log4j-core" && f.Vulns[0].Installed == "2.14.1"
	}
	if f := x.one(named); !log4shell(f) {
		t.Errorf("of what says that it is log4j: %+v, job %+v", f, x.job(named))
	}
	if f := x.one(unnamed); f.State != policy.ScanDone || len(f.Vulns) != 0 {
		t.Errorf("of what says nothing, without a database: %+v, job %+v", f, x.job(unnamed))
	}
	x.publish(scantest.KnownJar{Group: "org.apache.logging.log4j", Artifact: "log4j-core", Version: "2.14.1", Content: silent})
	until(t, "found by the database", func() bool { return log4shell(x.one(unnamed)) })
	until(t, "still found", func() bool { return log4shell(x.one(named)) })
}
