package meta

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta/metatest/pgtest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// everythingOfUploads calls each method of uploads that runs a statement. d is
// a blob that is there.
func everythingOfUploads(t *testing.T, s *Store, d oci.Digest) {
	ctx := t.Context()
	must(t, s.CreateUpload(ctx, "team/uploads", Upload{ID: "u", StorageKey: "b/u", HashState: []byte("state")}))
	u, err := s.HoldUpload(ctx, "team/uploads", "u", nil)
	must(t, err)
	must(t, s.SaveUpload(ctx, u, 0, false))
	must(t, second(s.UploadState(ctx, "u")))
	moved := u
	moved.StorageKey = "b/moved"
	must(t, s.MoveUpload(ctx, moved, u))
	u = moved
	must(t, s.DeleteUpload(ctx, "b/u"))
	if won, err := s.CommitUpload(ctx, u, d, 5); won || err != nil {
		t.Errorf("CommitUpload of what is here = %v, %v", won, err)
	}
	must(t, second(s.StaleUploads(ctx, time.Now().Add(time.Hour), 1)))
	must(t, s.DoomUpload(ctx, "u"))
	must(t, s.ReleaseUpload(ctx, "u"))
	must(t, second(s.HoldStaleUpload(ctx, "u", s.Now())))
	must(t, s.DeleteUpload(ctx, "u"))
	must(t, s.ReleaseUpload(ctx, "u"))
	must(t, s.ReleaseStuck(ctx))
	must(t, second(s.ReposWithBlob(ctx, d, "team", 1)))
}

// startUpload makes an upload to team/app.
func startUpload(t *testing.T, s *Store, id string) {
	t.Helper()
	must(t, s.CreateUpload(t.Context(), "team/app", Upload{ID: id, StorageKey: "b/" + id, Alg: "sha256", HashState: []byte{}}))
}

