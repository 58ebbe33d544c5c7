//go:build goexperiment.jsonv2

package analyze

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"

	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"

	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/hub/scan/scantest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// A scan of this package's tests removes its temporary files as the program does.
func TestMain(m *testing.M) {
	code := m.Run()
	if err := Clean(); err != nil && code == 0 {
		code = 1
	}
	os.Exit(code)
}

var testJob = scanproto.Job{
	Image: "docker.io/library/demo:1", Platform: "linux/amd64", SBOM: true,
	TimeoutSeconds: 300, MaxLayerBytes: 64 << 20, MaxLayerFiles: 10_000,
}

// runScan scans img with what store has.
func runScan(t *testing.T, img v1.Image, job scanproto.Job, store *scantest.Store) scantest.Result {
	t.Helper()
	w := scantest.NewWorker(t, img, job, store)
	if err := Scan(t.Context(), scanproto.NewClient(w.Socket), Options{}); err != nil {
		t.Fatal(err)
	}
	r := w.Result()
	if (r.Inventory == nil) == (r.Failed == nil) {
		t.Fatalf("the worker heard of an inventory %t, of a failure %v", r.Inventory != nil, r.Failed)
	}
	return r
}

func digests(t *testing.T, layers ...v1.Layer) (stored, diffIDs []oci.Digest) {
	for _, l := range layers {
		d, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		id, err := l.DiffID()
		if err != nil {
			t.Fatal(err)
		}
		stored, diffIDs = append(stored, oci.Digest(d.String())), append(diffIDs, oci.Digest(id.String()))
	}
	return stored, diffIDs
}

func TestScan(t *testing.T) {
	layers := []v1.Layer{scantest.Debian(t), scantest.Requests(t)}
	img := scantest.Image(t, layers...)
	stored, diffIDs := digests(t, layers...)
	r := runScan(t, img, testJob, nil)
	if r.Failed != nil {
		t.Fatal(r.Failed)
	}
	inv := r.Inventory
	config, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if inv.Version != scanproto.InventoryVersion || inv.ConfigID != config.String() || inv.Scanner.Name != "trivy" || time.Since(inv.At) > time.Hour {
		t.Errorf("inventory %d of %s by %v at %s", inv.Version, inv.ConfigID, inv.Scanner, inv.At)
	}
	if diff := cmp.Diff(&ftypes.OS{Family: ftypes.Debian, Name: "10.2", Eosl: true}, inv.OS); diff != "" {
		t.Error(diff)
	}

	type pkg struct{ Name, Version, Source, PURL, DiffID string }
	facts := func(pkgs ftypes.Packages) (out []pkg) {
		for _, p := range pkgs {
			out = append(out, pkg{p.Name, p.Version + "-" + p.Release, p.SrcName, p.Identifier.PURL.String(), p.Layer.DiffID})
		}
		return out
	}
	wantPkgs := []pkg{
		{"bash", "5.0-4", "bash", "pkg:deb/debian/bash@5.0-4?arch=amd64&distro=debian-10.2", diffIDs[0].String()},
		{"libidn2-0", "2.0.5-1", "libidn2", "pkg:deb/debian/libidn2-0@2.0.5-1?arch=amd64&distro=debian-10.2", diffIDs[0].String()},
	}
	if diff := cmp.Diff(wantPkgs, facts(inv.Packages)); diff != "" {
		t.Error(diff)
	}
	if len(inv.Applications) != 1 || inv.Applications[0].Type != ftypes.PythonPkg {
		t.Fatalf("applications %+v", inv.Applications)
	}
	wantPkgs = []pkg{{"requests", "2.19.0-", "", "pkg:pypi/requests@2.19.0", diffIDs[1].String()}}
	if diff := cmp.Diff(wantPkgs, facts(inv.Applications[0].Packages)); diff != "" {
		t.Error(diff)
	}
	for i, l := range inv.Layers {
		if l.DiffID != diffIDs[i] || l.Digest != stored[i] || l.SizeBytes == 0 || l.CreatedBy != []string{"step 0", "step 1"}[i] || scanproto.CheckKey(l.Key) != nil {
			t.Errorf("layer %d is %+v", i, l)
		}
	}
	slices.Sort(stored)
	slices.Sort(r.Blobs)
	if diff := cmp.Diff(stored, r.Blobs); diff != "" {
		t.Errorf("layers read: %s", diff)
	}

	var doc struct {
		SPDXVersion string
		Packages    []struct{ Name, VersionInfo string }
		Components  []struct{ Name, Version string }
	}
	for name, body := range map[string][]byte{"SPDX": r.SPDX, "CycloneDX": r.CycloneDX} {
		if err := json.Unmarshal(body, &doc); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, want := range []string{"bash", "libidn2-0", "requests", "docker.io/library/demo:1"} {
			if !bytes.Contains(body, []byte(`"`+want+`"`)) {
				t.Errorf("%s does not name %s", name, want)
			}
		}
	}
	if doc.SPDXVersion != "SPDX-2.3" || len(doc.Packages) < 4 || len(doc.Components) < 4 {
		t.Errorf("%s with %d packages, CycloneDX with %d components", doc.SPDXVersion, len(doc.Packages), len(doc.Components))
	}
}

