package meta

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// The repositories: a has had the blob, of text layer, for long; b is another.
const (
	repoA, repoB = "a/app", "b/app"
	layerText    = "layer"
)

var (
	layer = digestOf(layerText)
	noGC  = GC{Delay: -1, Quarantine: -1, TrashFor: time.Hour}
	lease = GC{Delay: time.Hour, Quarantine: -1, TrashFor: time.Minute}
)

func imageIn(w *world, repo, tag string) NewManifest {
	return withTag(parsed(w.t, image(repo, "", layer)), tag)
}

// nothing: there has never been a blob.
func nothing(*world) {}

// lonely: a's blob, that no manifest names, past its lease and due.
func lonely(w *world) {
	must(w.t, w.commit(w.t.Context(), w.begin(repoA), layerText))
	w.c.pass(2 * time.Hour)
}

func quarantined(w *world) {
	lonely(w)
	must(w.t, second(w.s.ReviewBlobs(w.t.Context(), 10)))
	must(w.t, second(w.s.db.Exec(w.t.Context(), `
		INSERT INTO repo_blobs (repo_id, blob_digest, size_bytes, learnt_at) SELECT r.id, $1, 5, 1 FROM repos r WHERE TRUE
		ON CONFLICT (repo_id, blob_digest) DO NOTHING`, layer)))
}

// named: a's blob is named by its manifest v1, and b has it past its lease, due.
func named(w *world) {
	ctx := w.t.Context()
	must(w.t, w.commit(ctx, w.begin(repoA), layerText))
	must(w.t, w.s.PutManifest(ctx, imageIn(w, repoA, "v1")))
	must(w.t, w.s.Mount(ctx, repoB, repoA, layer))
	w.c.pass(2 * time.Hour)
}

// binned: a's manifest is in the trash, and can be restored.
func binned(w *world) {
	named(w)
	must(w.t, w.s.DeleteManifest(w.t.Context(), repoA, imageIn(w, repoA, "").Digest, "x"))
}

// faded: a's manifest is in the trash for too long.
func faded(w *world) {
	binned(w)
	w.c.pass(2 * time.Hour)
	must(w.t, second(w.s.ReviewBlobs(w.t.Context(), 10)))
}

func gcDoes(w *world) does {
	return does{"gc", func(ctx context.Context, w *world) error { return w.collect(ctx) }}
}

func putIn(repo, tag string) does {
	return does{"put " + repo, func(ctx context.Context, w *world) error { return w.s.PutManifest(ctx, imageIn(w, repo, tag)) }}
}

// pushIn is a push that asks whether the blob is here, and is held to the answer.
func pushIn(repo string) does {
	return does{"push " + repo, func(ctx context.Context, w *world) error {
		there, err := w.head(ctx, repo, layer)
		if err != nil || !there {
			return err
		}
		if err := w.s.PutManifest(ctx, imageIn(w, repo, "v2")); err != nil {
			w.fault("a HEAD said that the blob is here, and the PUT: %v", err)
		}
		return nil
	}}
}

func mountIn(held bool) does {
	return does{"mount", func(ctx context.Context, w *world) error {
		if err := w.s.Mount(ctx, repoB, repoA, layer); err != nil {
			return err
		}
		err := w.s.PutManifest(ctx, imageIn(w, repoB, "v2"))
		if err != nil && held {
			w.fault("a blob was mounted, and the PUT: %v", err)
		}
		return err
	}}
}

// uploadIn pushes the blob that may be there, or be going, and its manifest.
func uploadIn(repo string, u Upload, held bool) does {
	return does{"upload", func(ctx context.Context, w *world) error {
		if err := w.commit(ctx, u, layerText); err != nil {
			w.fault("an upload could not be committed: %v", err)
			return nil
		}
		err := w.s.PutManifest(ctx, imageIn(w, repo, "v2"))
		if err != nil && held {
			w.fault("a blob was uploaded, and the PUT: %v", err)
		}
		return err
	}}
}

func deleteIn(w *world, repo string) does {
	d := imageIn(w, repo, "").Digest
	return does{"delete", func(ctx context.Context, w *world) error { return w.s.DeleteManifest(ctx, repo, d, "x") }}
}

// atOnce does something in one step.
func atOnce(name string, run func(ctx context.Context, w *world) error) does {
	return does{name, func(ctx context.Context, w *world) error {
		beforeStep(ctx)
		return run(context.WithoutCancel(w.t.Context()), w)
	}}
}