// held is an upload to team/app that s holds.
func held(t *testing.T, s *Store, id string) Upload {
	t.Helper()
	u, err := s.HoldUpload(t.Context(), "team/app", id, nil)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestUpload(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	startUpload(t, s, "u1")
	_, err := s.Upload(ctx, "team/other", "u1")
	wantErr(t, "Upload by another repository", err, ErrNotFound)
	_, err = s.HoldUpload(ctx, "team/other", "u1", nil)
	wantErr(t, "HoldUpload by another repository", err, ErrNotFound)
	c.pass(time.Hour)
	u := held(t, s, "u1")
	if u.DriverState != nil || len(u.HashState) != 0 {
		t.Errorf("a new upload is %+v", u)
	}
	u.OffsetBytes, u.HashState, u.DriverState = 5, []byte("state"), []byte{0, 1, 255}
	must(t, s.SaveUpload(ctx, u, 0, false))
	u.OffsetBytes = 7
	wantErr(t, "SaveUpload from where it is not", s.SaveUpload(ctx, u, 0, false), ErrHeld)
	must(t, s.ReleaseUpload(ctx, "u1"))
	u = held(t, s, "u1")
	if u.OffsetBytes != 5 || string(u.HashState) != "state" || string(u.DriverState) != "\x00\x01\xff" || u.Alg != "sha256" ||
		!u.UpdatedAt.Equal(c.now()) || !u.StartedAt.Equal(c.now().Add(-time.Hour)) {
		t.Errorf("HoldUpload = %+v", u)
	}
	if status, err := s.Upload(ctx, "team/app", "u1"); err != nil || status.OffsetBytes != 5 || status.HashState != nil || status.DriverState != nil {
		t.Errorf("Upload = %+v, %v; want it without its states", status, err)
	}
	if all, err := s.StaleUploads(ctx, c.now(), 10); err != nil || len(all) != 0 {
		t.Errorf("StaleUploads(now) = %v, %v; want none", all, err)
	}
	if all, err := s.StaleUploads(ctx, c.now().Add(time.Second), 10); err != nil || len(all) != 1 || all[0] != "u1" {
		t.Errorf("StaleUploads(later) = %v, %v; want the one", all, err)
	}

	won, err := s.CommitUpload(ctx, u, digestOf("hello"), 5)
	if err != nil || !won {
		t.Errorf("CommitUpload = %v, %v", won, err)
	}
	b, err := s.RepoBlob(ctx, "team/app", digestOf("hello"))
	if err != nil || b.StorageKey != "b/u1" || b.SizeBytes != 5 || b.ID == 0 {
		t.Errorf("RepoBlob = %+v, %v", b, err)
	}
	_, err = s.Upload(ctx, "team/app", "u1")
	wantErr(t, "Upload after its commit", err, ErrNotFound)
	_, err = s.CommitUpload(ctx, u, digestOf("hello"), 5)
	wantErr(t, "CommitUpload again", err, ErrNotFound)
	must(t, s.ReleaseUpload(ctx, "u1"))
}

// The same digest again, elsewhere: the bytes that are here stay, the others
// are to be deleted, and nobody can go on with that upload.
func TestUploadOfWhatIsHere(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()
	d := putBlob(t, s, "team/a", "hello")
	startUpload(t, s, "u2")
	u := held(t, s, "u2")
	if won, err := s.CommitUpload(ctx, u, d, 5); err != nil || won {
		t.Errorf("CommitUpload of a digest that is here = %v, %v", won, err)
	}
	if b, err := s.RepoBlob(ctx, "team/app", d); err != nil || b.StorageKey == "b/u2" {
		t.Errorf("RepoBlob = %+v, %v; want the first one's bytes", b, err)
	}
	must(t, s.ReleaseUpload(ctx, "u2"))
	_, err := s.Upload(ctx, "team/app", "u2")
	wantErr(t, "Upload of a doomed one", err, ErrNotFound)
	_, err = s.HoldUpload(ctx, "team/app", "u2", nil)
	wantErr(t, "HoldUpload of a doomed one", err, ErrNotFound)
	wantErr(t, "SaveUpload of a doomed one", s.SaveUpload(ctx, u, 0, false), ErrNotFound)
	_, err = s.CommitUpload(ctx, u, d, 5)
	wantErr(t, "CommitUpload of a doomed one", err, ErrNotFound)

	// Its key is somebody's until it is deleted, and that is due now.
	if orphans, err := s.Orphans(ctx, []string{"b/u2", "b/none"}); err != nil || len(orphans) != 1 || orphans[0] != "b/none" {
		t.Errorf("Orphans = %v, %v; want b/none", orphans, err)
	}
	stale, err := s.StaleUploads(ctx, c.now().Add(-24*time.Hour), 10)
	if err != nil || len(stale) != 1 || stale[0] != "u2" {
		t.Errorf("StaleUploads = %v, %v; want the doomed one", stale, err)
	}
	u, err = s.HoldStaleUpload(ctx, "u2", c.now().Add(-24*time.Hour))
	if err != nil || u.StorageKey != "b/u2" {
		t.Errorf("HoldStaleUpload = %+v, %v", u, err)
	}
	must(t, s.DoomUpload(ctx, "u2"))
	must(t, s.DeleteUpload(ctx, "u2"))
	must(t, s.ReleaseUpload(ctx, "u2"))
	if orphans, err := s.Orphans(ctx, []string{"b/u2"}); err != nil || len(orphans) != 1 {
		t.Errorf("Orphans = %v, %v; want b/u2", orphans, err)
	}
}

// One that is not doomed is not deleted, whoever asks.
func TestDeleteUploadNeedsItsDoom(t *testing.T) {
	s := newStore(t, nil)
	startUpload(t, s, "u")
	must(t, s.DeleteUpload(t.Context(), "u"))
	must(t, second(s.Upload(t.Context(), "team/app", "u")))
}

func TestUploadToAProxy(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	must(t, second(s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Source: FromFile})))
	must(t, second(s.EnsureRepo(ctx, "docker.io/there", Proxy)))
	for _, repo := range []string{"docker.io/there", "docker.io/new"} {
		wantErr(t, "CreateUpload to "+repo, s.CreateUpload(ctx, repo, Upload{ID: repo, StorageKey: repo, HashState: []byte{}}), ErrConflict)
	}
}

