package meta

import (
	"errors"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestUpload(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	must(t, s.CreateUpload(ctx, "team/app", Upload{ID: "u1", StorageKey: "b/1", Alg: "sha256", HashState: []byte{}}))
	if _, err := s.Upload(ctx, "team/other", "u1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Upload by another repository: %v, want ErrNotFound", err)
	}
	c.pass(time.Hour)
	must(t, s.SaveUpload(ctx, "u1", 0, 5, []byte("state")))
	if err := s.SaveUpload(ctx, "u1", 0, 7, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("SaveUpload from where it is not: %v, want ErrNotFound", err)
	}
	u, err := s.Upload(ctx, "team/app", "u1")
	must(t, err)
	if u.OffsetBytes != 5 || string(u.HashState) != "state" || u.Alg != "sha256" || !u.UpdatedAt.Equal(c.now()) || !u.StartedAt.Equal(c.now().Add(-time.Hour)) {
		t.Errorf("Upload = %+v", u)
	}
	if byID, err := s.UploadByID(ctx, "u1"); err != nil || !byID.UpdatedAt.Equal(u.UpdatedAt) || byID.StorageKey != u.StorageKey {
		t.Errorf("UploadByID = %+v, %v; want what Upload gave", byID, err)
	}
	if all, err := s.StaleUploads(ctx, c.now(), 10); err != nil || len(all) != 0 {
		t.Errorf("StaleUploads(now) = %v, %v; want none", all, err)
	}
	if all, err := s.StaleUploads(ctx, c.now().Add(time.Second), 10); err != nil || len(all) != 1 || all[0].StorageKey != "b/1" {
		t.Errorf("StaleUploads(later) = %v, %v; want the one", all, err)
	}

	won, err := s.CommitUpload(ctx, u, digestOf("hello"), 5)
	if err != nil || !won {
		t.Errorf("CommitUpload = %v, %v", won, err)
	}
	b, err := s.RepoBlob(ctx, "team/app", digestOf("hello"))
	if err != nil || b.StorageKey != "b/1" || b.SizeBytes != 5 || b.ID == 0 {
		t.Errorf("RepoBlob = %+v, %v", b, err)
	}
	if _, err := s.Upload(ctx, "team/app", "u1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Upload after its commit: %v, want ErrNotFound", err)
	}

	// The same digest again, elsewhere: the bytes that are here stay, the other's are to be deleted.
	must(t, s.CreateUpload(ctx, "team/b", Upload{ID: "u2", StorageKey: "b/2", Alg: "sha256", HashState: []byte{}}))
	u, err = s.Upload(ctx, "team/b", "u2")
	must(t, err)
	if won, err := s.CommitUpload(ctx, u, digestOf("hello"), 5); err != nil || won {
		t.Errorf("CommitUpload of a digest that is here = %v, %v", won, err)
	}
	must(t, second(s.Upload(ctx, "team/b", "u2")))
	if b, err := s.RepoBlob(ctx, "team/b", digestOf("hello")); err != nil || b.StorageKey != "b/1" {
		t.Errorf("RepoBlob = %+v, %v; want the first one's bytes", b, err)
	}
	must(t, s.DeleteUpload(ctx, "u2"))

	// An upload given up meanwhile cannot become a blob: its file is gone.
	must(t, s.CreateUpload(ctx, "team/b", Upload{ID: "u3", StorageKey: "b/3", Alg: "sha256", HashState: []byte{}}))
	u, err = s.Upload(ctx, "team/b", "u3")
	must(t, err)
	must(t, s.DeleteUpload(ctx, "u3"))
	if _, err := s.CommitUpload(ctx, u, digestOf("gone"), 4); !errors.Is(err, ErrNotFound) {
		t.Errorf("CommitUpload of a deleted upload: %v, want ErrNotFound", err)
	}
	if _, err := s.LiveBlob(ctx, digestOf("gone")); !errors.Is(err, ErrNotFound) {
		t.Errorf("LiveBlob of it: %v, want ErrNotFound", err)
	}
}

