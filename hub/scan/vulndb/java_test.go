package vulndb_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
	"github.com/breakwater-oci/breakwater/hub/scan/scantest"
	"github.com/breakwater-oci/breakwater/hub/scan/vulndb"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

const javaLayerType = "application/vnd.aquasec.trivy.javadb.layer.v1.tar+gzip"

// javaFiles is a Java database that knows some jars, in a folder.
func javaFiles(t *testing.T, jars ...string) string {
	t.Helper()
	dir := t.TempDir()
	var all []scantest.KnownJar
	for _, j := range jars {
		all = append(all, scantest.KnownJar{Group: "com.example", Artifact: j, Version: "1.0", Content: j})
	}
	scantest.WriteJavaDB(t, dir, made, all...)
	return dir
}

// javaArchive is that as it is distributed.
func javaArchive(t *testing.T, dir string) []byte {
	t.Helper()
	b, err := matchtest.ArchiveOf(dir, scantest.JavaDBFile, scantest.JavaDBMetadata)
	must(t, err)
	return b
}

func javaImage(u *upstream, dir string) vulndb.Options {
	return vulndb.Options{Dir: dir, Images: u, Repo: "ghcr.io/aquasecurity/trivy-java-db", Ref: oci.Tagged("1")}
}

func updateJava(t *testing.T, j *vulndb.Java) bool {
	t.Helper()
	changed, err := j.Update(t.Context(), false)
	must(t, err)
	return changed
}

// folders are those of revisions, below dir.
func folders(t *testing.T, dir string) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, "db-*"))
	must(t, err)
	return left
}

// holds says whether a folder has all that a scanner opens.
func holds(dir string) bool {
	for _, name := range []string{scantest.JavaDBFile, scantest.JavaDBMetadata} {
		if st, err := os.Stat(filepath.Join(dir, "java-db", name)); err != nil || st.Size() == 0 {
			return false
		}
	}
	return true
}

