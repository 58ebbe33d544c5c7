package meta

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// put stores an image of its own, with a layer called after it, and returns it.
func put(t *testing.T, s *Store, repo, tag, name string, subject oci.Digest) NewManifest {
	t.Helper()
	m := image(repo, name, putBlob(t, s, repo, name))
	if subject != "" {
		m.Links.Subject = &oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: subject, Size: 1}
	}
	m = parsed(t, m)
	m.Tag = tag
	must(t, s.PutManifest(t.Context(), m))
	return m
}

// putIndex stores an index of manifests.
func putIndex(t *testing.T, s *Store, repo, tag string, subject oci.Digest, children ...NewManifest) NewManifest {
	t.Helper()
	m := NewManifest{Repo: repo, Links: oci.Links{MediaType: oci.MediaTypeIndex}}
	for _, c := range children {
		m.Links.Children = append(m.Links.Children, oci.Descriptor{MediaType: c.Links.MediaType, Digest: c.Digest, Size: int64(len(c.Body))})
	}
	if subject != "" {
		m.Links.Subject = &oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: subject, Size: 1}
	}
	m = parsed(t, m)
	m.Tag = tag
	must(t, s.PutManifest(t.Context(), m))
	return m
}

// contents says which of a repository's tags and manifests there are, the latter
// by the names they have in the map.
func contents(t *testing.T, s *Store, repo string, named map[string]NewManifest) string {
	t.Helper()
	var all []string
	tags, _, err := s.Tags(t.Context(), repo, 100, "")
	must(t, err)
	for _, tag := range tags {
		if m, err := s.ManifestByTag(t.Context(), repo, tag.Name); err != nil || m.ID == 0 {
			t.Errorf("tag %s points at nothing: %v", tag.Name, err)
		}
		name := tag.Name
		for n, m := range named {
			name = strings.ReplaceAll(name, "sha256-"+m.Digest.Encoded(), "<"+n+">")
		}
		all = append(all, ":"+name)
	}
	for name, m := range named {
		if _, err := s.StatManifest(t.Context(), repo, m.Digest); err == nil {
			all = append(all, name)
		} else if !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// trashed returns the trash's only entry.
func trashed(t *testing.T, s *Store) Trashed {
	t.Helper()
	all, _, err := s.Trash(t.Context(), TrashFilter{}, 10, "")
	if err != nil || len(all) != 1 {
		t.Fatalf("Trash = %v, %v; want one", all, err)
	}
	return all[0]
}

const app = "team/app"

// family is an image with all that may be about one, and some that is not.
func family(t *testing.T, s *Store) map[string]NewManifest {
	all := make(map[string]NewManifest)
	all["img"] = put(t, s, app, "v1", "img", "")
	img := all["img"].Digest
	hex := "sha256-" + img.Encoded()
	must(t, s.PutManifest(t.Context(), withTag(all["img"], "latest")))
	all["sbom"] = put(t, s, app, "", "sbom", img)
	all["sbomsig"] = put(t, s, app, "", "sbomsig", all["sbom"].Digest)
	all["cosign"] = put(t, s, app, hex+".sig", "cosign", "")
	all["att"] = put(t, s, app, hex+".att", "att", "")
	must(t, s.PutManifest(t.Context(), withTag(all["att"], "kept"))) // another tag names it
	all["fallback"] = putIndex(t, s, app, hex, "", all["sbom"])
	all["other"] = put(t, s, app, "v2", "other", "")
	all["othersig"] = put(t, s, app, "", "othersig", all["other"].Digest)
	return all
}

func withTag(m NewManifest, tag string) NewManifest {
	m.Tag = tag
	return m
}

func TestDeletedManifestTakesWhatIsAboutIt(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	all := family(t, s)
	const whole = ":<img> :<img>.att :<img>.sig :kept :latest :v1 :v2 att cosign fallback img other othersig sbom sbomsig"
	const left = ":kept :v2 att other othersig"
	if got := contents(t, s, app, all); got != whole {
		t.Fatalf("pushed:\n%s, want\n%s", got, whole)
	}
	out, err := s.DeleteImage(ctx, app, oci.Digested(all["img"].Digest), "ann", true)
	if err != nil || out.Op != "" || len(out.Manifests) != 5 || out.Manifests[0].Digest != all["img"].Digest || len(out.Tags) != 5 {
		t.Errorf("DeleteImage, only tried = %+v, %v", out, err)
	}
	if got := contents(t, s, app, all); got != whole {
		t.Errorf("after a trial:\n%s, want\n%s", got, whole)
	}
	must(t, s.DeleteManifest(ctx, app, all["img"].Digest, "ann"))
	if got := contents(t, s, app, all); got != left {
		t.Errorf("after DeleteManifest:\n%s, want\n%s", got, left)
	}
	op := trashed(t, s)
	want := Trashed{Op: op.Op, Repo: app, Cause: CauseManifest, Tag: "latest", Digest: all["img"].Digest, Tags: 5, Manifests: 5, DeletedBy: "ann", DeletedAt: c.now()}
	want.Tag = min("latest", "sha256-"+all["img"].Digest.Encoded())
	if diff := cmp.Diff(want, op); diff != "" {
		t.Errorf("Trash (-want +got):\n%s", diff)
	}
	// What is in the trash keeps its blobs, however long nothing else does.
	c.pass(5 * day)
	collected(t, s)
	must(t, s.RestoreTrash(ctx, op.Op, false))
	if got := contents(t, s, app, all); got != whole {
		t.Errorf("restored:\n%s, want\n%s", got, whole)
	}
	for name, m := range all {
		for _, b := range m.Links.Blobs {
			if g, err := s.RepoBlob(ctx, app, b.Digest); err != nil || g.ID == 0 {
				t.Errorf("a blob of %s: %+v, %v", name, g, err)
			}
		}
	}
	if got, err := s.Referrers(ctx, app, all["img"].Digest, ""); err != nil || len(got) != 1 {
		t.Errorf("Referrers after the restoration = %v, %v", got, err)
	}
	if err := s.RestoreTrash(ctx, op.Op, false); !errors.Is(err, ErrNotFound) {
		t.Errorf("RestoreTrash again: %v, want ErrNotFound", err)
	}
	if err := s.DeleteManifest(ctx, app, digestOf("none"), "ann"); !errors.Is(err, ErrNotFound) {
		t.Errorf("DeleteManifest of nothing: %v, want ErrNotFound", err)
	}
}

func TestDeleteTag(t *testing.T) {
	s := newStore(t, newClock())
	ctx := t.Context()
	all := map[string]NewManifest{"a": put(t, s, app, "v1", "a", ""), "b": put(t, s, app, "v2", "b", "")}
	must(t, s.DeleteTag(ctx, app, "v1", "ann"))
	if got := contents(t, s, app, all); got != ":v2 a b" {
		t.Errorf("after DeleteTag: %s", got)
	}
	op := trashed(t, s)
	if op.Cause != CauseTag || op.Tag != "v1" || op.Digest != all["a"].Digest || op.Tags != 1 || op.Manifests != 0 {
		t.Errorf("Trash = %+v", op)
	}

	// The name is in use again: only force takes it back.
	must(t, s.PutManifest(ctx, withTag(all["b"], "v1")))
	var taken *TakenError
	if err := s.RestoreTrash(ctx, op.Op, false); !errors.As(err, &taken) || taken.Tag != "v1" || taken.By != all["b"].Digest {
		t.Errorf("RestoreTrash of a tag in use: %v, want a TakenError", err)
	}
	if m, err := s.StatTag(ctx, app, "v1"); err != nil || m.Digest != all["b"].Digest {
		t.Errorf("the tag points at %s, %v", m.Digest, err)
	}
	must(t, s.RestoreTrash(ctx, op.Op, true))
	if m, err := s.StatTag(ctx, app, "v1"); err != nil || m.Digest != all["a"].Digest {
		t.Errorf("restored by force, the tag points at %s, %v", m.Digest, err)
	}

	// A tag is nothing without its manifest.
	must(t, s.DeleteTag(ctx, app, "v1", "ann"))
	op = trashed(t, s)
	must(t, s.DeleteManifest(ctx, app, all["a"].Digest, "ann"))
	var missing *MissingError
	for _, force := range []bool{false, true} {
		if err := s.RestoreTrash(ctx, op.Op, force); !errors.As(err, &missing) || missing.Missing[0].Digest != all["a"].Digest {
			t.Errorf("RestoreTrash without the manifest: %v, want a MissingError", err)
		}
	}
	list, _, err := s.Trash(ctx, TrashFilter{}, 10, "")
	must(t, err)
	must(t, s.RestoreTrash(ctx, list[0].Op, false)) // the newest first: the manifest
	must(t, s.RestoreTrash(ctx, op.Op, false))
	if got := contents(t, s, app, all); got != ":v1 :v2 a b" {
		t.Errorf("at the end: %s", got)
	}
}

func TestDeleteImage(t *testing.T) {
	s := newStore(t, newClock())
	ctx := t.Context()
	one, two, shared := put(t, s, app, "", "one", ""), put(t, s, app, "two", "two", ""), put(t, s, app, "", "shared", "")
	all := map[string]NewManifest{
		"one": one, "two": two, "shared": shared,
		"onesig": put(t, s, app, "", "onesig", one.Digest),
		"index":  putIndex(t, s, app, "v1", "", one, two, shared),
		"index2": putIndex(t, s, app, "v2", "", shared),
	}
	must(t, s.PutManifest(ctx, withTag(all["index"], "latest")))

	// The first tag alone: another names the image.
	out, err := s.DeleteImage(ctx, app, oci.Tagged("v1"), "ann", false)
	if err != nil || len(out.Manifests) != 0 || !slices.Equal(out.Tags, []string{"v1"}) || out.Op == "" {
		t.Errorf("DeleteImage(v1) = %+v, %v", out, err)
	}
	// The last: the index, what it alone holds, and what is about that.
	if _, err = s.DeleteImage(ctx, app, oci.Tagged("latest"), "ann", false); err != nil {
		t.Error(err)
	}
	if got := contents(t, s, app, all); got != ":two :v2 index2 shared two" {
		t.Errorf("after DeleteImage: %s", got)
	}
	list, _, err := s.Trash(ctx, TrashFilter{}, 10, "")
	must(t, err)
	must(t, s.RestoreTrash(ctx, list[0].Op, false))
	must(t, s.RestoreTrash(ctx, list[1].Op, false))
	if got := contents(t, s, app, all); got != ":latest :two :v1 :v2 index index2 one onesig shared two" {
		t.Errorf("restored: %s", got)
	}
	if _, err := s.DeleteImage(ctx, app, oci.Tagged("none"), "ann", true); !errors.Is(err, ErrNotFound) {
		t.Errorf("DeleteImage of no tag: %v", err)
	}
}

func TestIndexIsRestoredWithItsManifests(t *testing.T) {
	s := newStore(t, newClock())
	ctx := t.Context()
	one := put(t, s, app, "", "one", "")
	index := putIndex(t, s, app, "v1", "", one)
	must(t, s.DeleteManifest(ctx, app, index.Digest, ""))
	op := trashed(t, s)
	must(t, s.DeleteManifest(ctx, app, one.Digest, ""))
	var missing *MissingError
	if err := s.RestoreTrash(ctx, op.Op, false); !errors.As(err, &missing) || missing.Missing[0].Digest != one.Digest {
		t.Errorf("RestoreTrash without a child: %v, want a MissingError", err)
	}
	must(t, s.RestoreTrash(ctx, op.Op, true))
	must(t, second(s.StatTag(ctx, app, "v1")))
	must(t, s.RestoreTrash(ctx, trashed(t, s).Op, false))
}

func TestDeleteRepo(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	all := family(t, s)
	before := contents(t, s, app, all)
	put(t, s, "team/other", "v1", "img", "")
	op, manifests, tags, err := s.DeleteRepo(ctx, app, "ann", true)
	if err != nil || op != "" || manifests != 8 || tags != 7 {
		t.Errorf("DeleteRepo, only tried = %q, %d, %d, %v", op, manifests, tags, err)
	}
	if got := contents(t, s, app, all); got != before {
		t.Errorf("after a trial: %s", got)
	}
	op, manifests, tags, err = s.DeleteRepo(ctx, app, "ann", false)
	if err != nil || op == "" || manifests != 8 || tags != 7 {
		t.Errorf("DeleteRepo = %q, %d, %d, %v", op, manifests, tags, err)
	}
	if got := contents(t, s, app, all); got != "" {
		t.Errorf("after DeleteRepo: %s", got)
	}
	if got, _, err := s.Repositories(ctx, RepoFilter{}, 10, ""); err != nil || !slices.Equal(got, []string{"team/other"}) {
		t.Errorf("Repositories = %v, %v", got, err)
	}
	must(t, second(s.ManifestByTag(ctx, "team/other", "v1")))
	if _, _, _, err := s.DeleteRepo(ctx, app, "ann", false); !errors.Is(err, ErrNotFound) {
		t.Errorf("DeleteRepo again: %v, want ErrNotFound", err)
	}
	if got := trashed(t, s); got.Cause != CauseRepository || got.Manifests != 8 || got.Tags != 7 {
		t.Errorf("Trash = %+v", got)
	}
	c.pass(5 * day)
	collected(t, s)
	must(t, s.RestoreTrash(ctx, op, false))
	if got := contents(t, s, app, all); got != before {
		t.Errorf("restored:\n%s, want\n%s", got, before)
	}
	must(t, second(s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Source: FromFile})))
	fill(t, s, "docker.io/x", "proxied")
	if _, _, _, err := s.DeleteRepo(ctx, "docker.io/x", "ann", false); !errors.Is(err, ErrConflict) {
		t.Errorf("DeleteRepo of a proxy's: %v, want ErrConflict", err)
	}
}

