package enforce_test

import (
	"context"
	"encoding/json"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// What BuildKit keeps of builds runs nowhere; what only says that it is such
// does.
func TestBuildCache(t *testing.T) {
	const cache = `{"layers":[{"blob":"sha256:1","parent":-1}],"records":[{"digest":"sha256:2","layers":[{"layer":0}]}]}`
	for name, tt := range map[string]struct {
		config  string
		refused bool
	}{
		"a cache":                    {cache, false},
		"an image that says it is":   {`{"layers":[{}],"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:1"]}}`, true},
		"in other letters":           {`{"layers":[{}],"RootFS":{"diff_ids":["sha256:1"]}}`, true},
		"and another time":           {`{"layers":[{}],"rootfs":{"diff_ids":["sha256:1"]},"rootfs":null}`, true},
		"with a command":             {`{"layers":[{}],"config":{"Cmd":["x"]}}`, true},
		"neither":                    {`{"records":[]}`, true},
		"no JSON":                    {`x`, true},
		"a cache, and more after it": {cache + `{"rootfs":{}}`, true},
	} {
		m, j := ocitest.NewMemory(), newJudge(t)
		layer := []byte("a layer")
		man := ocispec.Manifest{
			MediaType: oci.MediaTypeImage, Config: described("application/vnd.buildkit.cacheconfig.v0", []byte(tt.config)),
			Layers: []oci.Descriptor{described(ocispec.MediaTypeImageLayerGzip, layer)},
		}
		man.SchemaVersion = 2
		body, err := json.Marshal(man)
		if err != nil {
			t.Fatal(err)
		}
		place(t, m, "gated/app", "1", ocitest.Tree{Descriptor: described(oci.MediaTypeImage, body), Bytes: body, Blobs: [][]byte{[]byte(tt.config), layer}})
		base := serve(t, enforce.New(m, j, options(j))) + "gated/app/"
		for _, path := range []string{"manifests/1", "blobs/" + oci.FromBytes(layer).String()} {
			if a := ask(t, "GET", base+path); a.StatusCode != map[bool]int{false: 200, true: 403}[tt.refused] {
				t.Errorf("%s: %s is %d, want it refused: %v", name, path, a.StatusCode, tt.refused)
			}
		}
	}
}

// Without "image-manifest=true" BuildKit puts the layers into an index, and the
// config beside them.
func TestBuildCacheInAnIndex(t *testing.T) {
	j := newJudge(t)
	blobs := [][]byte{[]byte("a layer"), []byte(`{"layers":[{}]}`)}
	index := ocispec.Index{MediaType: oci.MediaTypeIndex, Manifests: []oci.Descriptor{
		described(ocispec.MediaTypeImageLayerGzip, blobs[0]), described("application/vnd.buildkit.cacheconfig.v0", blobs[1]),
	}}
	index.SchemaVersion = 2
	body, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	m := holding{oci.Manifest{Descriptor: described(oci.MediaTypeIndex, body), Bytes: body}, oci.RefuseAll{}}
	if a := ask(t, "GET", serve(t, enforce.New(m, j, options(j)))+"gated/app/manifests/1"); a.StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// holding is a registry with one manifest.
type holding struct {
	m oci.Manifest
	oci.RefuseAll
}

func (h holding) Manifest(context.Context, string, oci.Reference) (oci.Manifest, error) {
	return h.m, nil
}