func TestMount(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	d := putBlob(t, s, "team/app", "layer")
	must(t, second(s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Source: FromFile})))
	r, err := s.EnsureRepo(ctx, "docker.io/x", Proxy)
	must(t, err)
	must(t, s.Grant(ctx, r.RepoID, oci.Descriptor{Digest: digestOf("not here"), Size: 8}))

	for _, tt := range []struct {
		repo, from string
		d          oci.Digest
		want       error
	}{
		{"new/app", "team/app", d, nil},
		{"new/app", "team/app", d, nil}, // again
		{"new/b", "team/none", d, ErrNotFound},
		{"new/b", "docker.io/x", d, ErrNotFound},                    // no grant there
		{"new/b", "docker.io/x", digestOf("not here"), ErrNotFound}, // no bytes
		{"docker.io/x", "team/app", d, ErrConflict},
	} {
		if err := s.Mount(ctx, tt.repo, tt.from, tt.d); !errors.Is(err, tt.want) {
			t.Errorf("Mount(%s, %s): %v, want %v", tt.repo, tt.from, err, tt.want)
		}
	}
	if b, err := s.RepoBlob(ctx, "new/app", d); err != nil || b.ID == 0 || b.SizeBytes != int64(len("layer")) {
		t.Errorf("RepoBlob after Mount = %+v, %v", b, err)
	}
	if _, err := s.Repo(ctx, "new/b"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a mount that failed left a repository: %v", err)
	}
}

func TestFill(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	d := digestOf("layer")
	must(t, s.StartFill(ctx, "b/1", d, 5))
	must(t, s.StartFill(ctx, "b/2", d, 5))
	all, err := s.Fills(ctx, c.now().Add(time.Microsecond), 10, "")
	if err != nil || len(all) != 2 || all[0] != (Fill{StorageKey: "b/1", Digest: d, SizeBytes: 5, StartedAt: c.now()}) {
		t.Errorf("Fills = %v, %v", all, err)
	}
	if all, err := s.Fills(ctx, c.now(), 10, ""); err != nil || len(all) != 0 {
		t.Errorf("Fills begun before now = %v, %v", all, err)
	}
	b, won, err := s.CommitFill(ctx, "b/1", 5)
	if err != nil || !won || b.StorageKey != "b/1" || b.ID == 0 {
		t.Errorf("CommitFill = %+v, %v, %v", b, won, err)
	}
	must(t, s.CreateUpload(ctx, "team/app", Upload{ID: "u", StorageKey: "b/3", HashState: []byte{}}))
	orphans, err := s.Orphans(ctx, []string{"b/1", "b/2", "b/3", "b/4"}) // a blob's, a fill's, an upload's
	if err != nil || len(orphans) != 1 || orphans[0] != "b/4" {
		t.Errorf("Orphans = %v, %v; want b/4", orphans, err)
	}
	b, won, err = s.CommitFill(ctx, "b/2", 5)
	if err != nil || won || b.StorageKey != "b/1" {
		t.Errorf("the second CommitFill = %+v, %v, %v; want the first one's row", b, won, err)
	}
	if all, err := s.Fills(ctx, c.now().Add(time.Microsecond), 10, ""); err != nil || len(all) != 1 || all[0].StorageKey != "b/2" {
		t.Errorf("Fills = %v, %v; want the loser's, whose file is still there", all, err)
	}
	// Where the upstream has shown it is said with it, whoever was first.
	must(t, second(s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Source: FromFile})))
	if _, _, err := s.CommitFill(ctx, "b/2", 5, "docker.io/a", "docker.io/b"); err != nil {
		t.Error(err)
	}
	for _, repo := range []string{"docker.io/a", "docker.io/b"} {
		if g, err := s.RepoBlob(ctx, repo, d); err != nil || g.StorageKey != "b/1" || !g.CheckedAt.Equal(c.now()) {
			t.Errorf("RepoBlob(%s) = %+v, %v; want it confirmed now", repo, g, err)
		}
	}
	if _, _, err := s.CommitFill(ctx, "b/2", 5, "team/app"); !errors.Is(err, ErrConflict) {
		t.Errorf("CommitFill into a local repository: %v, want ErrConflict", err)
	}
	must(t, s.DropFill(ctx, "b/2"))
	if _, _, err := s.CommitFill(ctx, "b/2", 5); !errors.Is(err, ErrNotFound) {
		t.Errorf("CommitFill after DropFill: %v, want ErrNotFound", err)
	}
}
