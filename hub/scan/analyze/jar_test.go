//go:build goexperiment.jsonv2

package analyze

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"

	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/hub/scan/scantest"
)

// scanBy is runScan by a Java database in a folder, "" for none.
func scanBy(t *testing.T, javaDB string, img v1.Image, store *scantest.Store) scantest.Result {
	t.Helper()
	w := scantest.NewWorker(t, img, testJob, store)
	if err := Scan(t.Context(), scanproto.NewClient(w.Socket), Options{JavaDB: javaDB}); err != nil {
		t.Fatal(err)
	}
	r := w.Result()
	if r.Failed != nil {
		t.Fatal(r.Failed)
	}
	return r
}

// found lists the jars of an inventory: path of the file, name and version.
func found(inv *scanproto.Inventory) (all []string) {
	for _, app := range inv.Applications {
		if app.Type != ftypes.Jar {
			continue
		}
		for _, p := range app.Packages {
			all = append(all, p.FilePath+" "+p.Name+" "+p.Version)
		}
	}
	slices.Sort(all)
	return all
}

// class makes an archive's bytes differ from all others'.
func class(name string) scantest.File {
	return scantest.File{Name: name + ".class", Content: "\xca\xfe" + name}
}

// log4j is log4j-core 2.14.1, which CVE-2021-44228 is of.
func log4j(t *testing.T) string {
	return scantest.Jar(t, scantest.Log4jManifest, scantest.PomProperties("org.apache.logging.log4j", "log4j-core", "2.14.1"), class("A"))
}

// Without a database jars are known by what they say of themselves.
func TestScanJars(t *testing.T) {
	manifest := func(lines ...string) scantest.File {
		return scantest.File{Name: "META-INF/MANIFEST.MF", Content: "Manifest-Version: 1.0\n" + strings.Join(lines, "\n") + "\n\n"}
	}
	war := scantest.Jar(t,
		scantest.File{Name: "WEB-INF/lib/log4j-core-2.14.1.jar", Content: log4j(t)},
		scantest.File{Name: "WEB-INF/lib/nothing-1.0.jar", Content: scantest.Jar(t, class("N"))},
		scantest.File{Name: "WEB-INF/lib/broken-1.0.jar", Content: "no archive"})
	for _, tt := range []struct {
		name, path, content string
		want                []string
	}{
		{"pom.properties", "app/log4j-core-2.14.1.jar", log4j(t), []string{"app/log4j-core-2.14.1.jar org.apache.logging.log4j:log4j-core 2.14.1"}},
		{"pom.properties, renamed", "app/logging.jar", scantest.Jar(t, scantest.PomProperties("org.apache.logging.log4j", "log4j-core", "2.14.1")),
			[]string{"app/logging.jar org.apache.logging.log4j:log4j-core 2.14.1"}},
		{"upper case", "app/LOG4J-CORE-2.14.1.JAR", log4j(t), []string{"app/LOG4J-CORE-2.14.1.JAR org.apache.logging.log4j:log4j-core 2.14.1"}},
		{"war", "app/app.war", war, []string{"app/app.war/WEB-INF/lib/log4j-core-2.14.1.jar org.apache.logging.log4j:log4j-core 2.14.1"}},
		{"in an archive in an archive", "app/app.ear", scantest.Jar(t, scantest.File{Name: "app.war", Content: war}),
			[]string{"app/app.ear/app.war/WEB-INF/lib/log4j-core-2.14.1.jar org.apache.logging.log4j:log4j-core 2.14.1"}},
		{"shaded", "app/app.jar", scantest.Jar(t, scantest.PomProperties("com.example", "app", "1.0"), scantest.PomProperties("org.apache.logging.log4j", "log4j-core", "2.14.1")),
			[]string{"app/app.jar com.example:app 1.0", "app/app.jar org.apache.logging.log4j:log4j-core 2.14.1"}},
		{"manifest and the file's name", "app/log4j-core-2.14.1.jar", scantest.Jar(t, scantest.Log4jManifest, class("B")),
			[]string{"app/log4j-core-2.14.1.jar org.apache.logging.log4j:log4j-core 2.14.1"}},
		{"manifest", "app/jackson.jar", scantest.Jar(t, manifest("Implementation-Title: jackson-databind", "Implementation-Version: 2.9.8", "Implementation-Vendor-Id: com.fasterxml.jackson.core")),
			[]string{"app/jackson.jar com.fasterxml.jackson.core:jackson-databind 2.9.8"}},
		{"manifest of old", "app/log4j-1.2.17.jar", scantest.Jar(t, manifest("Bundle-SymbolicName: log4j", "Implementation-Title: log4j", "Implementation-Version: 1.2.17", "Implementation-Vendor: Apache Software Foundation")),
			[]string{"app/log4j-1.2.17.jar log4j:log4j 1.2.17"}},
		{"names for people", "app/tool-1.0.jar", scantest.Jar(t, manifest("Implementation-Title: A Tool", "Implementation-Version: 1.0", "Implementation-Vendor: ACME")), nil},
		{"the vendor is no group", "app/tool-1.0.jar", scantest.Jar(t, manifest("Implementation-Title: tool", "Implementation-Version: 1.0", "Implementation-Vendor: ACME")), nil},
		{"another's group", "app/app.war", scantest.Jar(t, // the inner one's group is not the outer one's
			scantest.File{Name: "log4j-core-2.14.1.jar", Content: scantest.Jar(t, scantest.Log4jManifest)},
			scantest.File{Name: "log4j-api-2.14.1.jar", Content: scantest.Jar(t, class("C"))}),
			[]string{"app/app.war/log4j-core-2.14.1.jar org.apache.logging.log4j:log4j-core 2.14.1"}},
		{"nothing", "app/nothing-1.0.jar", scantest.Jar(t, class("D")), nil},
		{"no archive", "app/broken.jar", "no archive", nil},
		{"another's extension", "app/log4j.zip", log4j(t), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := scanBy(t, "", scantest.Image(t, scantest.Layer(t, scantest.File{Name: tt.path, Content: tt.content})), nil)
			if diff := cmp.Diff(tt.want, found(r.Inventory)); diff != "" {
				t.Error(diff)
			}
			if r.Inventory.Scanner.JavaDB {
				t.Error("it says that it had a database")
			}
		})
	}
}

