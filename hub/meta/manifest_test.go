package meta

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestPutManifest(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	layer := putBlob(t, s, "team/app", "layer")
	m := image("team/app", "v1", layer, layer) // a layer may stand twice
	must(t, s.PutManifest(ctx, m))
	must(t, s.PutManifest(ctx, m)) // and a push come twice

	byTag, err := s.ManifestByTag(ctx, "team/app", "v1")
	must(t, err)
	if string(byTag.Body) != string(m.Body) || byTag.Digest != m.Digest || byTag.MediaType != oci.MediaTypeImage ||
		byTag.SizeBytes != int64(len(m.Body)) || byTag.ID == 0 || byTag.Kind != Local || byTag.Public {
		t.Errorf("ManifestByTag = %+v", byTag)
	}
	byDigest, err := s.ManifestByDigest(ctx, "team/app", m.Digest)
	must(t, err)
	if string(byDigest.Body) != string(m.Body) || byDigest.ID != byTag.ID || byDigest.Descriptor().Digest != m.Digest || !byDigest.CheckedAt.IsZero() {
		t.Errorf("ManifestByDigest = %+v", byDigest)
	}
	statTag, err := s.StatTag(ctx, "team/app", "v1")
	byTag.Body = nil
	if diff := cmp.Diff(byTag, statTag); diff != "" || err != nil {
		t.Errorf("StatTag differs from ManifestByTag: %v (-want +got)\n%s", err, diff)
	}
	stat, err := s.StatManifest(ctx, "team/app", m.Digest)
	byDigest.Body = nil
	if diff := cmp.Diff(byDigest, stat); diff != "" || err != nil {
		t.Errorf("StatManifest differs from ManifestByDigest: %v (-want +got)\n%s", err, diff)
	}

	// The tag moves; the manifest stays.
	first, c2 := c.now(), image("team/app", "v2")
	c.pass(time.Minute)
	c2.Tag = "v1"
	must(t, s.PutManifest(ctx, c2))
	tags, _, err := s.Tags(ctx, "team/app", 10, "")
	must(t, err)
	want := []Tag{{Name: "v1", Digest: c2.Digest, MediaType: oci.MediaTypeImage, SizeBytes: int64(len(c2.Body)),
		UpdatedAt: first.Add(time.Minute), CheckedAt: first.Add(time.Minute)}}
	if diff := cmp.Diff(want, tags); diff != "" {
		t.Errorf("Tags after a move (-want +got):\n%s", diff)
	}
	must(t, second(s.ManifestByDigest(ctx, "team/app", m.Digest)))
}