// The hub finds in an inventory, which it knows as JSON alone, what is in the
// database about the image.
func TestScanMatches(t *testing.T) {
	dir := t.TempDir()
	if err := matchtest.Write(dir, time.Now(), matchtest.Libidn2, matchtest.Bash, matchtest.Requests); err != nil {
		t.Fatal(err)
	}
	m := match.New()
	if err := m.Use(dir, match.Database{ID: 1}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	layers := []v1.Layer{scantest.Debian(t), scantest.Requests(t)}
	_, diffIDs := digests(t, layers...)
	found, err := m.Match(t.Context(), runScan(t, scantest.Image(t, layers...), testJob, nil).Inventory)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range found.Findings {
		got = append(got, strings.Join([]string{f.ID, f.Package, f.Installed, f.DiffID}, " "))
	}
	want := []string{
		"CVE-2019-18224 libidn2-0 2.0.5-1 " + diffIDs[0].String(),
		"CVE-2018-18074 requests 2.19.0 " + diffIDs[1].String(),
		"CVE-2019-18276 bash 5.0-4 " + diffIDs[0].String(),
	}
	if diff := cmp.Diff(want, got); diff != "" || !found.EndOfLife {
		t.Errorf("end of life %t; findings (-want +got):\n%s", found.EndOfLife, diff)
	}
}

// A layer that was looked into once is not read again, for whatever image.
func TestScanAgain(t *testing.T) {
	debian, requests := scantest.Debian(t), scantest.Requests(t)
	img := scantest.Image(t, debian, requests)
	var store scantest.Store
	first := runScan(t, img, testJob, &store)
	second := runScan(t, img, testJob, &store)
	if len(second.Blobs) != 0 || len(second.Analyses) != 0 {
		t.Errorf("the second scan read %v and put %v", second.Blobs, second.Analyses)
	}
	if diff := cmp.Diff(first.Inventory, second.Inventory, cmpopts.IgnoreFields(scanproto.Inventory{}, "At")); diff != "" {
		t.Error(diff)
	}

	top := scantest.Layer(t, scantest.File{Name: "var/lib/dpkg/.wh.status"})
	r := runScan(t, scantest.Image(t, debian, requests, top), testJob, &store)
	if want, _ := digests(t, top); !slices.Equal(r.Blobs, want) {
		t.Errorf("an image on top of it read %v, want %v", r.Blobs, want)
	}
	if len(r.Inventory.Packages) != 0 || len(r.Inventory.Applications) != 1 || r.Inventory.OS == nil {
		t.Errorf("after a whiteout: %d packages, %d applications, OS %v", len(r.Inventory.Packages), len(r.Inventory.Applications), r.Inventory.OS)
	}
}

// Images that say little are scanned all the same.
func TestScanSmallImages(t *testing.T) {
	twice := scantest.Requests(t)
	for name, tt := range map[string]struct {
		img       v1.Image
		os        *ftypes.OS
		apps      int
		layers    int
		blobsRead int
	}{
		"no layer":             {scantest.Image(t), nil, 0, 0, 0},
		"no package":           {scantest.Image(t, scantest.Layer(t, scantest.File{Name: "app", Content: "x"})), nil, 0, 1, 1},
		"a layer of no file":   {scantest.Image(t, scantest.Layer(t)), nil, 0, 1, 1},
		"the same layer twice": {scantest.Image(t, twice, twice), nil, 1, 2, 1},
		"Alpine, alive": {scantest.Image(t, scantest.Layer(t,
			scantest.File{Name: "etc/os-release", Content: "ID=alpine\nVERSION_ID=3.99.1\n"}, scantest.File{Name: "etc/alpine-release", Content: "3.99.1\n"})),
			&ftypes.OS{Family: ftypes.Alpine, Name: "3.99.1"}, 0, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := runScan(t, tt.img, testJob, nil)
			if r.Failed != nil {
				t.Fatal(r.Failed)
			}
			if diff := cmp.Diff(tt.os, r.Inventory.OS); diff != "" {
				t.Error(diff)
			}
			if len(r.Inventory.Applications) != tt.apps || len(r.Inventory.Layers) != tt.layers || len(r.Blobs) != tt.blobsRead {
				t.Errorf("%d applications, %d layers, %d read; want %d, %d, %d",
					len(r.Inventory.Applications), len(r.Inventory.Layers), len(r.Blobs), tt.apps, tt.layers, tt.blobsRead)
			}
			if r.SPDX == nil || r.CycloneDX == nil {
				t.Error("a document is missing")
			}
		})
	}
}

