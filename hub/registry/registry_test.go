package registry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

func TestMissingAreAllNamed(t *testing.T) {
	r := newRegistry(t, newClock())
	img := ocitest.Image(1, 2, 100)
	must(t, ocitest.PushBlob(t.Context(), r, repo, img.Blobs[1]))
	_, err := r.PutManifest(t.Context(), repo, oci.Tagged("v1"), img.MediaType, img.Bytes)
	wantCode(t, "PutManifest", err, oci.ManifestBlobUnknown)
	var e *oci.Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	got := make(map[oci.Digest]int64)
	for _, d := range e.Detail.([]oci.Descriptor) {
		got[d.Digest] = d.Size
	}
	want := map[oci.Digest]int64{
		oci.FromBytes(img.Blobs[0]): int64(len(img.Blobs[0])),
		oci.FromBytes(img.Blobs[2]): int64(len(img.Blobs[2])),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
	_, err = r.PutManifest(t.Context(), repo, oci.Tagged("v1"), img.MediaType, make([]byte, oci.MaxManifestBytes+1))
	wantCode(t, "PutManifest of too many bytes", err, oci.ManifestTooLarge)
}

func TestVisibilityIsTheProjects(t *testing.T) {
	r := newRegistry(t, newClock())
	img := ocitest.Image(1, 1, 100)
	must(t, img.Push(t.Context(), r, repo, "v1"))
	p, err := r.meta.Project(t.Context(), "team")
	if err != nil || p.Public || p.Source != meta.FromPush || p.Kind != meta.Local {
		t.Errorf("the project a push made is %+v, %v", p, err)
	}
	for _, tt := range []struct {
		public bool
		want   oci.Visibility
	}{{false, oci.Private}, {true, oci.Public}, {false, oci.Private}} {
		must(t, r.meta.SetPublic(t.Context(), "team", tt.public))
		m, err := r.Manifest(t.Context(), repo, oci.Tagged("v1"))
		must(t, err)
		head, err := r.Resolve(t.Context(), repo, oci.Digested(img.Digest))
		must(t, err)
		info, err := r.Stat(t.Context(), repo, oci.FromBytes(img.Blobs[1]))
		must(t, err)
		b, err := r.Blob(t.Context(), repo, oci.FromBytes(img.Blobs[1]))
		must(t, err)
		must(t, b.Close())
		want := oci.Answer{Source: oci.FromStore, Visibility: tt.want}
		for what, got := range map[string]oci.Answer{"Manifest": m.Answer, "Resolve": head.Answer, "Stat": info.Answer, "Blob": b.Answer} {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s of a project public: %v (-want +got):\n%s", what, tt.public, diff)
			}
		}
		if head.Bytes != nil {
			t.Error("Resolve read the body")
		}
	}
}

// Not all that the database refuses is a push to a proxy.
func TestRefused(t *testing.T) {
	err := refused(fmt.Errorf("meta.PutManifest: %w", meta.ErrOtherKind), repo)
	wantCode(t, "with a project of the other kind", err, oci.Denied)
	broken := fmt.Errorf("meta.PutManifest: %w: a broken key", meta.ErrConflict)
	if err := refused(broken, repo); err != broken {
		t.Errorf("of a broken key is told: %v", err)
	}
}