func TestPurgeTrash(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	m := put(t, s, app, "v1", "img", "")
	layer := m.Links.Blobs[0].Digest
	must(t, s.DeleteManifest(ctx, app, m.Digest, ""))
	op := trashed(t, s).Op
	cut := func() time.Time { return c.now().Add(-s.GC().TrashFor) }

	c.pass(7 * day)
	if n, err := s.PurgeTrash(ctx, cut(), 10); n != 0 || err != nil {
		t.Errorf("PurgeTrash at the last moment = %d, %v", n, err)
	}
	c.pass(time.Microsecond)
	if err := s.RestoreTrash(ctx, op, true); !errors.Is(err, ErrNotFound) {
		t.Errorf("RestoreTrash after its time: %v, want ErrNotFound", err)
	}
	if all, _, err := s.Trash(ctx, TrashFilter{}, 10, ""); len(all) != 0 || err != nil {
		t.Errorf("Trash after its time = %v, %v", all, err)
	}
	for range 2 { // row by row
		if n, err := s.PurgeTrash(ctx, cut(), 1); n != 1 || err != nil {
			t.Errorf("PurgeTrash = %d, %v", n, err)
		}
	}
	if n, err := s.PurgeTrash(ctx, cut(), 1); n != 0 || err != nil {
		t.Errorf("PurgeTrash of nothing = %d, %v", n, err)
	}
	// The repository has the blob on lease, from now on.
	if r := collected(t, s); r.Quarantined != 0 {
		t.Errorf("at once: %+v", r)
	}
	if g, err := s.RepoBlob(ctx, app, layer); err != nil || !g.LearntAt.Equal(c.now()) {
		t.Errorf("RepoBlob after the purge: on lease since %v, %v; want now", g.LearntAt, err)
	}
	c.pass(day)
	if r := collected(t, s); r.Quarantined != 1 {
		t.Errorf("a lease later: %+v", r)
	}
	c.pass(day)
	if r := collected(t, s); r.Doomed != 1 || live(t, s, layer) {
		t.Errorf("a quarantine later: %+v", r)
	}

	// By hand, before its time.
	m = put(t, s, app, "v1", "other", "")
	must(t, s.DeleteManifest(ctx, app, m.Digest, ""))
	op = trashed(t, s).Op
	must(t, s.ExpireTrash(ctx, op))
	if err := s.RestoreTrash(ctx, op, true); !errors.Is(err, ErrNotFound) {
		t.Errorf("RestoreTrash after ExpireTrash: %v, want ErrNotFound", err)
	}
	if n, err := s.PurgeTrash(ctx, cut(), 10); n != 2 || err != nil {
		t.Errorf("PurgeTrash after ExpireTrash = %d, %v", n, err)
	}
	if err := s.ExpireTrash(ctx, op); !errors.Is(err, ErrNotFound) {
		t.Errorf("ExpireTrash of nothing: %v, want ErrNotFound", err)
	}
}