// Each hostile layer ends its scan with a reason, and nothing is kept of it,
// within the job's limits.
func TestHostileLayers(t *testing.T) {
	job := testJob
	job.MaxLayerBytes, job.MaxLayerFiles = 16<<20, 1000
	tarred := scantest.Tar(t, scantest.File{Name: "a", Content: "a"})
	notGzip := append([]byte{0x1f, 0x8b, 8, 0}, bytes.Repeat([]byte("junk"), 100)...)

	many := make([]scantest.File, 1001)
	for i := range many {
		many[i].Name = "f" + strings.Repeat("x", i%20)
	}
	wrongDigest := scantest.Stored(gzipped(t, tarred), scantest.Sum(tarred))
	wrongDigest.Stored = scantest.Sum([]byte("another"))
	cut := scantest.Stored(gzipped(t, tarred), scantest.Sum(tarred))
	cut.Open = func() io.Reader { return cutReader{} }

	for _, tt := range []struct {
		name  string
		layer v1.Layer
		want  scanproto.Reason
	}{
		{"a zip bomb", scantest.Stored(bomb(t, 64<<20), scantest.Sum(nil)), scanproto.ReasonTooLarge},
		{"an endless tar", &scantest.Claimed{Stored: scantest.Sum([]byte("?")), Tar: scantest.Sum(nil), SizeBytes: 1 << 50, Open: func() io.Reader {
			return io.MultiReader(bytes.NewReader(tarred[:1024]), &repeat{unit: tarred[:1024]})
		}}, scanproto.ReasonTooLarge},
		{"two million files", &scantest.Claimed{Stored: scantest.Sum([]byte("?")), Tar: scantest.Sum(nil), SizeBytes: 2_000_000 * 1024, Open: func() io.Reader {
			return &repeat{unit: tarred[:1024], left: 2_000_000}
		}}, scanproto.ReasonTooLarge},
		{"a file that is a hole", scantest.Stored(sparseLayer(t), scantest.Sum(nil)), scanproto.ReasonTooLarge},
		{"broken gzip", scantest.Stored(notGzip, scantest.Sum(tarred)), scanproto.ReasonCorrupt},
		{"a wrong digest", wrongDigest, scanproto.ReasonCorrupt},
		{"another image's diff ID", scantest.Stored(gzipped(t, tarred), scantest.Sum([]byte("another"))), scanproto.ReasonCorrupt},
		{"no tar", scantest.Stored(bytes.Repeat([]byte("junk"), 1000), scantest.Sum(bytes.Repeat([]byte("junk"), 1000))), scanproto.ReasonCorrupt},
		{"an attestation", static.NewLayer([]byte(`{"_type":"https://in-toto.io/Statement/v0.1"}`), "application/vnd.in-toto+json"), scanproto.ReasonUnscannable},
		{"a connection that is cut", cut, scanproto.ReasonInternal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var store scantest.Store
			start := time.Now()
			r := runScan(t, scantest.Image(t, tt.layer), job, &store)
			if r.Failed == nil || r.Failed.Reason != tt.want {
				t.Fatalf("ended with %v, want %s", r.Failed, tt.want)
			}
			if store.Layers() != 0 || r.SPDX != nil || r.CycloneDX != nil {
				t.Errorf("%d layers were kept; documents %t, %t", store.Layers(), r.SPDX != nil, r.CycloneDX != nil)
			}
			t.Logf("%s in %s", r.Failed, time.Since(start).Round(time.Millisecond))
		})
	}
}