// Of many requests that want an upload, one has it.
func TestOneHolds(t *testing.T) {
	dsn := newDSN(t)
	stores := []*Store{openStore(t, dsn, nil)}
	if driver == "postgres" {
		stores = append(stores, openStore(t, dsn, nil))
	}
	ctx := t.Context()
	for _, s := range stores {
		must(t, s.StartReplica(ctx, "", "test"))
	}
	startUpload(t, stores[0], "u")
	for round := range int64(20) {
		var mu sync.Mutex
		var by []*Store
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				s := stores[i%len(stores)]
				u, err := s.HoldUpload(ctx, "team/app", "u", nil)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					by = append(by, s)
				case !errors.Is(err, ErrHeld):
					t.Errorf("HoldUpload: %v", err)
				}
				if u.OffsetBytes != round {
					t.Errorf("the upload is said to be at %d in round %d", u.OffsetBytes, round)
				}
			})
		}
		wg.Wait()
		if len(by) != 1 {
			t.Fatalf("%d of 10 hold it", len(by))
		}
		for _, s := range stores {
			_, err := s.HoldStaleUpload(ctx, "u", s.Now().Add(time.Hour))
			if !errors.Is(err, ErrHeld) && !errors.Is(err, ErrNotFound) {
				t.Errorf("HoldStaleUpload of a held one: %v", err)
			}
		}
		u, err := by[0].Upload(ctx, "team/app", "u")
		must(t, err)
		u.OffsetBytes++
		u.HashState = []byte{}
		leave := round%2 == 0
		must(t, by[0].SaveUpload(ctx, u, round, leave))
		must(t, by[0].ReleaseUpload(ctx, "u"))
		wantErr(t, "SaveUpload of what was left", by[0].SaveUpload(ctx, u, round, false), ErrHeld)
	}
}

// ghost is a replica that is only a row, last seen ago.
func ghost(t *testing.T, s *Store, id string, ago time.Duration) {
	t.Helper()
	_, err := s.db.Exec(t.Context(), `
		INSERT INTO replicas (id, url, version, started_at, seen_at) VALUES ($1, '', '', 0, {now} - $2)
		ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at`, id, ago.Microseconds())
	must(t, err)
}

// holdFor makes a row say that another replica holds it.
func holdFor(t *testing.T, s *Store, upload, replica string) {
	t.Helper()
	_, err := s.db.Exec(t.Context(), `UPDATE uploads SET holder = $2 WHERE id = $1`, upload, replica)
	must(t, err)
}

func TestHoldOfTheDead(t *testing.T) {
	only(t, "postgres")
	s := newStore(t, nil)
	ctx := t.Context()
	for _, tt := range []struct {
		holder string
		ago    time.Duration
		want   error
		waits  bool
	}{
		{"alive", 0, ErrHeld, false},
		{"a little late", 900 * time.Millisecond, ErrHeld, false},
		{"suspect", 1200 * time.Millisecond, nil, true}, // and is not seen again
		{"dead", 3 * time.Second, nil, false},
		{"never heard of", -1, nil, false},
		{"", -1, nil, false},
	} {
		id := "u-" + tt.holder
		startUpload(t, s, id)
		if tt.ago >= 0 {
			ghost(t, s, tt.holder, tt.ago)
		}
		holdFor(t, s, id, tt.holder)
		begin := time.Now()
		u, err := s.HoldUpload(ctx, "team/app", id, nil)
		took := time.Since(begin)
		wantErr(t, "HoldUpload of what is held by one "+tt.holder, err, tt.want)
		if u.ID != id || tt.waits != (took > 500*time.Millisecond) {
			t.Errorf("held by one %s: %+v after %s", tt.holder, u, took)
		}
		if err == nil {
			must(t, s.ReleaseUpload(ctx, id))
		}
		_, err = s.HoldStaleUpload(ctx, id, s.Now().Add(time.Hour))
		if tt.want == nil && err != nil || tt.want != nil && !errors.Is(err, ErrNotFound) {
			t.Errorf("HoldStaleUpload of what is held by one %s: %v", tt.holder, err)
		}
	}

	// One that is suspect, and is seen again.
	startUpload(t, s, "u")
	ghost(t, s, "paused", 1200*time.Millisecond)
	holdFor(t, s, "u", "paused")
	time.AfterFunc(200*time.Millisecond, func() { ghost(t, s, "paused", 0) })
	_, err := s.HoldUpload(ctx, "team/app", "u", nil)
	wantErr(t, "HoldUpload of what one holds that was only slow", err, ErrHeld)

	ghost(t, s, "paused", 1100*time.Millisecond)
	gone, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = s.HoldUpload(gone, "team/app", "u", nil)
	wantErr(t, "HoldUpload for a client that leaves", err, context.DeadlineExceeded)
}

