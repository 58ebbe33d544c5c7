package meta

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// windows is an image of a blob and a foreign layer.
func windows(t *testing.T, repo, tag string, config, foreign oci.Digest) NewManifest {
	t.Helper()
	body := fmt.Appendf(nil, `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":1},
		"layers":[{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":%q,"size":1,"urls":["https://mcr.example/x"]}],
		"annotations":{"tag":%q}}`, config, foreign, tag)
	links, err := oci.ParseManifest(oci.MediaTypeImage, body)
	must(t, err)
	if len(links.Foreign) != 1 {
		t.Fatalf("the layer is none of %v", links.Foreign)
	}
	return NewManifest{Repo: repo, Tag: tag, Body: body, Digest: oci.FromBytes(body), Links: links}
}

// expired opens a store whose garbage collection waits for nothing, and passes
// some time.
func expired(t *testing.T) (s *Store, c *clock) {
	t.Helper()
	c = newClock()
	s = newStore(t, c)
	s.gc = GC{Delay: -1, Quarantine: -1, TrashFor: day}.complete()
	return s, c
}

// sweep collects all garbage there is.
func sweep(t *testing.T, s *Store, c *clock) {
	t.Helper()
	for range 3 {
		c.pass(time.Second)
		collected(t, s)
	}
}

// pullable says whether the repository has a blob, with its bytes.
func pullable(t *testing.T, s *Store, d oci.Digest) bool {
	t.Helper()
	b, err := s.RepoBlob(t.Context(), app, d)
	if err != nil {
		return false
	}
	return b.StorageKey != ""
}

// A foreign layer that was pushed is kept as long as its manifest is.
func TestForeignLayerIsKept(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			s, c := expired(t)
			config, layer := putBlob(t, s, app, "config"), digestOf("layer")
			if when == "before" {
				putBlob(t, s, app, "layer")
			}
			m := windows(t, app, "v1", config, layer)
			must(t, s.PutManifest(t.Context(), m))
			if when == "after" {
				sweep(t, s, c)
				putBlob(t, s, app, "layer")
			}
			sweep(t, s, c)
			if !pullable(t, s, config) || !pullable(t, s, layer) {
				t.Fatalf("after a collection there are config %v, layer %v", pullable(t, s, config), pullable(t, s, layer))
			}
			if err := s.DeleteGrant(t.Context(), app, layer); err == nil {
				t.Error("a layer in use was deleted")
			}

			must(t, s.DeleteManifest(t.Context(), app, m.Digest, ""))
			sweep(t, s, c)
			if !pullable(t, s, layer) {
				t.Fatal("the trash does not keep the layer")
			}
			must(t, s.RestoreTrash(t.Context(), trashed(t, s).Op, false))
			sweep(t, s, c)
			if !pullable(t, s, layer) {
				t.Fatal("the layer did not come back")
			}

			must(t, s.DeleteManifest(t.Context(), app, m.Digest, ""))
			c.pass(2 * day)
			must(t, second(s.PurgeTrash(t.Context(), c.now().Add(-day), 10)))
			sweep(t, s, c)
			if live(t, s, config) || live(t, s, layer) {
				t.Errorf("nothing names them, and there are config %v, layer %v", live(t, s, config), live(t, s, layer))
			}
		})
	}
}

// One that was not pushed keeps nobody from pushing or restoring the image, and
// to name another repository's blob is not to have it.
func TestForeignLayerNeedNotBeThere(t *testing.T) {
	s, c := expired(t)
	config, others := putBlob(t, s, app, "config"), putBlob(t, s, "team/other", "layer")
	must(t, s.PutManifest(t.Context(), parsed(t, image("team/other", "v1", others))))
	for tag, layer := range map[string]oci.Digest{"v1": others, "v2": digestOf("nowhere")} {
		m := windows(t, app, tag, config, layer)
		must(t, s.PutManifest(t.Context(), m))
		sweep(t, s, c)
		must(t, s.DeleteManifest(t.Context(), app, m.Digest, ""))
		must(t, s.RestoreTrash(t.Context(), trashed(t, s).Op, false))
		must(t, second(s.ManifestByTag(t.Context(), app, tag)))
		if !pullable(t, s, config) || pullable(t, s, layer) {
			t.Errorf("%s: config %v, layer %v", tag, pullable(t, s, config), pullable(t, s, layer))
		}
	}
}