// sparseLayer holds a megabyte of hole a hundred times over, in some 200 KB.
func sparseLayer(t *testing.T) []byte {
	one := sparse(t)
	return append(bytes.Repeat(one[:len(one)-1024], 100), make([]byte, 1024)...)
}

// bomb is gzip of a tar with one file of n zeros.
func bomb(t *testing.T, n int64) []byte {
	head := scantest.Tar(t, scantest.File{Name: "lib/node_modules/x/package.json", Content: "x"})[:512]
	copy(head[124:136], octal(n))
	copy(head[148:156], "        ")
	sum := int64(0)
	for _, c := range head {
		sum += int64(c)
	}
	copy(head[148:156], octal(sum)[4:])
	return gzipped(t, append(head, make([]byte, n)...))
}

func octal(n int64) string {
	s := "00000000000"
	var digits []byte
	for ; n > 0; n /= 8 {
		digits = append(digits, byte('0'+n%8))
	}
	slices.Reverse(digits)
	return s[:11-len(digits)] + string(digits) + "\x00"
}

// repeat reads as unit, left times; 0 is for ever.
type repeat struct {
	unit []byte
	left int
	rest []byte
}

func (r *repeat) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if r.left == 1 {
			return 0, io.EOF
		}
		r.left--
		r.rest = r.unit
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

type cutReader struct{}

func (cutReader) Read([]byte) (int, error) { return 0, scantest.ErrCut }

// A hub that does not answer ends a scan in time.
func TestScanTimeout(t *testing.T) {
	release := make(chan struct{})
	for name, set := range map[string]func(*scanproto.Job){
		"of the scan":  func(j *scanproto.Job) { j.TimeoutSeconds = 1 },
		"of one layer": func(j *scanproto.Job) { j.LayerSeconds = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			job := testJob
			set(&job)
			w := scantest.NewWorker(t, scantest.Image(t, scantest.Debian(t)), job, nil)
			w.Blob = func(oci.Digest) { <-release }
			start := time.Now()
			if err := Scan(t.Context(), scanproto.NewClient(w.Socket), Options{}); err != nil {
				t.Fatal(err)
			}
			if f := w.Result().Failed; f == nil || f.Reason != scanproto.ReasonTimeout {
				t.Errorf("ended with %v", f)
			}
			if d := time.Since(start); d > 30*time.Second {
				t.Errorf("after %s", d)
			}
		})
	}
	close(release)
}

// A scan that is told to stop says nothing about the image.
func TestScanStopped(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	release := make(chan struct{})
	defer close(release)
	w := scantest.NewWorker(t, scantest.Image(t, scantest.Debian(t)), testJob, nil)
	w.Blob = func(oci.Digest) { stop(); <-release }
	if err := Scan(ctx, scanproto.NewClient(w.Socket), Options{}); err != context.Canceled {
		t.Errorf("Scan = %v", err)
	}
	if r := w.Result(); r.Failed != nil || r.Inventory != nil {
		t.Errorf("the worker heard %v, %v", r.Failed, r.Inventory)
	}
}

// Files are held to a limit that cannot be raised again.
func TestCapFiles(t *testing.T) {
	if err := capFiles(t.Context(), func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
		t.Fatal(err)
	}
	if r.Cur > maxFileBytes || r.Max != r.Cur {
		t.Errorf("limits of files: %+v", r)
	}
}

// Memory that is mapped past all limits ends the process, by the status that
// the worker knows.
func TestCapData(t *testing.T) {
	if os.Getenv("BREAKWATER_CAP_DATA") != "" {
		if err := capData(64 << 20); err != nil {
			t.Fatal(err)
		}
		var held [][]byte
		for range 1024 {
			held = append(held, dirty(1<<20))
		}
		t.Fatalf("held %d MiB", len(held))
	}
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCapData$")
	c.Env = append(os.Environ(), "BREAKWATER_CAP_DATA=1")
	out, err := c.CombinedOutput()
	if c.ProcessState.ExitCode() != 2 || !bytes.Contains(out, []byte("out of memory")) {
		t.Errorf("it ended with %v and said %.500s", err, out)
	}
}