func TestTrashIsPaged(t *testing.T) {
	s := newStore(t, newClock())
	ctx := t.Context()
	var want []string
	for i := range 5 {
		repo := fmt.Sprintf("p%d/app", i%2)
		m := put(t, s, repo, fmt.Sprint("v", i), fmt.Sprint(i), "")
		must(t, s.DeleteManifest(ctx, repo, m.Digest, ""))
		want = append([]string{fmt.Sprint("v", i)}, want...)
	}
	list := func(f TrashFilter, n int) (got []string) {
		t.Helper()
		for last, more := "", true; more; {
			var page []Trashed
			var err error
			page, more, err = s.Trash(ctx, f, n, last)
			must(t, err)
			for _, op := range page {
				got, last = append(got, op.Tag), op.Op
			}
		}
		return got
	}
	for _, n := range []int{1, 2, 5, 100} {
		if got := list(TrashFilter{}, n); !slices.Equal(got, want) {
			t.Errorf("Trash by %d = %v, want %v", n, got, want)
		}
	}
	if got := list(TrashFilter{Repo: "p1/app"}, 1); !slices.Equal(got, []string{"v3", "v1"}) {
		t.Errorf("Trash of a repository = %v", got)
	}
	if got := list(TrashFilter{Project: "p0"}, 2); !slices.Equal(got, []string{"v4", "v2", "v0"}) {
		t.Errorf("Trash of a project = %v", got)
	}
}