// astray: an object that no row speaks of, beside a's blob that nobody names.
func astray(w *world) {
	lonely(w)
	w.object("b/lost", true)
}

// orphansDoes is the daily search for objects without a row. In earnest it asks
// for old ones only.
func orphansDoes() does {
	return does{"orphans", func(ctx context.Context, w *world) error {
		w.mu.Lock()
		keys := slices.Collect(maps.Keys(w.objects))
		w.mu.Unlock()
		gone, err := w.s.Orphans(ctx, keys)
		for _, key := range gone {
			w.object(key, false)
		}
		return err
	}}
}

// writeIn is uploadIn with the bytes written only now.
func writeIn(w *world, u Upload) does {
	w.object(u.StorageKey, false)
	return does{"write and upload", func(ctx context.Context, w *world) error {
		w.object(u.StorageKey, true)
		return uploadIn(repoB, u, true).run(ctx, w)
	}}
}

func deleteBlobIn(repo string) does {
	return does{"delete blob", func(ctx context.Context, w *world) error { return w.s.DeleteGrant(ctx, repo, layer) }}
}

func purgeDoes(w *world) does {
	return does{"purge", func(ctx context.Context, w *world) error {
		_, err := w.s.PurgeTrash(ctx, w.s.now().Add(-w.s.gc.TrashFor), 10)
		return err
	}}
}

func restoreDoes(w *world, force bool) does {
	var op string
	must(w.t, w.s.db.QueryRow(w.t.Context(), `SELECT min(op) FROM trash`).Scan(&op))
	return does{"restore", func(ctx context.Context, w *world) error { return w.s.RestoreTrash(ctx, op, force) }}
}

// restoreAny restores the first deletion there is by then.
func restoreAny(force bool) does {
	return does{"restore any", func(ctx context.Context, w *world) error {
		var op string
		if err := w.s.db.QueryRow(ctx, `SELECT coalesce(min(op), '') FROM trash`).Scan(&op); err != nil {
			return err
		}
		return w.s.RestoreTrash(ctx, op, force)
	}}
}

func deleteRepoIn(repo string) does {
	return does{"delete repo", func(ctx context.Context, w *world) error {
		_, _, _, err := w.s.DeleteRepo(ctx, repo, "x", false)
		return err
	}}
}

func untagIn(repo, tag string) does {
	return does{"untag", func(ctx context.Context, w *world) error { return w.s.DeleteTag(ctx, repo, tag, "x") }}
}

func untaggedDoes(w *world) does {
	return does{"untagged", func(ctx context.Context, w *world) error {
		_, _, err := w.s.TrashUntagged(ctx, w.s.now().Add(-time.Minute), 0, 100)
		return err
	}}
}

