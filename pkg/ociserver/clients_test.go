package ociserver_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// Our own client, which only reads.
func TestOCIClient(t *testing.T) {
	open := func(t *testing.T) *ociclient.Client {
		c, err := ociclient.New(ociclient.Options{URL: serve(t, library(t), ociserver.Options{}).URL, Trust: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	ocitest.SuitePull(t, func(t *testing.T) (oci.Puller, string) { return open(t), "" })
	ocitest.SuiteList(t, func(t *testing.T) (oci.Lister, string) { return open(t), "" })
}

func reference(t *testing.T, srv *httptest.Server, s string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(strings.TrimPrefix(srv.URL, "http://") + "/" + s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// go-containerregistry (crane, ko, kaniko, cosign) reads what we hold.
func TestCranePulls(t *testing.T) {
	srv := serve(t, library(t), ociserver.Options{})
	host := strings.TrimPrefix(srv.URL, "http://")
	for _, p := range ocitest.Library() {
		if p.Tag == "" {
			continue
		}
		ref := fmt.Sprintf("%s/%s:%s", host, p.Repo, p.Tag)
		if d, err := crane.Digest(ref); err != nil || d != p.Digest.String() {
			t.Errorf("digest of %s: %s, %v, want %s", ref, d, err, p.Digest)
		}
		if m, err := crane.Manifest(ref); err != nil || !bytes.Equal(m, p.Bytes) {
			t.Errorf("manifest of %s: %d bytes, %v", ref, len(m), err)
		}
	}
	desc, err := remote.Get(reference(t, srv, "library/docker:list"))
	if err != nil {
		t.Fatal(err)
	}
	index, err := desc.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil { // reads every byte of every image
		t.Error(err)
	}
	tags, err := crane.ListTags(host + "/tags")
	if err != nil || len(tags) != 13 {
		t.Errorf("tags %q, %v", tags, err)
	}
	repos, err := crane.Catalog(host)
	if err != nil || !slices.Contains(repos, "deep/er/still/one") {
		t.Errorf("repositories %q, %v", repos, err)
	}
	app := placed("library/app", "v1")
	refs, err := remote.Referrers(reference(t, srv, "library/app@"+app.Digest.String()).(name.Digest))
	if err != nil {
		t.Fatal(err)
	}
	list, err := refs.IndexManifest()
	if err != nil || len(list.Manifests) != 2 {
		t.Errorf("referrers: %+v, %v", list, err)
	}
}

// And writes: images and indexes of both kinds, mounts, tags, deletion.
func TestCranePushes(t *testing.T) {
	reg := ocitest.NewMemory()
	srv := serve(t, reg, ociserver.Options{ChunkMinBytes: 1 << 20})
	image, err := random.Image(300_000, 4)
	if err != nil {
		t.Fatal(err)
	}
	index, err := random.Index(10_000, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	docker := mutate.IndexMediaType(index, types.DockerManifestList)

	first := reference(t, srv, "team/app:v1")
	if err := remote.Write(first, image); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]v1.ImageIndex{"team/app:index": index, "team/app:list": docker} {
		if err := remote.WriteIndex(reference(t, srv, ref), want); err != nil {
			t.Fatal(err)
		}
		got, err := remote.Index(reference(t, srv, ref))
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Index(got); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
		sameDigest(t, ref, got, want)
	}
	// From one repository to another: its client mounts, and uploads nothing.
	src, err := remote.Image(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference(t, srv, "team/copy:v1"), src, remote.WithTransport(noUploads{t})); err != nil {
		t.Fatal(err)
	}
	got, err := remote.Image(reference(t, srv, "team/copy:v1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got); err != nil {
		t.Error(err)
	}
	sameDigest(t, "the copy", got, image)

	if err := remote.Tag(reference(t, srv, "team/copy:v2").(name.Tag), src); err != nil {
		t.Error(err)
	}
	if err := remote.Delete(reference(t, srv, "team/copy:v2")); err != nil {
		t.Error(err)
	}
	if _, err := remote.Head(reference(t, srv, "team/copy:v2")); err == nil {
		t.Error("the tag is there after its deletion")
	}

	d, err := partial.Descriptor(image)
	if err != nil {
		t.Fatal(err)
	}
	sig := mutate.Subject(mutate.MediaType(image, types.OCIManifestSchema1), *d).(v1.Image)
	if err := remote.Write(reference(t, srv, "team/app:sig"), sig); err != nil {
		t.Fatal(err)
	}
	tags, _, err := reg.Tags(t.Context(), "team/app", 0, "")
	if err != nil || !slices.Equal(tags, []string{"index", "list", "sig", "v1"}) {
		// With OCI-Subject no client writes a sha256-… tag.
		t.Errorf("tags %q, %v", tags, err)
	}
}

func sameDigest(t *testing.T, what string, got, want interface{ Digest() (v1.Hash, error) }) {
	t.Helper()
	g, err := got.Digest()
	if err != nil {
		t.Fatal(err)
	}
	w, err := want.Digest()
	if err != nil || g != w {
		t.Errorf("%s: digest %s, want %s, %v", what, g, w, err)
	}
}

// noUploads lets no blob's bytes through.
type noUploads struct{ t *testing.T }

func (n noUploads) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPatch {
		n.t.Errorf("a blob is uploaded: %s", r.URL.Path)
	}
	return http.DefaultTransport.RoundTrip(r)
}