func TestTrashUntagged(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	child := put(t, s, app, "", "child", "")
	all := map[string]NewManifest{
		"loose":    put(t, s, app, "", "loose", ""),
		"pulled":   put(t, s, app, "", "pulled", ""),
		"using":    put(t, s, app, "", "using", ""),
		"again":    put(t, s, app, "", "again", ""),
		"tagged":   put(t, s, app, "v1", "tagged", ""),
		"child":    child,
		"index":    putIndex(t, s, app, "v2", "", child),
		"untag":    put(t, s, app, "gone", "untag", ""),
		"danglsig": put(t, s, app, "", "danglsig", digestOf("no such image")),
	}
	all["sig"] = put(t, s, app, "", "sig", all["tagged"].Digest)
	all["loosesig"] = put(t, s, app, "", "loosesig", all["loose"].Digest)
	must(t, s.DeleteTag(ctx, app, "gone", ""))
	op := trashed(t, s).Op
	pulled := func(name string) {
		m, err := s.StatManifest(ctx, app, all[name].Digest)
		must(t, err)
		s.Pulled(m.RepoID, m.ID)
	}
	c.pass(day)
	pulled("pulled")
	must(t, s.Flush(ctx))
	must(t, s.PutManifest(ctx, all["again"]))
	old := c.now().Add(-time.Second)
	pulled("using") // and not written yet
	sweep := func(n int) (trashed int) {
		for last := int64(0); ; {
			one, next, err := s.TrashUntagged(ctx, old, last, n)
			must(t, err)
			trashed += one
			if last = next; next == 0 {
				return trashed
			}
		}
	}
	if n := sweep(2); n != 2 {
		t.Errorf("TrashUntagged = %d, want 2", n)
	}
	const left = ":v1 :v2 again child index pulled sig tagged untag using"
	if got := contents(t, s, app, all); got != left {
		t.Errorf("after TrashUntagged:\n%s, want\n%s", got, left)
	}
	if n := sweep(100); n != 0 {
		t.Errorf("TrashUntagged again = %d", n)
	}
	// What is brought back counts as pushed now; what only the tag in the trash
	// held goes once that is purged.
	list, _, err := s.Trash(ctx, TrashFilter{}, 10, "")
	must(t, err)
	for _, x := range list {
		if x.Cause == CauseUntagged {
			must(t, s.RestoreTrash(ctx, x.Op, false))
		}
	}
	must(t, s.ExpireTrash(ctx, op))
	must(t, second(s.PurgeTrash(ctx, c.now().Add(-s.gc.TrashFor), 10)))
	if n := sweep(100); n != 1 {
		t.Errorf("TrashUntagged after the tag's purge = %d, want 1", n)
	}
	const end = ":v1 :v2 again child danglsig index loose loosesig pulled sig tagged using"
	if got := contents(t, s, app, all); got != end {
		t.Errorf("at the end:\n%s, want\n%s", got, end)
	}
}