// From the bytes of a fat jar to the finding, and into the documents.
func TestScanLog4Shell(t *testing.T) {
	fat := scantest.Jar(t, scantest.File{Name: "BOOT-INF/lib/log4j-core-2.14.1.jar", Content: log4j(t)})
	r := scanBy(t, "", scantest.Image(t, scantest.Debian(t), scantest.Layer(t, scantest.File{Name: "app/app.jar", Content: fat})), nil)
	dir := t.TempDir()
	if err := matchtest.Write(dir, time.Now(), matchtest.Log4Shell); err != nil {
		t.Fatal(err)
	}
	m := match.New()
	defer m.Close()
	if err := m.Use(dir, match.Database{ID: 1}); err != nil {
		t.Fatal(err)
	}
	got, err := m.Match(t.Context(), r.Inventory)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Findings) != 1 || got.Findings[0].ID != "CVE-2021-44228" || !strings.HasPrefix(got.Findings[0].Fixed, "2.15.0") {
		t.Errorf("findings %+v", got.Findings)
	}
	for name, doc := range map[string][]byte{"SPDX": r.SPDX, "CycloneDX": r.CycloneDX} {
		if !strings.Contains(string(doc), "pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1") {
			t.Errorf("the %s document does not name it", name)
		}
	}
}

// With a database also those are known that say nothing.
func TestScanJarsByDatabase(t *testing.T) {
	silent := scantest.Jar(t, class("silent"))
	dir := t.TempDir()
	scantest.WriteJavaDB(t, filepath.Join(dir, "java-db"), time.Now(),
		scantest.KnownJar{Group: "org.apache.logging.log4j", Artifact: "log4j-core", Version: "2.14.1", Content: silent})
	img := scantest.Image(t, scantest.Layer(t,
		scantest.File{Name: "app/logging.jar", Content: silent},
		scantest.File{Name: "app/app.war", Content: scantest.Jar(t, scantest.File{Name: "WEB-INF/lib/x.jar", Content: silent})},
		scantest.File{Name: "app/unknown.jar", Content: scantest.Jar(t, class("unknown"))},
		scantest.File{Name: "app/named.jar", Content: scantest.Jar(t, scantest.PomProperties("com.example", "app", "1.0"))}))
	store := new(scantest.Store)
	if got := found(scanBy(t, "", img, store).Inventory); len(got) != 1 {
		t.Errorf("without a database %q were found", got)
	}
	// What was found in a layer without one does not count.
	r := scanBy(t, dir, img, store)
	want := []string{
		"app/app.war/WEB-INF/lib/x.jar org.apache.logging.log4j:log4j-core 2.14.1",
		"app/logging.jar org.apache.logging.log4j:log4j-core 2.14.1",
		"app/named.jar com.example:app 1.0",
	}
	if diff := cmp.Diff(want, found(r.Inventory)); diff != "" {
		t.Error(diff)
	}
	if !r.Inventory.Scanner.JavaDB || len(r.Blobs) != 1 {
		t.Errorf("scanner %+v, %d layers read", r.Inventory.Scanner, len(r.Blobs))
	}
	// And what was found with one does, until another layer comes.
	if r := scanBy(t, dir, img, store); len(r.Blobs) != 0 || len(found(r.Inventory)) != 3 {
		t.Errorf("the second time %d layers were read, %q found", len(r.Blobs), found(r.Inventory))
	}
}

