package meta

import (
	"errors"
	"testing"
	"time"
)

// everythingOfFills runs the statements that only fills need.
func everythingOfFills(t *testing.T, s *Store) {
	must(t, second(s.LeftFills(t.Context(), time.Minute, 1, "")))
	must(t, second(s.AbandonFill(t.Context(), "b/none")))
	must(t, s.DropFill(t.Context(), "b/none"))
}

// leftFills are the keys of fills that are listed as left.
func leftFills(t *testing.T, s *Store) (keys []string) {
	t.Helper()
	all, err := s.LeftFills(t.Context(), 0, 10, "")
	must(t, err)
	for _, f := range all {
		keys = append(keys, f.StorageKey)
	}
	return keys
}

func TestFill(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	d := digestOf("layer")
	must(t, s.StartFill(ctx, "b/1", d, 5))
	must(t, s.StartFill(ctx, "b/2", d, 5))
	all, err := s.LeftFills(ctx, 0, 10, "")
	if err != nil || len(all) != 2 || all[0] != (Fill{StorageKey: "b/1", Digest: d, SizeBytes: 5, Holder: s.ReplicaID(), StartedAt: c.now()}) {
		t.Errorf("LeftFills = %v, %v", all, err)
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
	if left := leftFills(t, s); len(left) != 1 || left[0] != "b/2" {
		t.Errorf("left are %v; want the loser's, whose bytes are still there", left)
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

// Whoever wants to delete a key's bytes learns whether they are a blob's, and
// if not, they never become one.
func TestAbandonFill(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	d := digestOf("layer")
	must(t, s.StartFill(ctx, "b/dead", d, 5))
	for range 2 { // as one that was interrupted
		if committed, err := s.AbandonFill(ctx, "b/dead"); committed || err != nil {
			t.Errorf("AbandonFill of what was not committed = %v, %v", committed, err)
		}
	}
	if _, _, err := s.CommitFill(ctx, "b/dead", 5); !errors.Is(err, ErrNotFound) {
		t.Errorf("CommitFill after AbandonFill: %v, want ErrNotFound", err)
	}
	if left := leftFills(t, s); len(left) != 1 {
		t.Errorf("left are %v; its row goes after its bytes", left)
	}
	must(t, s.StartFill(ctx, "b/live", d, 5))
	if _, won, err := s.CommitFill(ctx, "b/live", 5); !won || err != nil {
		t.Fatal(won, err)
	}
	if committed, err := s.AbandonFill(ctx, "b/live"); !committed || err != nil {
		t.Errorf("AbandonFill of a blob's key = %v, %v", committed, err)
	}
	if committed, err := s.AbandonFill(ctx, "b/none"); committed || err != nil {
		t.Errorf("AbandonFill of no fill = %v, %v", committed, err)
	}
	if b, err := s.LiveBlob(ctx, d); err != nil || b.StorageKey != "b/live" {
		t.Errorf("LiveBlob = %+v, %v", b, err)
	}
}