// A blob somebody deleted from the repository comes back with the image.
func TestRestoreGivesBlobsBack(t *testing.T) {
	s := newStore(t, newClock())
	m := put(t, s, app, "v1", "img", "")
	must(t, s.DeleteManifest(t.Context(), app, m.Digest, ""))
	must(t, s.DeleteGrant(t.Context(), app, m.Links.Blobs[0].Digest))
	collected(t, s)
	must(t, s.RestoreTrash(t.Context(), trashed(t, s).Op, false))
	must(t, second(s.RepoBlob(t.Context(), app, m.Links.Blobs[0].Digest)))
}

// A deletion's time does not end amid its restoration: what had not been read by
// then would be gone from the trash, and back nowhere.
func TestRestoreIsOfOneMoment(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	all := make(map[string]NewManifest)
	for i := range 2*restoreBatch + 1 {
		name := fmt.Sprintf("img%d", i)
		all[name] = put(t, s, app, name, name, "")
	}
	before := contents(t, s, app, all)
	op, _, _, err := s.DeleteRepo(t.Context(), app, "ann", false)
	must(t, err)
	c.pass(s.gc.TrashFor - time.Millisecond)
	now := s.now
	s.now = func() time.Time {
		c.pass(400 * time.Microsecond)
		return now()
	}
	must(t, s.RestoreTrash(t.Context(), op, false))
	s.now = now
	if got := contents(t, s, app, all); got != before {
		t.Errorf("restored:\n%s, want\n%s", got, before)
	}
}