// A replica that was taken for dead can do nothing to what another has taken
// over.
func TestLostHold(t *testing.T) {
	only(t, "postgres")
	s := newStore(t, nil)
	ctx := t.Context()
	startUpload(t, s, "u")
	u := held(t, s, "u")
	ghost(t, s, "other", 0)
	holdFor(t, s, "u", "other")
	wantErr(t, "SaveUpload", s.SaveUpload(ctx, u, 0, false), ErrHeld)
	wantErr(t, "CommitUpload", second(s.CommitUpload(ctx, u, digestOf("x"), 1)), ErrHeld)
	wantErr(t, "DoomUpload", s.DoomUpload(ctx, "u"), ErrNotFound)
	_, err := s.LiveBlob(ctx, digestOf("x"))
	wantErr(t, "LiveBlob of what was not committed", err, ErrNotFound)
	must(t, s.ReleaseUpload(ctx, "u"))
	_, err = s.HoldUpload(ctx, "team/app", "u", nil)
	wantErr(t, "HoldUpload after that", err, ErrHeld)
}

// What was saved a client may be told: it is there although the server crashes at
// once.
func TestSavedUploadSurvivesCrash(t *testing.T) {
	only(t, "postgres")
	server := pgtest.Start(t)
	s, err := Open(t.Context(), Config{Driver: driver, DSN: server.Database(t)})
	must(t, err)
	defer s.Close()
	must(t, s.Migrate(t.Context()))
	startUpload(t, s, "u")
	// What does not wait for the disk is written there when this says so.
	must(t, second(s.db.Exec(t.Context(), `ALTER SYSTEM SET wal_writer_delay = '10s'`)))
	must(t, second(s.db.Exec(t.Context(), `SELECT pg_reload_conf()`)))
	for i, leave := range []bool{false, true} {
		u := held(t, s, "u")
		u.OffsetBytes++
		must(t, s.SaveUpload(t.Context(), u, int64(i), leave))
		server.Crash(t)
		var offset int64
		var holder string
		eventually(t, "the server is back", func() bool {
			return s.db.QueryRow(t.Context(), `SELECT offset_bytes, holder FROM uploads WHERE id = 'u'`).Scan(&offset, &holder) == nil
		})
		if offset != u.OffsetBytes || (holder == "") != leave {
			t.Errorf("after a crash the upload is at %d, held by %q; it was saved at %d, and left: %v", offset, holder, u.OffsetBytes, leave)
		}
		must(t, s.ReleaseUpload(t.Context(), "u"))
	}
}

// A hold that a crash of the server has undone is not taken for an upload that
// is gone.
func TestHoldUndone(t *testing.T) {
	only(t, "postgres")
	s := newStore(t, nil)
	startUpload(t, s, "u")
	u := held(t, s, "u")
	holdFor(t, s, "u", "")
	u.OffsetBytes++
	wantErr(t, "SaveUpload", s.SaveUpload(t.Context(), u, 0, true), ErrHeld)
	must(t, s.ReleaseUpload(t.Context(), "u"))
	u = held(t, s, "u")
	u.OffsetBytes++
	must(t, s.SaveUpload(t.Context(), u, 0, true))
}

