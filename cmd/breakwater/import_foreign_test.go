package main

import (
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// fromMemory makes the source a registry that takes what the other one does not.
func (m *move) fromMemory() {
	srv := httptest.NewServer(ociserver.New(ocitest.NewMemory(), ociserver.Options{}))
	m.t.Cleanup(srv.Close)
	m.src, m.direct = srv.URL, srv.URL
}

// pushForeign pushes an image with a foreign layer, and the layer only if it is
// to be there.
func (m *move) pushForeign(repo, tag string, layer []byte, present bool) {
	m.t.Helper()
	config := []byte(`{"os":"windows"}`)
	m.pushBlob(repo, config)
	if present {
		m.pushBlob(repo, layer)
	}
	m.putManifest(repo, tag, oci.MediaTypeDockerImage, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,
		"config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":%q,"size":%d},
		"layers":[{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":%q,"size":%d,"urls":["https://mcr.example/layer"]}]}`,
		oci.MediaTypeDockerImage, oci.FromBytes(config), len(config), oci.FromBytes(layer), len(layer)))
}

// A foreign layer is copied where the source has it, and is no fault where not.
func TestImportForeignLayers(t *testing.T) {
	m := newMove(t)
	m.fromMemory()
	there, elsewhere := []byte("pushed all the same"), []byte("at its vendor's")
	m.pushForeign("team/pushed", "v1", there, true)
	m.pushForeign("team/plain", "v1", elsewhere, false)
	r, err := m.run()
	must(t, err)
	if r.Copied != 2 || r.BlobsCopied+r.BlobsMounted != 3 {
		t.Errorf("report: %+v", r)
	}
	for repo, want := range map[string][]byte{"team/pushed": there, "team/plain": nil} {
		if _, err := m.hub.reg.Resolve(t.Context(), repo, oci.Tagged("v1")); err != nil {
			t.Errorf("%s: %v", repo, err)
		}
		if want == nil {
			continue
		}
		got, err := ocitest.ReadBlob(t.Context(), m.hub.reg, repo, oci.FromBytes(want))
		if err != nil || string(got) != string(want) {
			t.Errorf("%s: the layer is %q, %v", repo, got, err)
		}
	}
}

// A tag whose manifest goes by sha512 names the same in the hub.
func TestImportSHA512(t *testing.T) {
	m := newMove(t)
	m.fromMemory()
	image := ocitest.Image(1, 1, 100)
	m.push("team/app", "", image)
	by512 := digest.SHA512.FromBytes(image.Bytes)
	m.putManifest("team/app", by512.String()+"?tag=v1", image.MediaType, image.Bytes)
	for _, want := range []string{statusCopied, statusPresent} {
		r, err := m.run()
		must(t, err)
		if got := r.statuses()["team/app:v1"]; got != want {
			t.Errorf("the tag is %q, want %q", got, want)
		}
	}
	if head, err := m.hub.reg.Resolve(t.Context(), "team/app", oci.Tagged("v1")); err != nil || head.Digest != by512 {
		t.Errorf("the hub's tag names %s, %v; want %s", head.Digest, err, by512)
	}
}