// All that a deletion takes goes at one moment: its time would be over for one
// half before the other, and a restoration bring that half back alone.
func TestDeletionIsOfOneMoment(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	now := s.now
	slowly := func() time.Time {
		c.pass(time.Millisecond)
		return now()
	}
	restored, over := 0, 0
	for early := -3; early < 9; early++ { // in ms, against the end of its time
		for _, whole := range []bool{false, true} {
			repo := fmt.Sprintf("app/r%d-%v", early+3, whole)
			all := map[string]NewManifest{}
			img := put(t, s, repo, "img", "img", "")
			all["img"], all["sig"] = img, put(t, s, repo, "sig", "", img.Digest)
			before := contents(t, s, repo, all)
			s.now = slowly
			if whole {
				_, _, _, err := s.DeleteRepo(t.Context(), repo, "ann", false)
				must(t, err)
			} else {
				must(t, s.DeleteManifest(t.Context(), repo, img.Digest, "ann"))
			}
			s.now = now
			of, _, err := s.Trash(t.Context(), TrashFilter{Repo: repo}, 10, "")
			must(t, err)
			c.pass(s.gc.TrashFor - time.Duration(early)*time.Millisecond)
			err = s.RestoreTrash(t.Context(), of[0].Op, false)
			if errors.Is(err, ErrNotFound) {
				over++
				continue
			}
			must(t, err)
			restored++
			if got := contents(t, s, repo, all); got != before {
				t.Errorf("%d ms before the end of its time a deletion was restored to\n%s, want\n%s", early, got, before)
			}
		}
	}
	if restored == 0 || over == 0 {
		t.Errorf("%d deletions were restored and the time of %d was over, want some of both", restored, over)
	}
}
