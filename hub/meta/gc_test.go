package meta

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// everythingOfGC calls each method of garbage collection and of the trash that
// runs a statement of its own; see everything.
func everythingOfGC(t *testing.T, s *Store) {
	ctx := t.Context()
	was := s.gc
	s.gc = GC{Delay: -1, Quarantine: -1}.complete()
	defer func() { s.gc = was }()

	d := putBlob(t, s, "trash/app", "gc layer")
	g, err := s.RepoBlob(ctx, "trash/app", d)
	must(t, err)
	must(t, s.RenewBlob(ctx, g))
	m := parsed(t, image("trash/app", "v1", d))
	must(t, s.PutManifest(ctx, m))
	must(t, s.DeleteTag(ctx, "trash/app", "v1", "ann"))
	_, err = s.DeleteImage(ctx, "trash/app", oci.Digested(m.Digest), "ann", true)
	must(t, err)
	must(t, s.DeleteManifest(ctx, "trash/app", m.Digest, "ann"))
	all, _, err := s.Trash(ctx, TrashFilter{}, 10, "")
	must(t, err)
	must(t, s.RestoreTrash(ctx, all[0].Op, false))
	must(t, s.RestoreTrash(ctx, all[1].Op, true))
	_, _, _, err = s.DeleteRepo(ctx, "trash/app", "ann", false)
	must(t, err)
	if all, _, err = s.Trash(ctx, TrashFilter{Repo: "trash/app"}, 10, ""); err != nil || len(all) == 0 {
		t.Fatal(err)
	}
	must(t, s.ExpireTrash(ctx, all[0].Op))
	must(t, second(s.PurgeTrash(ctx, s.now(), 10)))
	m.Tag = ""
	must(t, s.PutManifest(ctx, m))
	_, _, err = s.Untagged(ctx, s.now().Add(time.Hour), 0, 1000)
	must(t, err)
	_, _, err = s.TrashUntagged(ctx, s.now().Add(time.Hour), 0, 1000)
	must(t, err)
	must(t, second(s.PurgeTrash(ctx, s.now().Add(time.Hour), 10)))
	must(t, second(s.ReviewBlobs(ctx, 100)))
	must(t, second(s.ReviewBlobs(ctx, 100)))
	doomed, err := s.ClaimDoomed(ctx, 100, s.now())
	if err != nil || len(doomed) == 0 {
		t.Errorf("ClaimDoomed = %v, %v", doomed, err)
	}
	must(t, s.DropBlobs(ctx, doomed...))
	_, _, err = s.VerifyBlobs(ctx, 0, 100)
	must(t, err)
	must(t, second(s.Garbage(ctx)))
	must(t, second(s.ExpiredBlobs(ctx, 0, 10)))
	must(t, second(s.Strays(ctx, nil)))
	must(t, second(s.GarbageDue(ctx)))
	must(t, second(s.HastenReviews(ctx)))
	r, err := s.EnsureRepo(ctx, "gone.io/x", Proxy)
	if errors.Is(err, ErrNotFound) {
		must(t, second(s.PutProject(ctx, Project{Name: "gone.io", Kind: Proxy, Source: FromFile})))
		r, err = s.EnsureRepo(ctx, "gone.io/x", Proxy)
	}
	must(t, err)
	must(t, s.PutTag(ctx, r.RepoID, Tag{Name: "v1", Digest: m.Digest}))
	must(t, s.PutProxied(ctx, image("gone.io/x", "v2", d)))
	must(t, s.ForgetTag(ctx, "gone.io/x", "v1"))
	must(t, s.ForgetManifest(ctx, "gone.io/x", image("gone.io/x", "v2", d).Digest))
}