var situations = []situation{
	{"a push and the collection of its blob", noGC, lonely, func(w *world) []does { return []does{putIn(repoA, "v2"), gcDoes(w)} }},
	{"a push and the collection of its blob in quarantine", noGC, quarantined, func(w *world) []does { return []does{putIn(repoA, "v2"), gcDoes(w)} }},
	{"a push and the end of its lease", noGC, named, func(w *world) []does { return []does{putIn(repoB, "v2"), gcDoes(w)} }},
	{"HEAD, then PUT, and collection", lease, lonely, func(w *world) []does { return []does{pushIn(repoA), gcDoes(w)} }},
	{"HEAD, then PUT, of a blob in quarantine", lease, quarantined, func(w *world) []does { return []does{pushIn(repoA), gcDoes(w)} }},
	{"HEAD, then PUT, and the end of the lease", lease, named, func(w *world) []does { return []does{pushIn(repoB), gcDoes(w)} }},
	{"a mount and collection", noGC, lonely, func(w *world) []does { return []does{mountIn(false), gcDoes(w)} }},
	{"a mount on lease and collection", lease, lonely, func(w *world) []does { return []does{mountIn(true), gcDoes(w)} }},
	{"a mount on lease of a blob in quarantine", lease, quarantined, func(w *world) []does { return []does{mountIn(true), gcDoes(w)} }},
	{"an upload of the blob that is collected", noGC, lonely, func(w *world) []does { return []does{uploadIn(repoB, w.begin(repoB), false), gcDoes(w)} }},
	{"an upload on lease of the blob that is collected", lease, quarantined, func(w *world) []does { return []does{uploadIn(repoB, w.begin(repoB), true), gcDoes(w)} }},
	{"two uploads of one blob that is collected", lease, lonely, func(w *world) []does {
		return []does{uploadIn(repoB, w.begin(repoB), true), uploadIn(repoB, w.begin(repoB), true), gcDoes(w)}
	}},
	{"two collectors and a push", noGC, lonely, func(w *world) []does { return []does{putIn(repoA, "v2"), gcDoes(w), gcDoes(w)} }},
	{"a deletion and collection", noGC, named, func(w *world) []does { return []does{deleteIn(w, repoA), gcDoes(w)} }},
	{"a deletion, a push of the same and collection", noGC, named, func(w *world) []does { return []does{deleteIn(w, repoA), putIn(repoA, "v2"), gcDoes(w)} }},
	{"a deletion and a tag anew", noGC, named, func(w *world) []does { return []does{deleteIn(w, repoA), putIn(repoA, "v1")} }},
	{"a deletion and its tag pointed elsewhere", noGC, named, func(w *world) []does {
		other := parsed(w.t, image(repoB, "other", layer))
		other.Repo, other.Tag = repoA, "v1"
		var ended atomic.Int32
		whole := func(d does) does { // whoever is last looks: the tag is there in whichever order
			return does{d.name, func(ctx context.Context, w *world) error {
				err := d.run(ctx, w)
				if ended.Add(1) == 2 && err == nil {
					if m, err := w.s.StatTag(context.Background(), repoA, "v1"); err != nil || m.Digest != other.Digest {
						w.fault("the tag that was pointed elsewhere is at %q: %v", m.Digest, err)
					}
				}
				return err
			}}
		}
		return []does{whole(deleteIn(w, repoA)), whole(does{"put other", func(ctx context.Context, w *world) error {
			return w.s.PutManifest(ctx, other)
		}})}
	}},
	{"two deletions", noGC, named, func(w *world) []does { return []does{deleteIn(w, repoA), deleteIn(w, repoA)} }},
	{"a deleted tag, a deleted manifest, a tag anew", noGC, named, func(w *world) []does {
		return []does{untagIn(repoA, "v1"), deleteIn(w, repoA), putIn(repoA, "v1")}
	}},
	{"a repository's deletion, a push to it and collection", noGC, named, func(w *world) []does {
		return []does{deleteRepoIn(repoA), putIn(repoA, "v2"), gcDoes(w)}
	}},
	{"a repository's deletion, another image pushed to it and tagged again", noGC, named, func(w *world) []does {
		other := func(tag string) does {
			return does{"put other " + tag, func(ctx context.Context, w *world) error {
				m := parsed(w.t, image(repoB, "other", layer))
				m.Repo, m.Tag = repoA, tag
				return w.s.PutManifest(ctx, m)
			}}
		}
		return []does{deleteRepoIn(repoA), other("v2"), other("v3")}
	}},
	{"a repository's deletion, and another image that comes and goes", noGC, named, func(w *world) []does {
		other := parsed(w.t, image(repoB, "other", layer))
		other.Repo, other.Tag = repoA, "v2"
		return []does{deleteRepoIn(repoA), atOnce("put other", func(ctx context.Context, w *world) error {
			return w.s.PutManifest(ctx, other)
		}), atOnce("delete other", func(ctx context.Context, w *world) error {
			return w.s.DeleteManifest(ctx, repoA, other.Digest, "x")
		})}
	}},
	{"a restoration and collection", noGC, binned, func(w *world) []does { return []does{restoreDoes(w, false), gcDoes(w)} }},
	{"a restoration and a purge", noGC, binned, func(w *world) []does {
		return []does{restoreDoes(w, false), {"purge", func(ctx context.Context, w *world) error {
			_, err := w.s.PurgeTrash(ctx, w.s.now().Add(time.Second), 10)
			return err
		}}, gcDoes(w)}
	}},
	{"a restoration and the tag in use anew", noGC, binned, func(w *world) []does {
		return []does{restoreDoes(w, true), {"put other", func(ctx context.Context, w *world) error {
			m := parsed(w.t, image(repoB, "other", layer))
			m.Repo, m.Tag = repoB, "v1"
			return w.s.PutManifest(ctx, m)
		}}, putIn(repoA, "v1")}
	}},
	{"a restoration and a deletion of what is restored", noGC, binned, func(w *world) []does { return []does{restoreDoes(w, false), deleteIn(w, repoA), gcDoes(w)} }},
	{"two restorations", noGC, binned, func(w *world) []does { return []does{restoreDoes(w, false), restoreDoes(w, false)} }},
	{"a purge and collection", noGC, faded, func(w *world) []does { return []does{purgeDoes(w), gcDoes(w)} }},
	{"a purge, a push and collection", noGC, faded, func(w *world) []does { return []does{purgeDoes(w), putIn(repoA, "v2"), gcDoes(w)} }},
	{"HEAD, then PUT, while the last manifest is purged", lease, faded, func(w *world) []does { return []does{purgeDoes(w), pushIn(repoA), gcDoes(w)} }},
	{"a purge and a mount", lease, faded, func(w *world) []does { return []does{purgeDoes(w), mountIn(true), gcDoes(w)} }},
	{"a blob deleted by hand, a push and collection", noGC, lonely, func(w *world) []does {
		return []does{deleteBlobIn(repoA), putIn(repoA, "v2"), gcDoes(w)}
	}},
	{"a blob deleted by hand, its upload and collection", noGC, quarantined, func(w *world) []does {
		return []does{deleteBlobIn(repoB), uploadIn(repoB, w.begin(repoB), false), gcDoes(w)}
	}},
	{"a blob deleted by hand before it is there, and its upload", lease, nothing, func(w *world) []does {
		return []does{deleteBlobIn(repoB), uploadIn(repoB, w.begin(repoB), false)}
	}},
	{"a blob deleted by hand elsewhere, HEAD, then PUT", lease, named, func(w *world) []does {
		return []does{deleteIn(w, repoA), deleteBlobIn(repoA), pushIn(repoB)}
	}},
	{"untagged manifests and a tag", noGC, func(w *world) {
		named(w)
		must(w.t, w.s.ForgetTag(w.t.Context(), repoA, "v1"))
	}, func(w *world) []does { return []does{untaggedDoes(w), putIn(repoA, "v2"), gcDoes(w)} }},
	{"untagged manifests and an index", noGC, func(w *world) {
		named(w)
		must(w.t, w.s.ForgetTag(w.t.Context(), repoA, "v1"))
	}, func(w *world) []does {
		return []does{untaggedDoes(w), {"put index", func(ctx context.Context, w *world) error {
			child := imageIn(w, repoA, "")
			i := NewManifest{Repo: repoA, Links: oci.Links{MediaType: oci.MediaTypeIndex, Children: []oci.Descriptor{
				{MediaType: oci.MediaTypeImage, Digest: child.Digest, Size: int64(len(child.Body))}}}}
			i = withTag(parsed(w.t, i), "index")
			err := w.s.PutManifest(ctx, i)
			if err != nil {
				return err
			}
			if _, err := w.s.StatManifest(context.Background(), repoA, child.Digest); err != nil {
				w.fault("the index was taken, and its manifest is not there: %v", err)
			}
			return nil
		}}}
	}},
	{"an upload, objects without a row, and collection", lease, astray, func(w *world) []does {
		return []does{writeIn(w, w.begin(repoB)), orphansDoes(), gcDoes(w)}
	}},
	{"two uploads of one blob, and objects without a row", lease, astray, func(w *world) []does {
		return []does{writeIn(w, w.begin(repoB)), uploadIn(repoB, w.begin(repoB), true), orphansDoes()}
	}},
	{"a proxy that evicts and a mount from it", noGC, func(w *world) {
		must(w.t, second(w.s.PutProject(w.t.Context(), Project{Name: "docker.io", Kind: Proxy, Source: FromFile})))
		fill(w.t, w.s, "docker.io/x", layerText)
		w.object("b/docker.io/x"+layerText, true)
	}, func(w *world) []does {
		p, err := w.s.Project(w.t.Context(), "docker.io")
		must(w.t, err)
		b, err := w.s.LiveBlob(w.t.Context(), layer)
		must(w.t, err)
		return []does{{"evict", func(ctx context.Context, w *world) error {
			if _, err := w.s.Doom(ctx, p.ID, b.ID, w.s.now()); err != nil {
				return err
			}
			return w.sweep(ctx)
		}}, {"mount", func(ctx context.Context, w *world) error {
			if err := w.s.Mount(ctx, repoA, "docker.io/x", layer); err != nil {
				return err
			}
			return w.s.PutManifest(ctx, imageIn(w, repoA, "v2"))
		}}, gcDoes(w)}
	}},
}
