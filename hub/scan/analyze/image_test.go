package analyze

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/hub/scan/scantest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// open opens an image as a scan does.
func open(t *testing.T, img v1.Image, job scanproto.Job) (*image, error) {
	w := scantest.NewWorker(t, img, job, nil)
	c := scanproto.NewClient(w.Socket)
	job, err := c.Job(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return openImage(t.Context(), c, job, func(err error) { t.Error(err) })
}

// What comes through the socket is the image that was served.
func TestImage(t *testing.T) {
	served := scantest.Image(t, scantest.Debian(t), scantest.Requests(t))
	img, err := open(t, served, scanproto.Job{Image: "registry.example:5000/team/app:v1"})
	if err != nil {
		t.Fatal(err)
	}
	wantDigest, err := served.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := img.Digest(); err != nil || got != wantDigest {
		t.Errorf("Digest = %s, %v; want %s", got, err, wantDigest)
	}
	if got := img.RepoDigests(); len(got) != 1 || got[0] != "registry.example:5000/team/app@"+wantDigest.String() {
		t.Errorf("RepoDigests = %v", got)
	}
	if got := img.RepoTags(); len(got) != 1 || got[0] != "registry.example:5000/team/app:v1" {
		t.Errorf("RepoTags = %v", got)
	}
	if diff := cmp.Diff([]string{"step 0", "step 1"}, img.history()); diff != "" {
		t.Error(diff)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if !img.layers[i].whole.Load() {
			t.Errorf("layer %d was read and is not whole", i)
		}
	}
}

func TestSplitTag(t *testing.T) {
	for name, want := range map[string][2]string{
		"docker.io/library/nginx":             {"docker.io/library/nginx", ""},
		"docker.io/library/nginx:1":           {"docker.io/library/nginx", "1"},
		"localhost:5000/x":                    {"localhost:5000/x", ""},
		"localhost:5000/x:y@sha256:" + "abcd": {"localhost:5000/x", "y"},
		"localhost:5000/x@sha256:abcd":        {"localhost:5000/x", ""},
	} {
		if repo, tag := splitTag(name); repo != want[0] || tag != want[1] {
			t.Errorf("splitTag(%q) = %q, %q", name, repo, tag)
		}
	}
}

func TestOpenImageRefuses(t *testing.T) {
	debian := scantest.Debian(t)
	statement := static.NewLayer([]byte(`{"_type":"https://in-toto.io/Statement/v0.1"}`), "application/vnd.in-toto+json")
	elsewhere, err := mutate.Append(scantest.Image(t), mutate.Addendum{Layer: debian, URLs: []string{"https://elsewhere.test/layer"}})
	if err != nil {
		t.Fatal(err)
	}
	noDiffIDs := scantest.Image(t, debian)
	cf, err := noDiffIDs.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.RootFS.DiffIDs = nil
	noDiffIDs, err = mutate.ConfigFile(noDiffIDs, cf)
	if err != nil {
		t.Fatal(err)
	}
	of := func(mediaType types.MediaType) v1.Image {
		l := scantest.Stored([]byte("x"), scantest.Sum([]byte("x")))
		l.Type = mediaType
		return scantest.Image(t, debian, l)
	}
	for _, tt := range []struct {
		name string
		img  v1.Image
		want scanproto.Reason // "" is none
		text string
	}{
		{"of Docker's types", scantest.Image(t, debian), "", ""},
		{"of OCI's types", mutate.ConfigMediaType(mutate.MediaType(scantest.Image(t, debian), types.OCIManifestSchema1), types.OCIConfigJSON), "", ""},
		{"without layers", scantest.Image(t), "", ""},
		{"an OCI layer in zstd", of(types.OCILayerZStd), "", ""},
		{"an OCI layer, plain", of(types.OCIUncompressedLayer), "", ""},
		{"a Docker layer, plain", of(types.DockerUncompressedLayer), "", ""},

		{"a foreign layer that was pushed", of(types.DockerForeignLayer), "", ""},
		{"another", of(types.OCIRestrictedLayer), "", ""},

		{"BuildKit's attestations", scantest.Image(t, statement), scanproto.ReasonUnscannable, "application/vnd.in-toto+json"},
		{"an artifact", mutate.ConfigMediaType(scantest.Image(t, statement), "application/vnd.oci.empty.v1+json"), scanproto.ReasonUnscannable, "vnd.oci.empty"},

		// containerd would run these.
		{"one attestation among layers", scantest.Image(t, debian, statement), scanproto.ReasonCorrupt, "application/vnd.in-toto+json"},
		{"a layer kept elsewhere", elsewhere, scanproto.ReasonCorrupt, "elsewhere"},
		{"a layer said to be encrypted", of("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), scanproto.ReasonCorrupt, "encrypted"},
		{"a config of another name", mutate.ConfigMediaType(scantest.Image(t, debian), "application/vnd.oci.empty.v1+json"), scanproto.ReasonCorrupt, "vnd.oci.empty"},

		{"layers and diff IDs differ", noDiffIDs, scanproto.ReasonCorrupt, "1 layers, the config 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := open(t, tt.img, scanproto.Job{Image: "docker.io/library/x"})
			var failed *scanproto.Failed
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (!errors.As(err, &failed) || failed.Reason != tt.want || !strings.Contains(failed.Message, tt.text)):
				t.Errorf("opened with %v, want %s with %q", err, tt.want, tt.text)
			}
		})
	}

	_, err = open(t, scantest.Image(t, debian), scanproto.Job{Manifest: oci.Descriptor{Digest: oci.FromBytes([]byte("another"))}})
	var failed *scanproto.Failed
	if !errors.As(err, &failed) || failed.Reason != scanproto.ReasonCorrupt {
		t.Errorf("another manifest: %v", err)
	}
}

// A layer that does not come in time ends the scan, and the waiting for it.
func TestLayerTime(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	w := scantest.NewWorker(t, scantest.Image(t, scantest.Debian(t)), scanproto.Job{}, nil)
	w.Blob = func(oci.Digest) { <-release }
	c := scanproto.NewClient(w.Socket)
	job, err := c.Job(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, fail := context.WithCancelCause(t.Context())
	img, err := openImage(ctx, c, job, fail)
	if err != nil {
		t.Fatal(err)
	}
	img.layers[0].lim.time = 10 * time.Millisecond
	if _, err := img.layers[0].Uncompressed(); err == nil {
		t.Error("a layer that was never sent was opened")
	}
	var failed *scanproto.Failed
	if !errors.As(context.Cause(ctx), &failed) || failed.Reason != scanproto.ReasonTimeout {
		t.Errorf("ended with %v", context.Cause(ctx))
	}
}