func TestJavaFromAnImage(t *testing.T) {
	u, told, reg := new(upstream), 0, prometheus.NewRegistry()
	o := javaImage(u, filepath.Join(t.TempDir(), "java"))
	o.Changed, o.Metrics = func() { told++ }, reg
	j := vulndb.NewJava(time.Now, o)
	if dir, release := j.Hold(); dir != "" {
		t.Errorf("before there is one, scans are given %q", dir)
	} else {
		release()
	}
	first := u.publish(javaArchive(t, javaFiles(t, "a", "b")), javaLayerType)
	if !updateJava(t, j) || told != 1 {
		t.Errorf("the first database: told %d times", told)
	}
	st := j.State()
	if st.Revision != first.String() || !st.MadeAt.Equal(made) || st.Entries != 2 || st.Source != "ghcr.io/aquasecurity/trivy-java-db:1" || st.CheckedAt.IsZero() || st.Err != nil {
		t.Errorf("state: %+v", st)
	}
	if updateJava(t, j) || u.fetched != 1 {
		t.Errorf("the same database was fetched again: %d fetches", u.fetched)
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
		# HELP breakwater_hub_javadb_updates_total Looks for a newer Java database, by result: new, same or failed.
		# TYPE breakwater_hub_javadb_updates_total counter
		breakwater_hub_javadb_updates_total{result="failed"} 0
		breakwater_hub_javadb_updates_total{result="new"} 1
		breakwater_hub_javadb_updates_total{result="same"} 1
		`), "breakwater_hub_javadb_updates_total"); err != nil {
		t.Error(err)
	}
}

// Scans that run keep the database that they began with; the last one takes it
// away.
func TestJavaIsSwappedWhileScansRun(t *testing.T) {
	u := new(upstream)
	o := javaImage(u, t.TempDir())
	j := vulndb.NewJava(time.Now, o)
	first, second := javaArchive(t, javaFiles(t, "a")), javaArchive(t, javaFiles(t, "a", "b"))
	u.publish(first, javaLayerType)
	updateJava(t, j)
	one, releaseOne := j.Hold()
	two, releaseTwo := j.Hold()
	if one != two || !holds(one) {
		t.Fatalf("two scans are given %q and %q", one, two)
	}
	u.publish(second, javaLayerType)
	updateJava(t, j)
	three, releaseThree := j.Hold()
	if three == one || !holds(three) || !holds(one) {
		t.Errorf("with a new one the next scan is given %q, that there are %q", three, folders(t, o.Dir))
	}
	releaseOne()
	if !holds(two) {
		t.Error("the database of a scan that runs is gone")
	}
	releaseTwo()
	if left := folders(t, o.Dir); len(left) != 1 || left[0] != three {
		t.Errorf("after the last scan by the old one there are %q", left)
	}
	// Back to the first while a scan uses it: there is one of it.
	u.publish(first, javaLayerType)
	updateJava(t, j)
	again, releaseAgain := j.Hold()
	releaseThree()
	u.publish(second, javaLayerType)
	updateJava(t, j)
	u.publish(first, javaLayerType)
	updateJava(t, j)
	releaseAgain()
	if now, release := j.Hold(); now != again || !holds(now) || len(folders(t, o.Dir)) != 1 {
		t.Errorf("scans are given %q, that there are %q", now, folders(t, o.Dir))
	} else {
		release()
	}
}

func TestBadJavaIsRefused(t *testing.T) {
	u := new(upstream)
	o := javaImage(u, t.TempDir())
	j := vulndb.NewJava(time.Now, o)
	good := javaFiles(t, "a")
	u.publish(javaArchive(t, good), javaLayerType)
	updateJava(t, j)
	with := func(name, body string, jars ...string) []byte {
		dir := javaFiles(t, jars...)
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600))
		return javaArchive(t, dir)
	}
	var many []string
	for i := range 300 {
		many = append(many, strings.Repeat("x", 100+i))
	}
	cut := javaFiles(t, many...)
	must(t, os.Truncate(filepath.Join(cut, scantest.JavaDBFile), 16<<10))
	only, err := matchtest.ArchiveOf(good, scantest.JavaDBFile)
	must(t, err)
	whole := javaArchive(t, javaFiles(t, "b"))
	for _, tt := range []struct {
		name, mediaType string
		layer           []byte
	}{
		{"no database", javaLayerType, with(scantest.JavaDBFile, "garbage, and not a little of it", "b")},
		{"an empty file", javaLayerType, with(scantest.JavaDBFile, "", "b")},
		{"cut short within", javaLayerType, javaArchive(t, cut)},
		{"cut short", javaLayerType, whole[:len(whole)/2]},
		{"without an entry", javaLayerType, javaArchive(t, javaFiles(t))},
		{"without metadata", javaLayerType, only},
		{"garbage as metadata", javaLayerType, with(scantest.JavaDBMetadata, "garbage", "b")},
		{"another schema", javaLayerType, with(scantest.JavaDBMetadata, `{"Version":2}`, "b")},
		{"that of vulnerabilities", layerType, archive(t, matchtest.Log4Shell)},
	} {
		u.publish(tt.layer, tt.mediaType)
		changed, err := j.Update(t.Context(), false)
		if changed || err == nil {
			t.Errorf("%s: changed %t, %v", tt.name, changed, err)
		}
		t.Logf("%s: %v", tt.name, err)
		before := u.fetched
		if _, err := j.Update(t.Context(), false); err == nil || u.fetched != before {
			t.Errorf("%s: the second time %v, it was fetched %d times", tt.name, err, u.fetched-before)
		}
		dir, release := j.Hold()
		if st := j.State(); st.Err == nil || st.Entries != 1 || !holds(dir) || len(folders(t, o.Dir)) != 1 {
			t.Errorf("%s: state %+v, on disk are %q", tt.name, st, folders(t, o.Dir))
		}
		release()
	}
}

func TestJavaFromAFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "java-db.tar.gz")
	must(t, os.WriteFile(file, javaArchive(t, javaFiles(t, "a")), 0o600))
	j := vulndb.NewJava(time.Now, vulndb.Options{Dir: t.TempDir(), File: file})
	if !updateJava(t, j) || j.State().Entries != 1 || j.State().Source != file {
		t.Errorf("from an archive: %+v", j.State())
	}
	unpacked := javaFiles(t, "a", "b")
	j = vulndb.NewJava(time.Now, vulndb.Options{Dir: t.TempDir(), File: filepath.Join(unpacked, scantest.JavaDBFile)})
	if !updateJava(t, j) || j.State().Entries != 2 || !j.State().MadeAt.Equal(made) {
		t.Errorf("unpacked: %+v", j.State())
	}
	must(t, os.Remove(filepath.Join(unpacked, scantest.JavaDBMetadata)))
	j = vulndb.NewJava(time.Now, vulndb.Options{Dir: t.TempDir(), File: filepath.Join(unpacked, scantest.JavaDBFile)})
	if _, err := j.Update(t.Context(), false); err == nil || !strings.Contains(err.Error(), "metadata.json") {
		t.Errorf("without what it says of itself: %v", err)
	}
}

// It is there at once after a restart, and what else lies there is gone.
func TestJavaSurvivesARestart(t *testing.T) {
	u := new(upstream)
	o := javaImage(u, t.TempDir())
	first := u.publish(javaArchive(t, javaFiles(t, "a")), javaLayerType)
	updateJava(t, vulndb.NewJava(time.Now, o))
	must(t, os.MkdirAll(filepath.Join(o.Dir, "db-new-half"), 0o700))
	u.err = errors.New("no network")
	synctest.Test(t, func(t *testing.T) {
		j := vulndb.NewJava(time.Now, o)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- j.Run(ctx) }()
		synctest.Wait()
		st := j.State()
		if dir, release := j.Hold(); st.Revision != first.String() || st.Err == nil || !holds(dir) || len(folders(t, o.Dir)) != 1 {
			t.Errorf("after a restart: %+v, scans are given %q, on disk are %q", st, dir, folders(t, o.Dir))
		} else {
			release()
		}
		cancel()
		must(t, <-done)
	})
}
