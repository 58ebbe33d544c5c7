package meta

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestTouchIsWrittenAfterAWhile(t *testing.T) {
	only(t, "sqlite")
	dsn := filepath.Join(t.TempDir(), "hub.db")
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(t.Context(), Config{Driver: "sqlite", DSN: dsn})
		must(t, err)
		must(t, s.Migrate(t.Context()))
		d := putBlob(t, s, "team/app", "layer")
		m := image("team/app", "v1", d)
		must(t, s.PutManifest(t.Context(), m))
		b, err := s.LiveBlob(t.Context(), d)
		must(t, err)
		stored, err := s.StatTag(t.Context(), "team/app", "v1")
		must(t, err)
		if !stored.LastPullAt.IsZero() {
			t.Errorf("pulled at %v before any pull", stored.LastPullAt)
		}

		time.Sleep(time.Hour)
		used := time.Now().UTC()
		s.Touch(b.ID)
		s.Pulled(stored.RepoID, stored.ID)
		time.Sleep(4 * time.Second)
		if b, _ := s.LiveBlob(t.Context(), d); b.LastUsedAt.Equal(used) {
			t.Errorf("a use was written after 4 s, want 5")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if b, err := s.LiveBlob(t.Context(), d); err != nil || !b.LastUsedAt.Equal(used) {
			t.Errorf("last used %v, %v; want %v", b.LastUsedAt, err, used)
		}
		if m, err := s.StatTag(t.Context(), "team/app", "v1"); err != nil || !m.LastPullAt.Equal(used) {
			t.Errorf("manifest last pulled %v, %v; want %v", m.LastPullAt, err, used)
		}
		if r, err := s.Repo(t.Context(), "team/app"); err != nil || !r.LastPullAt.Equal(used) {
			t.Errorf("repository last pulled %v, %v; want %v", r.LastPullAt, err, used)
		}

		// What is still in memory is written at the end.
		time.Sleep(time.Hour)
		used = time.Now().UTC()
		s.Touch(b.ID)
		must(t, s.Close())
		s, err = Open(t.Context(), Config{Driver: "sqlite", DSN: dsn})
		must(t, err)
		defer s.Close()
		if b, err := s.LiveBlob(t.Context(), d); err != nil || !b.LastUsedAt.Equal(used) {
			t.Errorf("after Close last used %v, %v; want %v", b.LastUsedAt, err, used)
		}
	})
}

func TestFlushKeepsWhatItCouldNotWrite(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	var all []Blob
	for i := range touchBatch + 10 { // more than one transaction
		b, err := s.LiveBlob(t.Context(), putBlob(t, s, "team/app", fmt.Sprint(i)))
		must(t, err)
		all = append(all, b)
	}
	c.pass(time.Hour)
	for _, b := range all {
		s.Touch(b.ID)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Flush(ctx); err == nil {
		t.Fatal("Flush with a context that has ended did not fail")
	}
	c.pass(time.Hour)
	s.Touch(all[0].ID)
	must(t, s.Flush(t.Context()))
	for i, b := range all {
		want := c.now()
		if i > 0 {
			want = want.Add(-time.Hour)
		}
		if b, err := s.LiveBlob(t.Context(), b.Digest); err != nil || !b.LastUsedAt.Equal(want) {
			t.Fatalf("blob %d last used %v, %v; want %v", i, b.LastUsedAt, err, want)
		}
	}
}