// A hold whose end the row could not be told of ends when it can.
func TestStuckHold(t *testing.T) {
	only(t, "postgres")
	dsn := newDSN(t)
	s, other := openStore(t, dsn, nil), openStore(t, dsn, nil)
	ctx := t.Context()
	must(t, s.StartReplica(ctx, "", "test"))
	startUpload(t, s, "u")
	held(t, s, "u")
	gone, cancel := context.WithCancel(ctx)
	cancel()
	wantErr(t, "ReleaseUpload", s.ReleaseUpload(gone, "u"), context.Canceled)
	_, err := other.HoldUpload(ctx, "team/app", "u", nil)
	wantErr(t, "HoldUpload by another replica", err, ErrHeld)

	held(t, s, "u") // here it is nobody's
	must(t, s.ReleaseUpload(ctx, "u"))
	held(t, other, "u")
	must(t, other.ReleaseUpload(ctx, "u"))

	held(t, s, "u")
	wantErr(t, "ReleaseUpload", s.ReleaseUpload(gone, "u"), context.Canceled)
	must(t, s.ReleaseStuck(ctx))
	held(t, other, "u")
}

func TestReposWithBlob(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	d := putBlob(t, s, "b/app", "layer")
	for _, repo := range []string{"a/app", "c/1", "c/2", "d/app"} {
		must(t, s.Mount(ctx, repo, "b/app", d))
	}
	must(t, second(s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Source: FromFile})))
	proxied, err := s.EnsureRepo(ctx, "docker.io/x", Proxy)
	must(t, err)
	must(t, s.Grant(ctx, proxied.RepoID, oci.Descriptor{Digest: d, Size: 5}, oci.Descriptor{Digest: digestOf("not here"), Size: 8}))
	for _, tt := range []struct {
		d       oci.Digest
		project string
		n       int
		want    []string
	}{
		{d, "", 10, []string{"a/app", "b/app", "c/1", "c/2", "d/app"}},
		{d, "c", 3, []string{"c/1", "c/2", "a/app"}},
		{d, "none", 1, []string{"a/app"}},
		{digestOf("not here"), "docker.io", 10, nil},
		{digestOf("none"), "c", 10, nil},
	} {
		got, err := s.ReposWithBlob(ctx, tt.d, tt.project, tt.n)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("ReposWithBlob(%s, %q, %d) = %q, %v; want %q", tt.d, tt.project, tt.n, got, err, tt.want)
		}
	}
}

// A long state is read when there is memory for it, and not with the row.
func TestLongState(t *testing.T) {
	s := newStore(t, nil)
	startUpload(t, s, "u")
	u := held(t, s, "u")
	state := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	u.HashState, u.DriverState = []byte{}, state
	must(t, s.SaveUpload(t.Context(), u, 0, false))
	must(t, s.ReleaseUpload(t.Context(), "u"))
	u = held(t, s, "u")
	if u.StateBytes != 1<<20 || len(u.DriverState) < 64<<10 || len(u.DriverState) > 80<<10 || !bytes.HasPrefix(state, u.DriverState) {
		t.Errorf("HoldUpload gives %d of %d bytes", len(u.DriverState), u.StateBytes)
	}
	if all, err := s.UploadState(t.Context(), "u"); err != nil || !bytes.Equal(all, state) {
		t.Errorf("UploadState = %d bytes, %v", len(all), err)
	}
	_, err := s.UploadState(t.Context(), "none")
	wantErr(t, "UploadState of none", err, ErrNotFound)
}

