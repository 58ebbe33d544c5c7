package meta

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// fill stores text as a proxy does that has fetched it for a repository.
func fill(t *testing.T, s *Store, repo, text string) Blob {
	t.Helper()
	r, err := s.EnsureRepo(t.Context(), repo, Proxy)
	must(t, err)
	must(t, s.Grant(t.Context(), r.RepoID, oci.Descriptor{Digest: digestOf(text), Size: int64(len(text))}))
	key := "b/" + repo + text
	must(t, s.StartFill(t.Context(), key, digestOf(text), int64(len(text))))
	b, won, err := s.CommitFill(t.Context(), key, int64(len(text)))
	must(t, err)
	if !won {
		must(t, s.DropFill(t.Context(), key))
	}
	return b
}

func TestCache(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	docker, err := s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Source: FromFile})
	must(t, err)
	quay, err := s.PutProject(ctx, Project{Name: "quay.io", Kind: Proxy, Source: FromFile})
	must(t, err)

	one := fill(t, s, "docker.io/x", "1")
	c.pass(time.Minute)
	two := fill(t, s, "docker.io/x", "22")
	fill(t, s, "docker.io/y", "22") // twice in the same proxy: counted once
	c.pass(time.Minute)
	three := fill(t, s, "docker.io/y", "333")
	shared := fill(t, s, "docker.io/x", "4444")
	fill(t, s, "quay.io/x", "4444")
	pushed := fill(t, s, "docker.io/x", "55555")
	putBlob(t, s, "team/app", "55555")
	fill(t, s, "quay.io/x", "666666")

	for _, tt := range []struct {
		project int64
		want    int64
	}{{docker.ID, 1 + 2 + 3 + 4}, {quay.ID, 4 + 6}, {-1, 0}} {
		if got, err := s.CacheBytes(ctx, tt.project); got != tt.want || err != nil {
			t.Errorf("CacheBytes(%d) = %d, %v; want %d", tt.project, got, err, tt.want)
		}
	}

	// Use changes the order, once written; a use not yet written keeps a blob.
	c.pass(time.Minute)
	s.Touch(one.ID)
	if doomed, err := s.Doom(ctx, docker.ID, one.ID, c.now()); doomed || err != nil {
		t.Errorf("Doom of a blob just used = %v, %v", doomed, err)
	}
	must(t, s.Flush(ctx))
	oldest, err := s.CacheOldest(ctx, docker.ID, c.now().Add(time.Second), 10)
	must(t, err)
	var ids []int64
	for _, b := range oldest {
		ids = append(ids, b.ID)
	}
	if diff := cmp.Diff([]int64{two.ID, three.ID, shared.ID, one.ID}, ids); diff != "" {
		t.Errorf("CacheOldest (-want +got):\n%s", diff)
	}
	if oldest[3].LastUsedAt != c.now() {
		t.Errorf("last used %v, want %v", oldest[3].LastUsedAt, c.now())
	}
	if got, err := s.CacheOldest(ctx, docker.ID, two.LastUsedAt.Add(1*time.Microsecond), 10); err != nil || len(got) != 1 || got[0].ID != two.ID {
		t.Errorf("CacheOldest before a time = %v, %v; want the second only", got, err)
	}

	for _, tt := range []struct {
		what string
		b    Blob
		used time.Time
		want bool
	}{
		{"used since", one, one.LastUsedAt, false},
		{"another proxy's too", shared, c.now(), true},
		{"pushed too", pushed, c.now(), false},
		{"none", Blob{ID: 4711}, c.now(), false},
		{"cached", two, two.LastUsedAt, true},
		{"doomed already", two, two.LastUsedAt, false},
	} {
		if got, err := s.Doom(ctx, docker.ID, tt.b.ID, tt.used); got != tt.want || err != nil {
			t.Errorf("Doom of a blob that is %s = %v, %v; want %v", tt.what, got, err, tt.want)
		}
	}

	// A doomed blob is known, but not here; and it can come again meanwhile.
	if b, err := s.RepoBlob(ctx, "docker.io/x", two.Digest); err != nil || b.ID != 0 || b.StorageKey != "" {
		t.Errorf("RepoBlob of a doomed blob = %+v, %v", b, err)
	}
	must(t, s.DropBlobs(ctx, shared))
	must(t, s.StartFill(ctx, "b/anew", two.Digest, 2))
	anew, won, err := s.CommitFill(ctx, "b/anew", 2)
	if err != nil || !won {
		t.Errorf("CommitFill beside a doomed blob = %v, %v", won, err)
	}
	doomed, err := s.ClaimDoomed(ctx, 10, s.now())
	if err != nil || len(doomed) != 1 || doomed[0].ID != two.ID || doomed[0].StorageKey != two.StorageKey {
		t.Errorf("ClaimDoomed = %v, %v", doomed, err)
	}
	must(t, s.DropBlobs(ctx, two, anew)) // anew is live: not dropped
	if b, err := s.LiveBlob(ctx, two.Digest); err != nil || b.StorageKey != "b/anew" {
		t.Errorf("LiveBlob = %+v, %v", b, err)
	}
	if _, err := s.LiveBlob(ctx, digestOf("never")); !errors.Is(err, ErrNotFound) {
		t.Errorf("LiveBlob of what never was: %v, want ErrNotFound", err)
	}
}

// A manifest of one upstream names what another's image is made of, and what a
// user has pushed and deleted: both can still be evicted.
func TestWhatAnotherProxyNamesIsEvicted(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	docker, err := s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Source: FromFile})
	must(t, err)
	quay, err := s.PutProject(ctx, Project{Name: "quay.io", Kind: Proxy, Source: FromFile})
	must(t, err)
	cached := fill(t, s, "quay.io/x", "333")
	pushed := put(t, s, app, "v1", "55555", "").Links.Blobs[0].Digest
	must(t, s.PutProxied(ctx, image("docker.io/mallory/x", "v1", cached.Digest, pushed)))

	bytes := func(project, want int64) {
		t.Helper()
		if got, err := s.CacheBytes(ctx, project); got != want || err != nil {
			t.Errorf("CacheBytes(%d) = %d, %v; want %d", project, got, err, want)
		}
	}
	bytes(quay.ID, 3)
	bytes(docker.ID, 3)

	op, _, _, err := s.DeleteRepo(ctx, app, "ann", false)
	must(t, err)
	bytes(docker.ID, 3) // it can be restored
	must(t, s.ExpireTrash(ctx, op))
	must(t, second(s.PurgeTrash(ctx, c.now().Add(-s.GC().TrashFor), 10)))
	bytes(docker.ID, 3) // a manifest may yet name it
	c.pass(s.GC().Delay)
	collected(t, s)
	bytes(docker.ID, 3+5)

	for _, b := range []struct {
		project int64
		digest  oci.Digest
	}{{quay.ID, cached.Digest}, {docker.ID, pushed}} {
		at, err := s.LiveBlob(ctx, b.digest)
		must(t, err)
		if doomed, err := s.Doom(ctx, b.project, at.ID, c.now()); !doomed || err != nil {
			t.Errorf("Doom(%d, %s) = %v, %v", b.project, b.digest, doomed, err)
		}
	}
	bytes(quay.ID, 0)
	bytes(docker.ID, 0)
}