// A database that cannot be read is not taken for one that knows nothing.
func TestScanJavaDB(t *testing.T) {
	none, other, damaged := t.TempDir(), t.TempDir(), t.TempDir()
	scantest.WriteJavaDB(t, filepath.Join(other, "java-db"), time.Now())
	scantest.WriteJavaDB(t, filepath.Join(damaged, "java-db"), time.Now())
	for path, body := range map[string]string{
		filepath.Join(other, "java-db", scantest.JavaDBFile):   "",
		filepath.Join(damaged, "java-db", scantest.JavaDBFile): "garbage, and not a little of it",
	} {
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, dir := range map[string]string{"none": none, "another": other, "damaged": damaged} {
		w := scantest.NewWorker(t, scantest.Image(t, scantest.Debian(t)), testJob, nil)
		if err := Scan(t.Context(), scanproto.NewClient(w.Socket), Options{JavaDB: dir}); err != nil {
			t.Fatal(err)
		}
		if f := w.Result().Failed; f == nil || f.Reason != scanproto.ReasonInternal || !strings.Contains(f.Message, "database of jars") {
			t.Errorf("%s: ended with %v", name, f)
		}
	}
}

// Nor is one that can be opened, and not be asked.
func TestScanJavaDBFails(t *testing.T) {
	silent, dir := scantest.Jar(t, class("silent")), t.TempDir()
	scantest.WriteJavaDB(t, filepath.Join(dir, "java-db"), time.Now(), scantest.KnownJar{Group: "g", Artifact: "a", Version: "1", Content: silent})
	db, err := sql.Open("sqlite", filepath.Join(dir, "java-db", scantest.JavaDBFile))
	if err == nil {
		_, err = db.ExecContext(t.Context(), "UPDATE indices SET version = NULL")
	}
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	w := scantest.NewWorker(t, scantest.Image(t, scantest.Layer(t, scantest.File{Name: "app/silent.jar", Content: silent})), testJob, nil)
	if err := Scan(t.Context(), scanproto.NewClient(w.Socket), Options{JavaDB: dir}); err != nil {
		t.Fatal(err)
	}
	if f := w.Result().Failed; f == nil || f.Reason != scanproto.ReasonInternal || !strings.Contains(f.Message, "database of jars") {
		t.Errorf("ended with %v, inventory %+v", f, w.Result().Inventory)
	}
}

// Archives within archives may be many times as large as they lie in a layer.
func TestScanNestedBomb(t *testing.T) {
	job := testJob
	job.MaxLayerBytes = 8 << 20
	for _, tt := range []struct {
		name string
		size int64
		want bool
	}{{"small", 4 << 20, false}, {"large", 1 << 30, true}} {
		t.Run(tt.name, func(t *testing.T) {
			inner := scantest.Zeros(t, "a.jar", tt.size)
			w := scantest.NewWorker(t, scantest.Image(t, scantest.Layer(t, scantest.File{Name: "app/app.jar", Content: inner})), job, nil)
			if err := Scan(t.Context(), scanproto.NewClient(w.Socket), Options{}); err != nil {
				t.Fatal(err)
			}
			f := w.Result().Failed
			if got := f != nil && f.Reason == scanproto.ReasonTooLarge && strings.Contains(f.Message, "archives"); got != tt.want {
				t.Errorf("ended with %v", f)
			}
		})
	}
}