func TestPutManifestNamesAllThatIsMissing(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	here := putBlob(t, s, "team/app", "here")
	elsewhere := putBlob(t, s, "team/other", "elsewhere") // no grant in team/app
	m := image("team/app", "v1", here, elsewhere, digestOf("nowhere"), digestOf("nowhere"))
	m.Links.Children = []oci.Descriptor{
		{MediaType: oci.MediaTypeImage, Digest: digestOf("child")},
		{MediaType: "application/vnd.buildkit.cacheconfig.v0", Digest: here},          // a blob
		{MediaType: "application/vnd.buildkit.cacheconfig.v0", Digest: digestOf("x")}, // a blob too
	}
	var missing *MissingError
	if err := s.PutManifest(ctx, m); !errors.As(err, &missing) {
		t.Fatalf("PutManifest: %v, want a MissingError", err)
	}
	got := make(map[oci.Digest]int)
	for _, d := range missing.Missing {
		got[d.Digest]++
	}
	want := map[oci.Digest]int{elsewhere: 1, digestOf("nowhere"): 1, digestOf("child"): 1, digestOf("x"): 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
	if _, err := s.ManifestByTag(ctx, "team/app", "v1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("ManifestByTag after a refused push: %v, want ErrNotFound", err)
	}
}

func TestPutProxied(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	must(t, second(s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Public: true, Source: FromFile})))
	const repo = "docker.io/library/nginx"

	// A tag is known before its manifest is.
	r, err := s.EnsureRepo(ctx, repo, Proxy)
	must(t, err)
	m := image(repo, "1", digestOf("layer"))
	must(t, s.PutTag(ctx, r.RepoID, Tag{Name: "1", Digest: m.Digest, MediaType: oci.MediaTypeImage, SizeBytes: 7}))
	got, err := s.ManifestByTag(ctx, repo, "1")
	if err != nil || got.ID != 0 || got.Body != nil || got.Digest != m.Digest || got.SizeBytes != 7 || !got.CheckedAt.Equal(c.now()) {
		t.Errorf("ManifestByTag of a manifest that is not stored = %+v, %v", got, err)
	}
	updated := c.now()
	c.pass(time.Hour)
	must(t, s.PutProxied(ctx, m)) // its layer is nowhere
	if got, err = s.ManifestByTag(ctx, repo, "1"); err != nil || got.ID == 0 || !got.CheckedAt.Equal(c.now()) {
		t.Errorf("ManifestByTag = %+v, %v; want it stored and checked now", got, err)
	}
	if tags, _, err := s.Tags(ctx, repo, 1, ""); err != nil || !tags[0].UpdatedAt.Equal(updated) {
		t.Errorf("Tags = %+v, %v; want the tag updated when it was first seen", tags, err)
	}
	byDigest, err := s.ManifestByDigest(ctx, repo, m.Digest)
	if err != nil || !byDigest.CheckedAt.Equal(c.now()) {
		t.Errorf("ManifestByDigest = %+v, %v; want it checked now", byDigest, err)
	}

	// The layer may be read, and is not here.
	b, err := s.RepoBlob(ctx, repo, digestOf("layer"))
	if err != nil || b.ID != 0 || b.StorageKey != "" || b.SizeBytes != 1 || b.Kind != Proxy || !b.Public || !b.LearntAt.Equal(c.now()) || !b.CheckedAt.IsZero() {
		t.Errorf("RepoBlob = %+v, %v", b, err)
	}
	c.pass(time.Hour)
	must(t, s.ConfirmRef(ctx, r.RepoID, digestOf("layer")))
	if b, err = s.RepoBlob(ctx, repo, digestOf("layer")); err != nil || !b.CheckedAt.Equal(c.now()) {
		t.Errorf("RepoBlob after ConfirmRef = %+v, %v", b, err)
	}
	if at, err := s.RefChecked(ctx, r.RepoID, digestOf("layer")); err != nil || !at.Equal(c.now()) {
		t.Errorf("RefChecked = %v, %v", at, err)
	}
	if at, err := s.RefChecked(ctx, r.RepoID, digestOf("other")); err != nil || !at.IsZero() {
		t.Errorf("RefChecked of what never was = %v, %v", at, err)
	}

	if err := s.PutManifest(ctx, m); !errors.Is(err, ErrConflict) {
		t.Errorf("PutManifest to a proxy: %v, want ErrConflict", err)
	}
	m.Repo = "quay.io/x"
	if err := s.PutProxied(ctx, m); !errors.Is(err, ErrNotFound) {
		t.Errorf("PutProxied without a project: %v, want ErrNotFound", err)
	}
}