// parsed gives m a body that is what its links say, as one that is restored
// must have.
func parsed(t testing.TB, m NewManifest) NewManifest {
	t.Helper()
	desc := func(d oci.Descriptor) string {
		if d.MediaType == "" {
			d.MediaType = "application/octet-stream"
		}
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, d.MediaType, d.Digest, d.Size)
	}
	subject := ""
	if m.Links.Subject != nil {
		subject = `,"subject":` + desc(*m.Links.Subject)
	}
	if oci.IsIndexType(m.Links.MediaType) {
		list := ""
		for _, c := range m.Links.Children {
			list += "," + desc(c)
		}
		m.Body = fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[%s]%s}`, list[min(1, len(list)):], subject)
	} else {
		layers := ""
		for _, b := range m.Links.Blobs[1:] {
			layers += "," + desc(b)
		}
		m.Body = fmt.Appendf(nil, `{"schemaVersion":2,"config":%s,"layers":[%s]%s,"annotations":{"of":%q}}`,
			desc(m.Links.Blobs[0]), layers[min(1, len(layers)):], subject, m.Tag)
	}
	m.Digest = oci.FromBytes(m.Body)
	if _, err := oci.ParseManifest(m.Links.MediaType, m.Body); err != nil {
		t.Fatal(err)
	}
	return m
}

// collected reviews blobs until nothing is left to do, and forgets the doomed.
func collected(t *testing.T, s *Store) (r Reviewed) {
	t.Helper()
	for range 100 {
		one, err := s.ReviewBlobs(t.Context(), 100)
		must(t, err)
		doomed, err := s.ClaimDoomed(t.Context(), 100, s.now().Add(time.Minute))
		must(t, err)
		must(t, s.DropBlobs(t.Context(), doomed...))
		r.Blobs += one.Blobs
		r.Doomed += one.Doomed
		r.Quarantined += one.Quarantined
		if one.Blobs == 0 {
			return r
		}
	}
	t.Fatal("there is no end to it")
	return r
}

const day = 24 * time.Hour

// live says whether a blob is there.
func live(t *testing.T, s *Store, d oci.Digest) bool {
	t.Helper()
	_, err := s.LiveBlob(t.Context(), d)
	if err != nil && !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

func TestBlobsGoWhenNothingKeepsThem(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	must(t, second(s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Source: FromFile})))
	alone := putBlob(t, s, "team/app", "alone")
	named := putBlob(t, s, "team/app", "named")
	mounted := putBlob(t, s, "team/app", "mounted")
	proxied := fill(t, s, "docker.io/x", "proxied").Digest
	must(t, s.Mount(ctx, "team/mounts", "docker.io/x", proxied))
	must(t, s.PutManifest(ctx, image("team/app", "v1", named)))
	cached := func() bool {
		oldest, err := s.CacheOldest(ctx, 1, c.now().Add(day), 10)
		must(t, err)
		return len(oldest) == 1 && oldest[0].Digest == proxied
	}

	c.pass(day - time.Second)
	must(t, s.Mount(ctx, "team/b", "team/app", mounted))
	if r := collected(t, s); r.Blobs != 0 {
		t.Errorf("within the lease %d blobs were due", r.Blobs)
	}
	if cached() {
		t.Error("what a local repository has on lease is the proxy's to evict")
	}
	c.pass(time.Second)
	if r := collected(t, s); r.Blobs != 4 || r.Quarantined != 1 || r.Doomed != 0 {
		t.Errorf("after the lease: %+v; want 4 looked at and 1 quarantined", r)
	}
	if !cached() {
		t.Error("a lease that is over keeps the proxy from evicting")
	}
	for repo, want := range map[string]bool{"team/app": false, "team/b": true} { // the lease of one is over
		if _, err := s.RepoBlob(ctx, repo, mounted); (err == nil) != want {
			t.Errorf("RepoBlob(%s): %v; want it there: %v", repo, err, want)
		}
	}
	if !live(t, s, alone) {
		t.Error("a blob in quarantine is not there")
	}
	c.pass(day)
	if r := collected(t, s); r.Doomed != 1 || r.Quarantined != 1 { // and mounted is in quarantine
		t.Errorf("after the quarantine: %+v", r)
	}
	if live(t, s, alone) || !live(t, s, named) || !live(t, s, mounted) {
		t.Errorf("alone, named, mounted: %v, %v, %v", live(t, s, alone), live(t, s, named), live(t, s, mounted))
	}
	c.pass(day)
	collected(t, s)
	if live(t, s, mounted) || !live(t, s, named) || !live(t, s, proxied) {
		t.Errorf("mounted, named, proxied: %v, %v, %v", live(t, s, mounted), live(t, s, named), live(t, s, proxied))
	}
	if r, _, err := s.VerifyBlobs(ctx, 0, 100); r != 0 || err != nil {
		t.Errorf("VerifyBlobs = %d, %v", r, err)
	}

	// A mount of what is kept, and so not due, is on lease all the same.
	must(t, s.Mount(ctx, "team/again", "team/app", named))
	c.pass(day)
	if r := collected(t, s); r.Blobs != 1 {
		t.Errorf("a lease after the mount: %+v", r)
	}
	if _, err := s.RepoBlob(ctx, "team/again", named); !errors.Is(err, ErrNotFound) {
		t.Errorf("RepoBlob after the mount's lease: %v, want ErrNotFound", err)
	}

	// What a client deletes goes after the quarantine only.
	deleted := putBlob(t, s, "team/app", "deleted")
	must(t, s.DeleteGrant(ctx, "team/app", deleted))
	if r := collected(t, s); r.Quarantined != 1 {
		t.Errorf("after DeleteGrant: %+v", r)
	}
	c.pass(day)
	if r := collected(t, s); r.Doomed != 1 || live(t, s, deleted) {
		t.Errorf("a day after DeleteGrant: %+v", r)
	}
}

// What is kept, or goes into quarantine, stays where it is in the indexes by
// digest and by use: in a large registry each blob is on a page of its own
// there, which would be read, logged and written for nothing.
func TestReviewWritesFewPages(t *testing.T) {
	only(t, "sqlite")
	const frameBytes = 24 + 4096 // "WAL File Format"
	path := newDSN(t)
	s := openStore(t, path, nil)
	digests := make([]oci.Digest, 5000)
	for i := range digests {
		digests[i] = digestOf(fmt.Sprint("lonely ", i))
	}
	list, err := jsonText(digests)
	must(t, err)
	must(t, second(s.db.Exec(t.Context(), `
		INSERT INTO blobs (digest, size_bytes, storage_key, state, created_at, last_used_at)
		SELECT d.value, 1, d.value, 'live', 1, 1 FROM {each $1} AS d`, list)))
	must(t, second(s.db.Exec(t.Context(), `UPDATE blobs SET review_at = 1 WHERE id > (SELECT max(id) FROM blobs) - 50`)))
	must(t, second(s.db.Exec(t.Context(), `PRAGMA wal_checkpoint(TRUNCATE)`)))

	r, err := s.ReviewBlobs(t.Context(), 50)
	if err != nil || r.Quarantined != 50 {
		t.Fatalf("ReviewBlobs = %+v, %v; want 50 in quarantine", r, err)
	}
	log, err := os.Stat(path + "-wal")
	must(t, err)
	if pages := log.Size() / frameBytes; pages == 0 || pages > 15 {
		t.Errorf("a review of 50 of %d blobs wrote %d pages, want a few", len(digests), pages)
	}
}

// Whoever names a blob in quarantine again has it, and it is looked at anew.
func TestRevive(t *testing.T) {
	for name, revive := range map[string]func(t *testing.T, s *Store, d oci.Digest){
		"upload": func(t *testing.T, s *Store, d oci.Digest) { putBlob(t, s, "team/other", "layer") },
		"mount": func(t *testing.T, s *Store, d oci.Digest) {
			must(t, s.Mount(t.Context(), "team/other", "team/held", d))
		},
		"head": func(t *testing.T, s *Store, d oci.Digest) {
			b, err := s.RepoBlob(t.Context(), "team/held", d)
			must(t, err)
			if b.QuarantinedAt.IsZero() {
				t.Error("RepoBlob does not say that the blob is in quarantine")
			}
			must(t, s.RenewBlob(t.Context(), b))
		},
		"manifest": func(t *testing.T, s *Store, d oci.Digest) {
			m := image("team/held", "v1", d)
			must(t, s.PutManifest(t.Context(), m))
			must(t, s.DeleteManifest(t.Context(), "team/held", m.Digest, ""))
			must(t, second(s.PurgeTrash(t.Context(), s.now().Add(time.Second), 10)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			s := newStore(t, c)
			ctx := t.Context()
			d := putBlob(t, s, "team/app", "layer")
			c.pass(day)
			if r := collected(t, s); r.Quarantined != 1 {
				t.Fatalf("%+v", r)
			}
			// A grant that a bug or a hand left: what revives must not rely on review.
			r, err := s.EnsureRepo(ctx, "team/held", Local)
			must(t, err)
			must(t, s.Grant(ctx, r.RepoID, oci.Descriptor{Digest: d, Size: 5}))
			must(t, second(s.db.Exec(ctx, `UPDATE repo_blobs SET learnt_at = 1 WHERE repo_id = $1`, r.RepoID)))

			c.pass(day - time.Second)
			revive(t, s, d)
			c.pass(day - 2*time.Second)
			if r := collected(t, s); r.Doomed+r.Quarantined != 0 {
				t.Errorf("within the lease anew: %+v", r)
			}
			c.pass(3 * time.Second)
			if r := collected(t, s); r.Quarantined != 1 || r.Doomed != 0 {
				t.Errorf("after the lease anew: %+v; want it in quarantine again", r)
			}
			c.pass(day)
			if r := collected(t, s); r.Doomed != 1 || live(t, s, d) {
				t.Errorf("at the end: %+v", r)
			}
		})
	}
}

// A HEAD writes only when what it promises would not hold.
func TestRenewBlobWritesWhenDue(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	d := putBlob(t, s, "team/app", "layer")
	at := func() time.Time {
		b, err := s.RepoBlob(t.Context(), "team/app", d)
		must(t, err)
		must(t, s.RenewBlob(t.Context(), b))
		b, err = s.RepoBlob(t.Context(), "team/app", d)
		must(t, err)
		return b.LearntAt
	}
	first := c.now()
	for _, tt := range []struct {
		pass  time.Duration
		renew bool
	}{{0, false}, {day/2 - time.Second, false}, {time.Second, true}, {time.Second, false}} {
		c.pass(tt.pass)
		want := first
		if tt.renew {
			want = c.now()
			first = want
		}
		if got := at(); !got.Equal(want) {
			t.Errorf("after %v the lease began at %v, want %v", tt.pass, got, want)
		}
	}

	stale, err := s.RepoBlob(t.Context(), "team/app", d)
	must(t, err)
	must(t, s.DeleteGrant(t.Context(), "team/app", d))
	c.pass(day)
	if err := s.RenewBlob(t.Context(), stale); !errors.Is(err, ErrNotFound) {
		t.Errorf("RenewBlob after DeleteGrant: %v, want ErrNotFound", err)
	}
	collected(t, s)
	c.pass(day)
	collected(t, s)
	if err := s.RenewBlob(t.Context(), stale); !errors.Is(err, ErrNotFound) {
		t.Errorf("RenewBlob of a deleted blob: %v, want ErrNotFound", err)
	}
}

func TestClaimDoomed(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	s.gc = GC{Delay: -1, Quarantine: -1}.complete()
	ctx := t.Context()
	for i := range 3 {
		putBlob(t, s, "team/app", fmt.Sprint(i))
	}
	for range 2 {
		must(t, second(s.ReviewBlobs(ctx, 10)))
	}
	one, err := s.ClaimDoomed(ctx, 2, c.now().Add(time.Minute))
	if err != nil || len(one) != 2 || one[0].StorageKey == "" {
		t.Fatalf("ClaimDoomed = %v, %v", one, err)
	}
	two, err := s.ClaimDoomed(ctx, 2, c.now().Add(time.Hour))
	if err != nil || len(two) != 1 || two[0].ID == one[0].ID || two[0].ID == one[1].ID {
		t.Fatalf("another's ClaimDoomed = %v, %v", two, err)
	}
	must(t, s.DropBlobs(ctx, one[0]))
	c.pass(time.Minute + time.Second) // the second one's bytes could not be deleted
	again, err := s.ClaimDoomed(ctx, 10, c.now().Add(time.Minute))
	if err != nil || len(again) != 1 || again[0] != one[1] {
		t.Errorf("ClaimDoomed a minute later = %v, %v; want the one left", again, err)
	}
	// The same bytes may be pushed meanwhile; what is live is not dropped.
	d := putBlob(t, s, "team/b", "0")
	b, err := s.LiveBlob(ctx, d)
	must(t, err)
	must(t, s.DropBlobs(ctx, b))
	if !live(t, s, d) {
		t.Error("DropBlobs dropped a live blob")
	}
}

func TestVerifyBlobs(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	lost := putBlob(t, s, "team/app", "lost")
	named := putBlob(t, s, "team/app", "named")
	trashed := putBlob(t, s, "team/app", "trashed")
	must(t, s.PutManifest(ctx, image("team/app", "v1", named)))
	m := image("team/app", "v2", trashed)
	must(t, s.PutManifest(ctx, m))
	must(t, s.DeleteManifest(ctx, "team/app", m.Digest, ""))
	must(t, second(s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Source: FromFile})))
	fill(t, s, "docker.io/x", "proxied")
	if found, next, err := s.VerifyBlobs(ctx, 0, 100); found != 0 || next == 0 || err != nil {
		t.Errorf("VerifyBlobs = %d, %d, %v", found, next, err)
	}
	must(t, second(s.db.Exec(ctx, `UPDATE blobs SET review_at = 0`)))
	var all int64
	for last, rounds := int64(0), 0; ; rounds++ {
		found, next, err := s.VerifyBlobs(ctx, last, 1)
		must(t, err)
		all += found
		if last = next; next == 0 {
			if rounds != 4 {
				t.Errorf("%d rows in steps of one", rounds)
			}
			break
		}
	}
	if all != 1 {
		t.Errorf("VerifyBlobs found %d, want 1", all)
	}
	c.pass(day)
	collected(t, s)
	c.pass(day)
	collected(t, s)
	if live(t, s, lost) || !live(t, s, named) || !live(t, s, trashed) {
		t.Errorf("lost, named, trashed: %v, %v, %v", live(t, s, lost), live(t, s, named), live(t, s, trashed))
	}
}

func TestGarbage(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	check := func(what string, want Garbage) {
		t.Helper()
		got, err := s.Garbage(ctx)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got)\n%s", what, err, diff)
		}
	}
	expired := func(want int) {
		t.Helper()
		if all, err := s.ExpiredBlobs(ctx, 0, 10); len(all) != want || err != nil {
			t.Errorf("ExpiredBlobs = %v, %v, want %d", all, err, want)
		}
	}
	check("nothing", Garbage{})
	putBlob(t, s, "team/app", "1")
	named := putBlob(t, s, "team/app", "22")
	m := image("team/app", "v1", named)
	must(t, s.PutManifest(ctx, m))
	must(t, s.DeleteManifest(ctx, "team/app", m.Digest, ""))
	check("pushed", Garbage{Leased: 1, LeasedBytes: 1})
	c.pass(day)
	check("after the lease", Garbage{Reviews: 2, Due: 1, DueBytes: 1})
	collected(t, s)
	check("quarantined", Garbage{Quarantined: 1, QuarantinedBytes: 1})
	expired(0)
	c.pass(day)
	check("after the quarantine", Garbage{Reviews: 1, Expired: 1, ExpiredBytes: 1})
	expired(1)
	must(t, second(s.ReviewBlobs(ctx, 10)))
	check("doomed", Garbage{Expired: 1, ExpiredBytes: 1})
	expired(1)
	collected(t, s)
	c.pass(5*day + time.Second)
	check("in the trash too long", Garbage{TrashDue: 2, TrashBlobs: 1, TrashBytes: 2})
	// What something else holds as well does not go with it.
	must(t, s.PutManifest(ctx, image("team/app", "v2", named)))
	check("held by another manifest", Garbage{TrashDue: 2})
	must(t, s.DeleteManifest(ctx, "team/app", image("team/app", "v2", named).Digest, ""))
	check("and by a younger one in the trash", Garbage{TrashDue: 2})
	must(t, second(s.db.Exec(ctx, `DELETE FROM trash WHERE deleted_at = $1`, usec(c.now()))))
	must(t, second(s.PurgeTrash(ctx, c.now().Add(-s.gc.TrashFor), 10)))
	check("purged", Garbage{Leased: 1, LeasedBytes: 2})
}

// Who lowers how long things are kept need not wait for what was put off under
// the old rule.
func TestHastenReviews(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	leased := putBlob(t, s, "team/app", "1")
	c.pass(day)
	lonely := putBlob(t, s, "team/other", "22")
	must(t, second(s.ReviewBlobs(ctx, 10))) // "1" into quarantine
	hasten := func(want int64) {
		t.Helper()
		if n, err := s.HastenReviews(ctx); n != want || err != nil {
			t.Errorf("HastenReviews = %d, %v, want %d", n, err, want)
		}
	}
	hasten(0)
	collected(t, s)
	if !live(t, s, leased) || !live(t, s, lonely) {
		t.Error("something went before its time")
	}
	s.gc.Delay, s.gc.Quarantine = 0, 2*time.Hour
	c.pass(time.Hour)
	hasten(2)
	hasten(0)
	collected(t, s)
	if !live(t, s, leased) || !live(t, s, lonely) {
		t.Error("something went before its time in quarantine")
	}
	c.pass(time.Hour)
	collected(t, s)
	if live(t, s, leased) || !live(t, s, lonely) {
		t.Errorf("after the quarantine: %v, %v are there; want the second alone", live(t, s, leased), live(t, s, lonely))
	}
}
