package ocitest

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// suitePush tests how manifests come in and go, and mounts.
func suitePush(t *testing.T, open func(t *testing.T) oci.Registry) {
	t.Run("ManifestBytes", func(t *testing.T) { testManifestBytes(t, open(t)) })
	t.Run("ManifestRefused", func(t *testing.T) { testManifestRefused(t, open(t)) })
	t.Run("ManifestSHA512", func(t *testing.T) {
		reg, tree := open(t), Image(20, 1, 100)
		push(t, reg, "team/app", "", tree)
		d := digest.SHA512.FromBytes(tree.Bytes)
		if _, err := reg.PutManifest(t.Context(), "team/app", oci.Digested(d), tree.MediaType, tree.Bytes); err != nil {
			t.Fatal(err)
		}
		tree.Digest = d
		checkManifest(t, reg, "team/app", oci.Digested(d), tree)
	})
	t.Run("TagMoves", func(t *testing.T) {
		reg, old, young := open(t), Image(21, 1, 100), Image(22, 1, 100)
		push(t, reg, "team/app", "v1", old)
		push(t, reg, "team/app", "v1", young)
		pull(t, reg, "team/app", "v1", young)
		checkManifest(t, reg, "team/app", oci.Digested(old.Digest), old) // untagged, but there
	})
	t.Run("SubjectLater", func(t *testing.T) {
		reg, image := open(t), Image(23, 1, 100)
		sig := Artifact("application/vnd.test.signature", []byte("early"), &image.Descriptor)
		push(t, reg, "team/app", "", sig)
		push(t, reg, "team/app", "v1", image)
		got, err := reg.Referrers(t.Context(), "team/app", image.Digest, "")
		if err != nil || len(got) != 1 || got[0].Digest != sig.Digest {
			t.Errorf("Referrers = %v, %v, want the artifact pushed before its subject", got, err)
		}
	})
	t.Run("Delete", func(t *testing.T) { testDelete(t, open(t)) })
	t.Run("Mount", func(t *testing.T) { testMount(t, open(t)) })
	t.Run("PushAtOnce", func(t *testing.T) { testPushAtOnce(t, open(t)) })
}

// push fails the test when tree cannot be put into repo.
func push(t *testing.T, reg oci.Pusher, repo, tag string, tree Tree) {
	t.Helper()
	if err := tree.Push(t.Context(), reg, repo, tag); err != nil {
		t.Fatal(err)
	}
}

// testManifestBytes pushes manifests that no encoder of ours would write so.
func testManifestBytes(t *testing.T, reg oci.Registry) {
	const repo = "team/app"
	image := Image(24, 1, 100)
	push(t, reg, repo, "", image)
	compact := string(image.Bytes)
	for name, body := range map[string]string{
		"spaced":           strings.ReplaceAll(compact, ":", " :\t") + "\r\n\n",
		"unknown-field":    strings.Replace(compact, "{", `{"x-unknown":[1.0,1e2,"\u00e9<>&"],`, 1),
		"no-media-type":    strings.Replace(compact, `"mediaType":"`+image.MediaType+`",`, "", 1),
		"duplicate-fields": strings.Replace(compact, "{", `{"schemaVersion":2,`, 1),
	} {
		body = strings.ReplaceAll(body, "sha256 :\t", "sha256:") // a digest's colon is no separator
		tree := Tree{Descriptor: describe(image.MediaType, []byte(body)), Bytes: []byte(body)}
		got, err := reg.PutManifest(t.Context(), repo, oci.Tagged(name), image.MediaType, tree.Bytes)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		checkDescriptor(t, "PutManifest", repo, oci.Tagged(name), got, tree.Descriptor)
		checkManifest(t, reg, repo, oci.Tagged(name), tree)
		checkManifest(t, reg, repo, oci.Digested(tree.Digest), tree)
	}
}

func testManifestRefused(t *testing.T, reg oci.Registry) {
	const repo = "team/app"
	image, list := Image(25, 1, 100), Index(26, 1, 100)
	push(t, reg, repo, "v1", image)
	for _, tt := range []struct {
		what, repo string
		ref        oci.Reference
		mediaType  string
		body       []byte
		code       oci.Code
	}{
		{"another digest", repo, oci.Digested(absent()), image.MediaType, image.Bytes, oci.DigestInvalid},
		{"no JSON", repo, oci.Tagged("bad"), image.MediaType, []byte("manifest"), oci.ManifestInvalid},
		{"empty", repo, oci.Tagged("bad"), image.MediaType, nil, oci.ManifestInvalid},
		{"another type", repo, oci.Tagged("bad"), oci.MediaTypeIndex, image.Bytes, oci.ManifestInvalid},
		{"no manifest type", repo, oci.Tagged("bad"), "application/json", []byte(`{"schemaVersion":2}`), oci.ManifestInvalid},
		{"missing blobs", repo, oci.Tagged("bad"), image.MediaType, Image(27, 1, 100).Bytes, oci.ManifestBlobUnknown},
		{"another repository's blobs", "team/other", oci.Tagged("bad"), image.MediaType, image.Bytes, oci.ManifestBlobUnknown},
		{"missing children", repo, oci.Tagged("bad"), list.MediaType, list.Bytes, oci.ManifestBlobUnknown},
		{"bad name", "Team/App", oci.Tagged("bad"), image.MediaType, image.Bytes, oci.NameInvalid},
	} {
		_, err := reg.PutManifest(t.Context(), tt.repo, tt.ref, tt.mediaType, tt.body)
		checkCode(t, tt.what, err, tt.code)
		_, err = reg.Manifest(t.Context(), tt.repo, tt.ref)
		checkCode(t, tt.what+": read back", err, "")
	}
	pull(t, reg, repo, "v1", image)
}