// A proxy's repository may read it.
func TestForeignLayerOfAProxy(t *testing.T) {
	s := newStore(t, nil)
	must(t, second(s.PutProject(t.Context(), Project{Name: "docker.io", Kind: Proxy, Source: FromFile})))
	must(t, s.PutProxied(t.Context(), windows(t, "docker.io/x", "v1", digestOf("config"), digestOf("layer"))))
	must(t, second(s.RepoBlob(t.Context(), "docker.io/x", digestOf("layer"))))
}

// What a release stored that did not note foreign layers is noted once.
func TestForeignLayersOfBefore(t *testing.T) {
	s, c := expired(t)
	ctx := t.Context()
	config, layer, binned := putBlob(t, s, app, "config"), putBlob(t, s, app, "layer"), putBlob(t, s, app, "binned")
	for i := range foreignBatch + 1 { // more than a batch before it
		must(t, s.PutManifest(ctx, parsed(t, image(app, fmt.Sprint("n", i), config))))
	}
	v1, v2 := windows(t, app, "v1", config, layer), windows(t, app, "v2", config, binned)
	must(t, s.PutManifest(ctx, v1))
	must(t, s.PutManifest(ctx, v2))
	must(t, s.DeleteManifest(ctx, app, v2.Digest, ""))
	if pending, err := s.Pending(ctx); err != nil || len(pending) > 0 {
		t.Fatalf("Pending = %v, %v", pending, err)
	}
	for _, undo := range []string{
		`DELETE FROM manifest_refs WHERE media_type LIKE '%foreign%'`,
		`DELETE FROM trash_refs WHERE digest = '` + binned.String() + `'`,
		`DELETE FROM facts WHERE name = '` + foreignFact + `'`,
	} {
		must(t, second(s.db.Exec(ctx, undo)))
	}
	for range 2 {
		if pending, err := s.Pending(ctx); err != nil || !slices.Equal(pending, []string{foreignPlan.Name}) {
			t.Errorf("Pending = %v, %v", pending, err)
		}
	}
	must(t, s.Migrate(ctx))
	must(t, s.Migrate(ctx))
	if pending, err := s.Pending(ctx); err != nil || len(pending) > 0 {
		t.Errorf("Pending after Migrate = %v, %v", pending, err)
	}
	sweep(t, s, c)
	if !pullable(t, s, layer) || !pullable(t, s, binned) {
		t.Errorf("there are layer %v, that of the trash %v", pullable(t, s, layer), pullable(t, s, binned))
	}
	must(t, s.RestoreTrash(ctx, trashed(t, s).Op, false))
	sweep(t, s, c)
	if !pullable(t, s, binned) {
		t.Error("the layer in the trash did not come back")
	}
}

// All that a manifest names is noted by one statement, whatever it is called,
// and once.
func TestRefsAreNotedOnce(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	blobs := []oci.Digest{putBlob(t, s, app, "a"), putBlob(t, s, app, "b")}
	m := image(app, "v1", blobs[0], blobs[1], blobs[0])
	m.Links.Blobs[1].MediaType, m.Links.Blobs[2].Size = `a "quoted" \ 'type' $1`, 1<<40
	type noted struct {
		Position, Size  int64
		Kind, MediaType string
		Digest          oci.Digest
	}
	want := []noted{{0, 1, "blob", "application/octet-stream", blobs[0]}, {1, 1, "blob", m.Links.Blobs[1].MediaType, blobs[1]}, {2, 1 << 40, "blob", "application/octet-stream", blobs[0]}}
	for _, m.Tag = range []string{"v1", "v2", ""} {
		must(t, s.PutManifest(ctx, m))
		rs, err := s.db.Query(ctx, `
			SELECT f.position, f.size_bytes, f.kind, f.media_type, f.digest FROM manifest_refs f JOIN manifests m ON m.id = f.manifest_id
			 WHERE m.digest = $1 ORDER BY f.position`, m.Digest)
		got, err := collect(rs, err, func(r row, n *noted) error { return r.Scan(&n.Position, &n.Size, &n.Kind, &n.MediaType, &n.Digest) })
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("after %q: %v, %v, want %v", m.Tag, got, err, want)
		}
	}
}
