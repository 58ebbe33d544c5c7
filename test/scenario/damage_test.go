package scenario

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

func serve(t *testing.T, h http.Handler) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// damages are ways in which an upstream sends something other than the object.
func damages(size int64) map[string]ocitest.Fault {
	return map[string]ocitest.Fault{
		"first byte wrong":  {CorruptAt: 1},
		"middle byte wrong": {CorruptAt: size / 2},
		"last byte wrong":   {CorruptAt: size},
		"short":             {ShortBy: 10},
		"longer":            {Extra: []byte("surplus")},
		"page":              {HTML: true},
		"cut":               {CutAt: size / 2},
		"reset":             {CutAt: size / 2, Reset: true},
	}
}

// Whatever the upstream sends, nobody ends with a whole wrong object, nothing
// wrong is kept, and the next try works.
func TestDamagedBlob(t *testing.T) {
	for _, size := range []int{500, 70_000, 5 << 20} {
		img := ocitest.Image(uint64(700+size), 1, size)
		layer := img.Blobs[1]
		d := oci.FromBytes(layer)
		for name, fault := range damages(int64(len(layer))) {
			for _, through := range []string{"hub", "agent", "agent alone"} {
				t.Run(name+"/"+strconv.Itoa(size)+"/"+through, func(t *testing.T) {
					t.Parallel()
					h := newHouse(t)
					h.push("library/x", "1", img)
					base := h.hub.url
					if through != "hub" {
						base = h.node().url
					}
					if through == "agent alone" {
						h.hub.stop()
					}
					fault := fault
					fault.Method, fault.Path = "GET", regexp.MustCompile("/blobs/")
					h.faults.Set(fault)
					a := ask(t, "GET", base, "library/x/blobs/"+d.String()+ns)
					whole := a.status == 200 && a.err == nil
					if whole && oci.FromBytes(a.body) != d {
						t.Fatalf("a client ended with %d wrong bytes and no error", len(a.body))
					}
					h.faults.Clear()
					if a := ask(t, "GET", base, "library/x/blobs/"+d.String()+ns); a.status != 200 || oci.FromBytes(a.body) != d {
						t.Fatalf("the next try: %d, %d bytes, %v", a.status, len(a.body), a.err)
					}
				})
			}
		}
	}
}

func TestDamagedManifest(t *testing.T) {
	img := ocitest.Index(800, 1, 1000)
	for name, fault := range damages(img.Size) {
		for _, by := range []string{"1", img.Digest.String()} {
			t.Run(name+"/"+by, func(t *testing.T) {
				t.Parallel()
				h := newHouse(t)
				h.push("library/x", "1", img)
				node := h.node()
				fault := fault
				fault.Method, fault.Path = "GET", regexp.MustCompile("/manifests/")
				h.faults.Set(fault)
				a := ask(t, "GET", node.url, "library/x/manifests/"+by+ns)
				if a.status == 200 && a.err == nil && oci.FromBytes(a.body) != img.Digest {
					t.Fatalf("a client ended with a wrong manifest: %s", a.body)
				}
				h.faults.Clear()
				mustPull(t, node.url, "library/x", by, img)
			})
		}
	}
}
