package scan

import (
	"encoding/json"
	"io"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/hub/scan/scantest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/test/need"
)

// pushLayers stores an image of real layers.
func (x *scene) pushLayers(layers ...v1.Layer) oci.Digest {
	x.t.Helper()
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{MediaType: oci.MediaTypeImage}
	m.SchemaVersion = 2
	for _, l := range layers {
		id, err := l.DiffID()
		must(x.t, err)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, oci.Digest(id.String()))
		r, err := l.Compressed()
		must(x.t, err)
		b, err := io.ReadAll(r)
		must(x.t, err)
		m.Layers = append(m.Layers, x.put(ocispec.MediaTypeImageLayerGzip, b))
	}
	text, err := json.Marshal(config)
	must(x.t, err)
	m.Config = x.put(ocispec.MediaTypeImageConfig, text)
	return x.putManifest(oci.MediaTypeImage, m)
}

// The scanner as it is, from the layers' bytes to the findings.
func TestRealScanner(t *testing.T) {
	program := need.Scanner(t, "../..")
	p := &published{documents: make(map[string]int)}
	x := newScene(t, "sqlite", func(o *Options) {
		o.Program, o.MaxAttempts, o.SBOM, o.Publisher = program, 1, true, p
	})
	x.use(matchtest.Libidn2, matchtest.Bash, matchtest.Requests)
	began := time.Now()
	d := x.pushLayers(scantest.Debian(t), scantest.Requests(t))
	f := x.one(d)
	if f.State != policy.ScanDone || len(f.Vulns) != 3 {
		t.Fatalf("fact %+v, job %+v", f, x.job(d))
	}
	for i, want := range []string{"CVE-2019-18224 libidn2-0 2.0.5-1 CRITICAL", "CVE-2018-18074 requests 2.19.0 HIGH", "CVE-2019-18276 bash 5.0-4 LOW"} {
		v := f.Vulns[i]
		if got := v.ID + " " + v.Package + " " + v.Installed + " " + v.Severity.String(); got != want {
			t.Errorf("finding %q, want %q", got, want)
		}
	}
	until(t, "done", func() bool { return x.job(d).State == meta.ScanDone })
	t.Logf("scanned in %s", time.Since(began))
	if p.documents[TypeSPDX] != 1 || p.documents[TypeCycloneDX] != 1 {
		t.Errorf("documents %v", p.documents)
	}
	// Of the next image with these layers none is read.
	read := 0
	x.images.mu.Lock()
	x.images.blob = func(d oci.Digest, b *oci.Blob) (*oci.Blob, error) {
		read++
		return b, nil
	}
	x.images.mu.Unlock()
	if f := x.one(x.pushLayers(scantest.Requests(t), scantest.Debian(t))); f.State != policy.ScanDone || len(f.Vulns) != 3 {
		t.Errorf("of another image of the same layers: %+v", f)
	}
	if read != 1 { // its config
		t.Errorf("%d blobs were read, want the config alone", read)
	}
	// Bytes that are not what the config says they are.
	liar := x.pushClaiming([]oci.Digest{oci.FromBytes([]byte("other"))}, "no layer at all")
	if f := x.one(liar); f.State != policy.ScanError || x.job(liar).Reason != string(scanproto.ReasonCorrupt) {
		t.Errorf("of garbage: %+v, %+v", f, x.job(liar))
	}
}
