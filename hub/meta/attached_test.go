package meta

import (
	"errors"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// attach stores a manifest about subject as the hub itself does.
func attach(t *testing.T, s *Store, name string, subject oci.Digest) NewManifest {
	t.Helper()
	m := image(app, name, putBlob(t, s, app, name))
	m.Links.Subject = &oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: subject, Size: 1}
	m = parsed(t, m)
	m.Attached, m.Tag = true, ""
	must(t, s.PutManifest(t.Context(), m))
	return m
}

func TestRemoveAttached(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	img := put(t, s, app, "v1", "img", "")
	all := map[string]NewManifest{
		"mine": attach(t, s, "mine", img.Digest), "pushed": attach(t, s, "pushed", img.Digest), "again": attach(t, s, "again", img.Digest),
		"tagged": attach(t, s, "tagged", img.Digest), "listed": attach(t, s, "listed", img.Digest), "signed": attach(t, s, "signed", img.Digest),
		"users": put(t, s, app, "", "users", img.Digest),
	}
	must(t, s.PutManifest(ctx, all["again"]))
	for _, m := range []NewManifest{all["pushed"], withTag(all["tagged"], "sbom")} {
		m.Attached = m.Tag != ""
		must(t, s.PutManifest(ctx, m))
	}
	must(t, s.PutManifest(ctx, all["pushed"])) // the hub has no more of a right to it
	putIndex(t, s, app, "index", "", all["listed"])
	put(t, s, app, "", "signature", all["signed"].Digest)

	for name, m := range all {
		want := name == "mine" || name == "again"
		if removed, err := s.RemoveAttached(ctx, app, m.Digest); removed != want || err != nil {
			t.Errorf("RemoveAttached of %s = %v, %v", name, removed, err)
		}
		if _, err := s.StatManifest(ctx, app, m.Digest); errors.Is(err, ErrNotFound) != want {
			t.Errorf("%s is there: %v", name, err)
		}
	}
	if all, _, err := s.Trash(ctx, TrashFilter{}, 10, ""); len(all) != 0 || err != nil {
		t.Errorf("Trash = %v, %v", all, err)
	}
	for _, name := range []string{app, "team/none"} {
		if _, err := s.RemoveAttached(ctx, name, all["mine"].Digest); !errors.Is(err, ErrNotFound) {
			t.Errorf("RemoveAttached of what is not in %s: %v", name, err)
		}
	}

	// What was in it goes as all that nothing holds, and nothing else does.
	layer := all["mine"].Links.Blobs[0].Digest
	if r := collected(t, s); r.Quarantined != 0 {
		t.Errorf("at once: %+v", r)
	}
	c.pass(day)
	collected(t, s)
	c.pass(day)
	collected(t, s)
	if live(t, s, layer) || !live(t, s, all["users"].Links.Blobs[0].Digest) {
		t.Error("the bytes that were in it stay, or those of others go")
	}
}

// What is deleted with its image comes back with it, and is not the hub's alone
// any more.
func TestAttachedGoesWithItsImage(t *testing.T) {
	s := newStore(t, newClock())
	img := put(t, s, app, "v1", "img", "")
	sbom := attach(t, s, "sbom", img.Digest)
	must(t, s.DeleteManifest(t.Context(), app, img.Digest, "ann"))
	must(t, s.RestoreTrash(t.Context(), trashed(t, s).Op, false))
	if removed, err := s.RemoveAttached(t.Context(), app, sbom.Digest); removed || err != nil {
		t.Errorf("RemoveAttached after a restore = %v, %v", removed, err)
	}
}