// Of an upload that goes on at a new key the old one is deleted, and forgotten, as
// what is left of any upload.
func TestMoveUpload(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	startUpload(t, s, "u")
	was := held(t, s, "u")
	u := was
	u.StorageKey, u.OffsetBytes, u.HashState, u.DriverState = "b/new", 3, []byte{}, []byte("state")
	must(t, s.MoveUpload(ctx, u, was))
	wantErr(t, "MoveUpload again", s.MoveUpload(ctx, u, was), ErrHeld)
	wantErr(t, "SaveUpload at the old key", s.SaveUpload(ctx, was, 3, false), ErrHeld)
	wantErr(t, "CommitUpload of the old key", second(s.CommitUpload(ctx, Upload{ID: "u", RepoID: u.RepoID, StorageKey: "b/u"}, digestOf("x"), 1)), ErrHeld)
	if all, err := s.StaleUploads(ctx, time.UnixMicro(1), 10); err != nil || !slices.Equal(all, []string{"b/u"}) {
		t.Errorf("to be deleted are %v, %v; want the old key", all, err)
	}
	old, err := s.HoldStaleUpload(ctx, "b/u", time.UnixMicro(1))
	if err != nil || old.StorageKey != "b/u" {
		t.Errorf("HoldStaleUpload of the old key = %+v, %v", old, err)
	}
	must(t, s.DeleteUpload(ctx, "b/u"))
	must(t, s.SaveUpload(ctx, u, 3, true))
	must(t, s.ReleaseUpload(ctx, "u"))
	if u = held(t, s, "u"); u.StorageKey != "b/new" || string(u.DriverState) != "state" {
		t.Errorf("after it: %+v", u)
	}
	if won, err := s.CommitUpload(ctx, u, digestOf("x"), 1); err != nil || !won {
		t.Errorf("CommitUpload = %v, %v", won, err)
	}
}

// What is taken from a dead replica goes on where that one does not write.
func TestTakenOverElsewhere(t *testing.T) {
	only(t, "postgres")
	s := newStore(t, nil)
	ctx := t.Context()
	for _, tt := range []struct {
		holder, key, want string
		doomed            []string
	}{
		{"", "b/new", "b/u", nil},
		{"never heard of", "", "b/u", nil}, // where it may not be moved
		{"never heard of", "b/new", "b/new", []string{"b/u"}},
	} {
		startUpload(t, s, "u")
		holdFor(t, s, "u", tt.holder)
		u, err := s.HoldUpload(ctx, "team/app", "u", func(u Upload) string { return cmp.Or(tt.key, u.StorageKey) })
		if err != nil || u.StorageKey != tt.want {
			t.Errorf("taken from %q: %+v, %v; want it at %s", tt.holder, u, err, tt.want)
		}
		if all, err := s.StaleUploads(ctx, time.UnixMicro(1), 10); err != nil || !slices.Equal(all, tt.doomed) {
			t.Errorf("taken from %q: to be deleted are %v, %v; want %v", tt.holder, all, err, tt.doomed)
		}
		must(t, s.DoomUpload(ctx, "u"))
		must(t, s.DeleteUpload(ctx, "u"))
		must(t, s.ReleaseUpload(ctx, "u"))
	}
}

// A hold of which the answer was lost ends too.
func TestHoldWithoutAnswer(t *testing.T) {
	only(t, "postgres")
	dsn := newDSN(t)
	s, other := openStore(t, dsn, nil), openStore(t, dsn, nil)
	ctx := t.Context()
	must(t, s.StartReplica(ctx, "", "test"))
	for what, hold := range map[string]func(context.Context) error{
		"HoldUpload":      func(ctx context.Context) error { return second(s.HoldUpload(ctx, "team/app", "u", nil)) },
		"HoldStaleUpload": func(ctx context.Context) error { return second(s.HoldStaleUpload(ctx, "u", s.Now().Add(time.Hour))) },
	} {
		startUpload(t, s, "u")
		gone, cancel := context.WithCancel(ctx)
		cancel()
		wantErr(t, what, hold(gone), context.Canceled)
		holdFor(t, s, "u", s.ReplicaID()) // as it may have done
		_, err := other.HoldUpload(ctx, "team/app", "u", nil)
		wantErr(t, "HoldUpload by another replica", err, ErrHeld)
		must(t, s.ReleaseStuck(ctx))
		held(t, other, "u")
		must(t, other.DoomUpload(ctx, "u"))
		must(t, other.DeleteUpload(ctx, "u"))
		must(t, other.ReleaseUpload(ctx, "u"))
	}
}