// What a proxy keeps in the same tables is neither shown nor changed here.
func TestProxiesAreNotOurs(t *testing.T) {
	r := newRegistry(t, newClock())
	ctx := t.Context()
	img := ocitest.Image(1, 1, 100)
	must(t, img.Push(ctx, r, repo, "v1")) // so that the bytes are here
	for _, name := range []string{proxied + "/library/app", "quay.io/app"} {
		// quay.io is one that this hub no longer has in its configuration.
		must(t, second(r.meta.PutProject(ctx, meta.Project{Name: meta.ProjectName(name), Kind: meta.Proxy, Public: true, Source: meta.FromFile})))
		links, err := oci.ParseManifest(img.MediaType, img.Bytes)
		must(t, err)
		must(t, r.meta.PutProxied(ctx, meta.NewManifest{Repo: name, Digest: img.Digest, Body: img.Bytes, Links: links, Tag: "v1"}))

		layer := oci.FromBytes(img.Blobs[1])
		_, err = r.Manifest(ctx, name, oci.Tagged("v1"))
		wantCode(t, "Manifest", err, oci.ManifestUnknown)
		_, err = r.Resolve(ctx, name, oci.Digested(img.Digest))
		wantCode(t, "Resolve", err, oci.ManifestUnknown)
		_, err = r.Stat(ctx, name, layer)
		wantCode(t, "Stat", err, oci.BlobUnknown)
		_, err = r.Blob(ctx, name, layer)
		wantCode(t, "Blob", err, oci.BlobUnknown)
		_, _, err = r.Tags(ctx, name, 0, "")
		wantCode(t, "Tags", err, oci.NameUnknown)
		if all, err := r.Referrers(ctx, name, layer, ""); err != nil || len(all) > 0 {
			t.Errorf("Referrers = %v, %v", all, err)
		}

		_, err = r.StartUpload(ctx, name, "")
		wantCode(t, "StartUpload", err, oci.Denied)
		_, err = r.StartUpload(ctx, name+"/new", "")
		wantCode(t, "StartUpload of a new repository", err, oci.Denied)
		_, err = r.PutManifest(ctx, name, oci.Tagged("v2"), img.MediaType, img.Bytes)
		wantCode(t, "PutManifest", err, oci.Denied)
		ok, err := r.Mount(ctx, name, repo, layer)
		wantCode(t, "Mount", err, oci.Denied)
		if ok {
			t.Error("Mount into a proxy")
		}
		for _, err := range []error{r.DeleteManifest(ctx, name, oci.Tagged("v1")), r.DeleteBlob(ctx, name, layer)} {
			if !oci.IsAbsent(err) {
				t.Errorf("a deletion: %v", err)
			}
		}
		if m, err := r.meta.ManifestByTag(ctx, name, "v1"); err != nil || m.ID == 0 {
			t.Errorf("the proxy's tag is %+v, %v", m, err)
		}

		ok, err = r.Mount(ctx, "mounted/"+meta.ProjectName(name), name, layer)
		if !ok || err != nil {
			t.Errorf("Mount from a proxy = %v, %v", ok, err)
		}
	}
	repos, _, err := r.Repositories(ctx, 0, "")
	if diff := cmp.Diff([]string{repo}, repos); diff != "" || err != nil {
		t.Errorf("Repositories: %v (-want +got)\n%s", err, diff)
	}
}

func second[A any](_ A, err error) error { return err }

func TestBlobInUseIsNotDeleted(t *testing.T) {
	r := newRegistry(t, newClock())
	img := ocitest.Image(1, 1, 100)
	must(t, img.Push(t.Context(), r, repo, "v1"))
	layer := oci.FromBytes(img.Blobs[1])
	wantCode(t, "DeleteBlob of an image's layer", r.DeleteBlob(t.Context(), repo, layer), oci.Unsupported)
	wantBlob(t, r, repo, img.Blobs[1])
	must(t, r.DeleteManifest(t.Context(), repo, oci.Digested(img.Digest)))
	must(t, r.DeleteBlob(t.Context(), repo, layer))
	_, err := r.Stat(t.Context(), repo, layer)
	wantCode(t, "Stat", err, oci.BlobUnknown)
}

// What is broken is not said to be absent: a client would push it anew, or a
// node go elsewhere, and nobody would look.
func TestDamageIsAFault(t *testing.T) {
	dir := t.TempDir()
	r := folder(dir).registry(t, newClock())
	b := ocitest.RandomBytes(1, 1000)
	must(t, ocitest.PushBlob(t.Context(), r, repo, b))
	path := filepath.Join(dir, "blobs", files(t, r)[0])
	must(t, os.Truncate(path, 999))
	_, err := r.Blob(t.Context(), repo, oci.FromBytes(b))
	wantCode(t, "a file of the wrong size", err, oci.Unknown)
	must(t, os.Remove(path))
	_, err = r.Blob(t.Context(), repo, oci.FromBytes(b))
	wantCode(t, "a file that is gone", err, oci.Unknown)
}