func testDelete(t *testing.T, reg oci.Registry) {
	const repo = "team/app"
	ctx := t.Context()
	image, other := Image(28, 1, 100), Image(29, 1, 100)
	for _, tag := range []string{"v1", "v2", "v3"} {
		push(t, reg, repo, tag, image)
	}
	push(t, reg, repo, "other", other)

	if err := reg.DeleteManifest(ctx, repo, oci.Tagged("v1")); err != nil {
		t.Fatalf("delete a tag: %v", err)
	}
	_, err := reg.Manifest(ctx, repo, oci.Tagged("v1"))
	checkCode(t, "the deleted tag", err, oci.ManifestUnknown)
	checkManifest(t, reg, repo, oci.Tagged("v2"), image)
	checkManifest(t, reg, repo, oci.Digested(image.Digest), image)

	if err := reg.DeleteManifest(ctx, repo, oci.Digested(image.Digest)); err != nil {
		t.Fatalf("delete a manifest: %v", err)
	}
	for _, ref := range []oci.Reference{oci.Digested(image.Digest), oci.Tagged("v2"), oci.Tagged("v3")} {
		_, err := reg.Manifest(ctx, repo, ref)
		checkCode(t, "the deleted manifest, by "+ref.String(), err, oci.ManifestUnknown)
	}
	tags, _, err := reg.Tags(ctx, repo, 0, "")
	if err != nil || len(tags) != 1 || tags[0] != "other" {
		t.Errorf("tags after deletion = %q, %v, want only the other image's", tags, err)
	}
	pull(t, reg, repo, "other", other)
	push(t, reg, repo, "v1", image)
	pull(t, reg, repo, "v1", image)

	loose := RandomBytes(30, 50)
	if err := PushBlob(ctx, reg, repo, loose); err != nil {
		t.Fatal(err)
	}
	if err := reg.DeleteBlob(ctx, repo, oci.FromBytes(loose)); err != nil {
		t.Fatalf("delete a blob: %v", err)
	}
	_, err = reg.Stat(ctx, repo, oci.FromBytes(loose))
	checkCode(t, "the deleted blob", err, oci.BlobUnknown)

	checkCode(t, "delete no such tag", reg.DeleteManifest(ctx, repo, oci.Tagged("none")), oci.ManifestUnknown)
	checkCode(t, "delete no such digest", reg.DeleteManifest(ctx, repo, oci.Digested(absent())), oci.ManifestUnknown)
	checkCode(t, "delete no such blob", reg.DeleteBlob(ctx, repo, absent()), oci.BlobUnknown)
	checkCode(t, "delete in no such repository", reg.DeleteManifest(ctx, "team/none", oci.Tagged("v1")), "")
}

func testMount(t *testing.T, reg oci.Registry) {
	image := Image(31, 1, 100)
	push(t, reg, "team/app", "v1", image)
	layer := oci.FromBytes(image.Blobs[1])
	for _, tt := range []struct {
		what, from string
		d          oci.Digest
		ok         bool
	}{
		{"no such blob", "team/app", absent(), false},
		{"no such repository", "team/none", layer, false},
		{"a manifest's digest", "team/app", image.Digest, false},
		{"what is there", "team/app", layer, true},
		{"what is mounted already", "team/app", layer, true},
	} {
		ok, err := reg.Mount(t.Context(), "team/copy", tt.from, tt.d)
		if err != nil || ok != tt.ok {
			t.Errorf("mount %s: %v, %v, want %v", tt.what, ok, err, tt.ok)
		}
	}
	checkBlob(t, reg, "team/copy", layer, image.Blobs[1])
	if err := reg.DeleteBlob(t.Context(), "team/copy", layer); err != nil {
		t.Fatal(err)
	}
	checkBlob(t, reg, "team/app", layer, image.Blobs[1]) // deleted in one, there in the other
}

// testPushAtOnce pushes one image into one repository many times at once, and
// different images to one tag.
func testPushAtOnce(t *testing.T, reg oci.Registry) {
	ctx := t.Context()
	shared := Index(32, 2, 1000)
	trees := map[oci.Digest]Tree{}
	var wg sync.WaitGroup
	for i := range 6 {
		mine := Image(uint64(40+i), 1, 1000)
		trees[mine.Digest] = mine
		wg.Go(func() {
			for repo, tree := range map[string]Tree{"team/shared": shared, fmt.Sprintf("team/own%d", i): shared, "team/race": mine} {
				if err := tree.Push(ctx, reg, repo, "v1"); err != nil {
					t.Errorf("%s: %v", repo, err)
				}
			}
		})
	}
	wg.Wait()
	pull(t, reg, "team/shared", "v1", shared)
	pull(t, reg, "team/own0", "v1", shared)
	m, err := reg.Manifest(ctx, "team/race", oci.Tagged("v1"))
	winner, ok := trees[m.Digest]
	if err != nil || !ok || !bytes.Equal(m.Bytes, winner.Bytes) {
		t.Fatalf("the raced tag is %s, %v, none of those pushed", m.Digest, err)
	}
	for _, tree := range trees {
		pull(t, reg, "team/race", "", tree)
	}
}