func TestDeleteManifest(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	d := putBlob(t, s, "team/app", "layer")
	m := image("team/app", "v1", d)
	must(t, s.PutManifest(ctx, m))
	m.Tag = "latest"
	must(t, s.PutManifest(ctx, m))
	must(t, s.PutManifest(ctx, image("team/app", "other")))

	var inUse *InUseError
	if err := s.DeleteGrant(ctx, "team/app", d); !errors.As(err, &inUse) || inUse.By != m.Digest {
		t.Errorf("DeleteGrant of a blob in use: %v, want an InUseError by %s", err, m.Digest)
	}
	must(t, second(s.RepoBlob(ctx, "team/app", d)))

	must(t, s.DeleteTag(ctx, "team/app", "v1", "ann"))
	if err := s.DeleteTag(ctx, "team/app", "v1", "ann"); !errors.Is(err, ErrNotFound) {
		t.Errorf("DeleteTag again: %v, want ErrNotFound", err)
	}
	must(t, second(s.ManifestByTag(ctx, "team/app", "latest")))

	must(t, s.DeleteManifest(ctx, "team/app", m.Digest, "ann"))
	if err := s.DeleteManifest(ctx, "team/app", m.Digest, "ann"); !errors.Is(err, ErrNotFound) {
		t.Errorf("DeleteManifest again: %v, want ErrNotFound", err)
	}
	tags, more, err := s.Tags(ctx, "team/app", 10, "")
	if err != nil || more || len(tags) != 1 || tags[0].Name != "other" {
		t.Errorf("Tags = %v, %v, %v; want only the other manifest's", tags, more, err)
	}
	must(t, s.DeleteGrant(ctx, "team/app", d)) // of use no more
	if _, err := s.RepoBlob(ctx, "team/app", d); !errors.Is(err, ErrNotFound) {
		t.Errorf("RepoBlob after DeleteGrant: %v, want ErrNotFound", err)
	}
	if err := s.DeleteGrant(ctx, "team/app", d); !errors.Is(err, ErrNotFound) {
		t.Errorf("DeleteGrant again: %v, want ErrNotFound", err)
	}
	must(t, second(s.LiveBlob(ctx, d))) // the bytes stay
}

func TestTagsArePaged(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	for _, tag := range []string{"b", "a", "B", "a.1"} {
		must(t, s.PutManifest(ctx, image("team/app", tag)))
	}
	must(t, second(s.EnsureRepo(ctx, "team/empty", Local)))
	var got []string
	for last, more := "", true; more; {
		var tags []Tag
		var err error
		tags, more, err = s.Tags(ctx, "team/app", 1, last)
		must(t, err)
		got, last = append(got, tags[0].Name), tags[0].Name
	}
	if diff := cmp.Diff([]string{"B", "a", "a.1", "b"}, got); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	if tags, more, err := s.Tags(ctx, "team/empty", 1, ""); len(tags) > 0 || more || err != nil {
		t.Errorf("Tags of an empty repository = %v, %v, %v", tags, more, err)
	}
	if _, _, err := s.Tags(ctx, "team/none", 1, ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("Tags of no repository: %v, want ErrNotFound", err)
	}
}

func TestReferrers(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	subject := digestOf("not pushed yet")
	put := func(repo, name, artifactType string, annotations map[string]string) NewManifest {
		m := image(repo, "")
		m.Body = []byte(name)
		m.Digest = digestOf(name)
		m.Links.Subject = &oci.Descriptor{Digest: subject}
		m.Links.ArtifactType, m.Links.Annotations = artifactType, annotations
		must(t, s.PutManifest(ctx, m))
		return m
	}
	sig := put("team/app", "sig", "application/sig", map[string]string{"by": "x"})
	sbom := put("team/app", "sbom", "application/sbom", nil)
	put("team/other", "elsewhere", "application/sig", nil)
	must(t, s.PutManifest(ctx, image("team/app", "v1"))) // no subject

	got, err := s.Referrers(ctx, "team/app", subject, "application/sig")
	want := []oci.Descriptor{{MediaType: oci.MediaTypeImage, Digest: sig.Digest, Size: 3, ArtifactType: "application/sig", Annotations: map[string]string{"by": "x"}}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Referrers of a type: %v (-want +got)\n%s", err, diff)
	}
	got, err = s.Referrers(ctx, "team/app", subject, "")
	if err != nil || len(got) != 2 || got[0].Digest > got[1].Digest || got[0].Digest != min(sig.Digest, sbom.Digest) {
		t.Errorf("Referrers = %v, %v; want both by digest", got, err)
	}
	if got, err := s.Referrers(ctx, "team/app", digestOf("lonely"), ""); len(got) > 0 || err != nil {
		t.Errorf("Referrers of what has none = %v, %v", got, err)
	}
	if _, err := s.Referrers(ctx, "team/none", subject, ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("Referrers in no repository: %v, want ErrNotFound", err)
	}
}
