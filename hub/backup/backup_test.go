package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/need"
)

// shelf is as much of a storage as backups use, in memory.
type shelf struct {
	blob.Store
	mu    sync.Mutex
	bytes map[string][]byte
	begun map[string]bool
	fail  error // of PutFile
	stuck error // of Delete
}

func newShelf() *shelf { return &shelf{bytes: make(map[string][]byte), begun: make(map[string]bool)} }

func (s *shelf) put(key, text string) { s.bytes[key] = []byte(text) }

func (s *shelf) Walk(_ context.Context, prefix string, fn func(blob.Object) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, b := range s.bytes {
		if strings.HasPrefix(k, prefix) {
			if err := fn(blob.Object{Key: k, SizeBytes: int64(len(b)), Begun: s.begun[k]}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *shelf) Open(_ context.Context, key string, sizeBytes int64) (oci.Content, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.bytes[key]
	if !ok || int64(len(b)) != sizeBytes {
		return nil, fs.ErrNotExist
	}
	return oci.BytesContent(b), nil
}

func (s *shelf) PutFile(_ context.Context, key string, f *os.File, sizeBytes int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	b := make([]byte, sizeBytes)
	_, err := f.ReadAt(b, 0)
	s.bytes[key] = b
	return err
}

func (s *shelf) Delete(_ context.Context, keys ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stuck != nil {
		return s.stuck
	}
	for _, k := range keys {
		delete(s.bytes, k)
	}
	return nil
}

func (s *shelf) keys(prefix string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.DeleteFunc(slices.Collect(maps.Keys(s.bytes)), func(k string) bool { return !strings.HasPrefix(k, prefix) })
	slices.Sort(all)
	return all
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// hubOf is a hub's database and storage with an image of one layer for each
// tag, and what opens the database.
func hubOf(t *testing.T, tags ...string) (*meta.Store, meta.Config, *shelf) {
	t.Helper()
	c := meta.Config{Driver: "sqlite", DSN: filepath.Join(t.TempDir(), "hub.db")}
	s, err := meta.Open(t.Context(), c)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	must(t, s.Migrate(t.Context()))
	store := newShelf()
	for _, tag := range tags {
		push(t, s, store, "team/app", tag)
	}
	return s, c, store
}

func key(tag string) string { return "b/" + tag }

// push puts an image into the hub whose only layer is its tag.
func push(t *testing.T, s *meta.Store, store *shelf, repo, tag string) oci.Digest {
	t.Helper()
	ctx := t.Context()
	d := oci.FromBytes([]byte(tag))
	u := meta.Upload{ID: repo + tag, StorageKey: key(tag), Alg: "sha256", HashState: []byte{}}
	must(t, s.CreateUpload(ctx, repo, u))
	store.put(key(tag), tag)
	u, err := s.Upload(ctx, repo, u.ID)
	must(t, err)
	if _, err := s.CommitUpload(ctx, u, d, int64(len(tag))); err != nil {
		t.Fatal(err)
	}
	body := fmt.Appendf(nil, `{"layer":%q}`, d)
	must(t, s.PutManifest(ctx, meta.NewManifest{Repo: repo, Tag: tag, Body: body, Digest: oci.FromBytes(body), Links: oci.Links{
		MediaType: oci.MediaTypeImage, Blobs: []oci.Descriptor{{Digest: d, Size: int64(len(tag))}}}}))
	return oci.FromBytes(body)
}

func elsewhere(t *testing.T) meta.Config {
	return meta.Config{Driver: "sqlite", DSN: filepath.Join(t.TempDir(), "new", "hub.db")}
}

func TestThereAndBack(t *testing.T) {
	_, rows, store := hubOf(t, "v1", "v2")
	for _, name := range []string{"hub.db", "hub.db.zst"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, name)
			must(t, os.WriteFile(file, []byte("an older one"), 0o644))
			made, err := Create(t.Context(), rows, file, "v1", nil)
			must(t, err)
			if i, err := os.Stat(file); err != nil || i.Mode().Perm() != 0o600 || i.Size() != made.SizeBytes {
				t.Errorf("the file is %v of %d bytes, %v; want 0600 and %d", i.Mode(), i.Size(), err, made.SizeBytes)
			}
			if left, _ := os.ReadDir(dir); len(left) != 1 {
				t.Errorf("left beside the backup: %v", left)
			}
			to := elsewhere(t)
			dry, err := Restore(t.Context(), to, store, file, Options{DryRun: true})
			must(t, err)
			if _, err := os.Stat(filepath.Dir(to.DSN)); !os.IsNotExist(err) {
				t.Errorf("a dry run left %s: %v", filepath.Dir(to.DSN), err)
			}
			r, err := Restore(t.Context(), to, store, file, Options{})
			must(t, err)
			want := Report{Backup: made.BackupInfo, Restored: true, Epoch: r.Epoch, Storage: Check{Blobs: 2, Bytes: 4, Missing: []Missing{}}}
			if diff := cmp.Diff(want, r); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(r.Storage, dry.Storage); diff != "" || dry.Restored || dry.Epoch != 0 {
				t.Errorf("the dry run's report is %+v", dry)
			}
			s, err := meta.Open(t.Context(), to)
			must(t, err)
			defer s.Close()
			if _, err := s.ManifestByTag(t.Context(), "team/app", "v2"); err != nil {
				t.Error(err)
			}
			left, err := os.ReadDir(filepath.Dir(to.DSN))
			must(t, err)
			for _, e := range left {
				if strings.HasPrefix(e.Name(), ".") {
					t.Errorf("%s was left beside the database", e.Name())
				}
			}
			if _, err := Restore(t.Context(), to, store, file, Options{}); !errors.Is(err, meta.ErrLocked) {
				t.Errorf("restored over a running hub: %v", err)
			}
		})
	}
	if _, err := Create(t.Context(), rows, filepath.Join(t.TempDir(), "hub.sql"), "v1", nil); err == nil {
		t.Error("a backup of another format was promised")
	}
}

func TestDamagedFile(t *testing.T) {
	_, rows, store := hubOf(t, "v1")
	file := filepath.Join(t.TempDir(), "hub.db.zst")
	_, err := Create(t.Context(), rows, file, "v1", nil)
	must(t, err)
	whole, err := os.ReadFile(file)
	must(t, err)
	unpacked := func(b []byte) ([]byte, error) {
		to := filepath.Join(t.TempDir(), "unpacked")
		err := unpack(t.Context(), bytes.NewReader(b), to)
		got, _ := os.ReadFile(to)
		return got, err
	}
	rows1, err := unpacked(whole)
	must(t, err)
	harmless := 0
	for i := 0; i < len(whole); i += max(1, len(whole)/100) {
		bad := slices.Clone(whole)
		bad[i] ^= 0x40
		for _, b := range [][]byte{bad, whole[:i]} {
			must(t, os.WriteFile(file, b, 0o600))
			to := elsewhere(t)
			_, err := Restore(t.Context(), to, store, file, Options{})
			if err == nil { // a bit that zstd makes no use of
				if same, err := unpacked(b); err != nil || !bytes.Equal(same, rows1) {
					t.Fatalf("byte %d of %d, %d left: not found", i, len(whole), len(b))
				}
				harmless++
				continue
			}
			if !errors.Is(err, meta.ErrDamaged) && !errors.Is(err, meta.ErrNoBackup) {
				t.Fatalf("byte %d of %d, %d left: %v", i, len(whole), len(b), err)
			}
			if _, err := os.Stat(to.DSN); !os.IsNotExist(err) {
				t.Fatalf("a database was made: %v", err)
			}
		}
	}
	if harmless > 5 {
		t.Errorf("%d flips were harmless", harmless)
	}
	must(t, os.WriteFile(file, whole[:len(whole)/2], 0o600))
	if _, err := Restore(t.Context(), elsewhere(t), store, file, Options{}); !strings.Contains(err.Error(), fmt.Sprint(len(whole)/2)+" bytes") {
		t.Errorf("a file cut in half: %v, want how many bytes there were", err)
	}
}

func TestMissingBlobsAreTold(t *testing.T) {
	s, rows, store := hubOf(t, "here", "gone", "short", "begun", "empty")
	must(t, s.Mount(t.Context(), "team/other", "team/app", oci.FromBytes([]byte("gone"))))
	gone, err := s.ManifestByTag(t.Context(), "team/app", "gone")
	must(t, err)
	index := []byte(`{"index":1}`)
	must(t, s.PutManifest(t.Context(), meta.NewManifest{Repo: "team/app", Tag: "multi", Body: index, Digest: oci.FromBytes(index), Links: oci.Links{
		MediaType: oci.MediaTypeIndex, Children: []oci.Descriptor{gone.Descriptor()}}}))
	file := filepath.Join(t.TempDir(), "hub.db")
	_, err = Create(t.Context(), rows, file, "v1", nil)
	must(t, err)
	delete(store.bytes, key("gone"))
	store.put(key("short"), "sho")
	store.begun[key("begun")] = true
	store.put("b/orphan", "of no row")

	r, err := Restore(t.Context(), elsewhere(t), store, file, Options{DryRun: true})
	must(t, err)
	missing := func(tag string, found int64, needs ...Need) Missing {
		m, err := s.ManifestByTag(t.Context(), "team/app", tag)
		must(t, err)
		return Missing{Digest: oci.FromBytes([]byte(tag)), SizeBytes: int64(len(tag)), StorageKey: key(tag), FoundBytes: found,
			NeededBy: append([]Need{{Repository: "team/app", Tag: tag, Digest: m.Digest}}, needs...)}
	}
	want := Check{Blobs: 5, Bytes: 23, MissingBlobs: 3, MissingBytes: 14, Missing: []Missing{
		missing("gone", -1, Need{Repository: "team/app", Tag: "multi", Digest: oci.FromBytes(index)}), missing("short", 3), missing("begun", -1)}}
	if diff := cmp.Diff(want, r.Storage); diff != "" {
		t.Errorf("what is missing (-want +got):\n%s", diff)
	}

	// Once forgotten, the same bytes are taken again.
	to := elsewhere(t)
	r, err = Restore(t.Context(), to, store, file, Options{ForgetMissing: true})
	must(t, err)
	if r.Storage.Forgotten != 3 {
		t.Errorf("forgotten: %d, want 3", r.Storage.Forgotten)
	}
	again, err := meta.Open(t.Context(), to)
	must(t, err)
	defer again.Close()
	if _, err := again.LiveBlob(t.Context(), oci.FromBytes([]byte("gone"))); !errors.Is(err, meta.ErrNotFound) {
		t.Errorf("a forgotten blob: %v", err)
	}
	if _, err := again.LiveBlob(t.Context(), oci.FromBytes([]byte("here"))); err != nil {
		t.Error(err)
	}

	// A storage with nothing in it is another one, rather.
	r, err = Restore(t.Context(), elsewhere(t), newShelf(), file, Options{ForgetMissing: true})
	if err != nil || r.Storage.MissingBlobs != 5 || r.Storage.Forgotten != 0 {
		t.Errorf("with an empty storage: %+v, %v", r.Storage, err)
	}
}

func TestManyBlobsAreLookedFor(t *testing.T) {
	var tags []string
	for i := range 3*batch/2 + 1 {
		tags = append(tags, fmt.Sprintf("v%d", i))
	}
	_, rows, store := hubOf(t, tags...)
	file := filepath.Join(t.TempDir(), "hub.db")
	_, err := Create(t.Context(), rows, file, "v1", nil)
	must(t, err)
	for i := 0; i < len(tags); i += 7 {
		delete(store.bytes, key(tags[i]))
	}
	r, err := Restore(t.Context(), elsewhere(t), store, file, Options{})
	must(t, err)
	if want := int64((len(tags) + 6) / 7); r.Storage.Blobs != int64(len(tags)) || r.Storage.MissingBlobs != want || int64(len(r.Storage.Missing)) != want {
		t.Errorf("%d blobs, %d missing; want %d and %d", r.Storage.Blobs, r.Storage.MissingBlobs, len(tags), want)
	}
}

func TestCreateOnAFullDiskLeavesNothing(t *testing.T) {
	need.Root(t) // it mounts a file system of its own
	_, rows, _ := hubOf(t, "v1")
	raw, err := Create(t.Context(), rows, filepath.Join(t.TempDir(), "hub.db"), "v1", nil)
	must(t, err)
	dir := t.TempDir()
	for _, size := range []int64{32 << 10, raw.SizeBytes} { // too small for the rows, and for their compressed copy besides
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
			t.Skipf("mount tmpfs: %v", err)
		}
		_, err := Create(t.Context(), rows, filepath.Join(dir, "hub.db.zst"), "v1", nil)
		if oci.CodeOf(err) != oci.NoSpace {
			t.Errorf("in %d bytes: %v, want a full disk", size, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("in %d bytes: left %v, %v", size, left, err)
		}
		must(t, unix.Unmount(dir, unix.MNT_DETACH))
	}
}

// leases are held by whom they say.
type leases struct {
	mine    bool
	dropped int
}

func (l *leases) TakeLease(context.Context, string) (meta.Lease, error) {
	return meta.Lease{Mine: l.mine}, nil
}

func (l *leases) DropLease(context.Context, string) error { l.dropped++; return nil }

func TestSchedule(t *testing.T) {
	_, rows, store := hubOf(t, "v1")
	dir := filepath.Join(t.TempDir(), "backups")
	store.put("backup/notes.txt", "somebody's own")
	synctest.Test(t, func(t *testing.T) {
		l := &leases{mine: true}
		reg := prometheus.NewRegistry()
		s := New(Config{Every: time.Hour, Keep: 2, Dir: dir}, Parts{
			Rows: rows, Store: store, Leases: l, Version: "v1", Log: slog.New(slog.DiscardHandler), Metrics: reg})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.Run(ctx) }()
		after := func(d time.Duration) []string {
			time.Sleep(d)
			synctest.Wait()
			names := []string{}
			paths, err := listDir(dir)
			must(t, err)
			for _, p := range paths {
				names = append([]string{Prefix + filepath.Base(p)}, names...)
			}
			all := store.keys(Prefix + "2")
			if diff := cmp.Diff(all, names); diff != "" {
				t.Errorf("in the storage and in the folder is not the same:\n%s", diff)
			}
			return all
		}
		start := time.Now()
		key := func(h int) string { return Prefix + nameAt(start.Add(time.Duration(h)*time.Hour)) }
		for _, tt := range []struct {
			after time.Duration
			want  []string
		}{
			{time.Minute, []string{key(0)}}, // the first at once
			{58 * time.Minute, []string{key(0)}},
			{2 * time.Minute, []string{key(0), key(1)}},
			{time.Hour, []string{key(1), key(2)}},
		} {
			if diff := cmp.Diff(tt.want, after(tt.after)); diff != "" {
				t.Errorf("%s after the start:\n%s", time.Since(start), diff)
			}
		}
		// A storage that fails is tried again, before the hour is over.
		store.mu.Lock()
		store.fail = errors.New("no")
		store.mu.Unlock()
		time.Sleep(time.Hour)
		synctest.Wait()
		if kept, err := listDir(dir); err != nil || len(kept) != 2 || Prefix+filepath.Base(kept[1]) != key(2) {
			t.Errorf("after a failing hour there are %v, %v; want the last one from before, and one more", kept, err)
		}
		store.mu.Lock()
		store.fail = nil
		store.mu.Unlock()
		time.Sleep(lookEvery)
		synctest.Wait()
		if all := store.keys(Prefix + "2"); len(all) != 2 || all[1] <= key(2) {
			t.Errorf("after a failure: %v", all)
		}
		// One that lets nothing be deleted does not fill the folder.
		failed := testutil.ToFloat64(s.metrics.failed)
		store.mu.Lock()
		store.stuck = errors.New("locked")
		store.mu.Unlock()
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		store.mu.Lock()
		store.stuck = nil
		store.mu.Unlock()
		if kept, err := listDir(dir); err != nil || len(kept) != 2 || len(store.keys(Prefix+"2")) != 5 {
			t.Errorf("where nothing is deleted there are %v, %v and %v", kept, err, store.keys(Prefix))
		}
		if n := testutil.ToFloat64(s.metrics.failed); n != failed {
			t.Errorf("%v backups failed that were made", n-failed)
		}
		after(time.Hour)
		metrics, err := reg.Gather()
		must(t, err)
		for _, m := range metrics {
			v := m.Metric[0].GetGauge().GetValue() + m.Metric[0].GetCounter().GetValue()
			if m.GetName() != "breakwater_hub_backup_last_duration_seconds" && v <= 0 {
				t.Errorf("%s = %v", m.GetName(), v)
			}
		}
		cancel()
		<-done
		if l.dropped != 1 {
			t.Errorf("the lease was given back %d times", l.dropped)
		}
		// A start by itself makes none, and another's lease keeps us from it.
		before := store.keys(Prefix)
		for _, mine := range []bool{true, false} {
			l.mine = mine
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
			if !mine {
				cancel()
				ctx, cancel = context.WithTimeout(t.Context(), 5*time.Hour)
			}
			s.Run(ctx)
			cancel()
			if diff := cmp.Diff(before, store.keys(Prefix)); diff != "" {
				t.Errorf("with the lease %v:\n%s", mine, diff)
			}
		}
	})
	if !slices.Contains(store.keys(Prefix), "backup/notes.txt") {
		t.Error("a key that is no backup was deleted")
	}
	// What was made can be listed and restored.
	all, err := List(t.Context(), store)
	must(t, err)
	if len(all) != 2 || !all[0].MadeAt.After(all[1].MadeAt) {
		t.Errorf("List = %+v", all)
	}
	for _, from := range []string{"latest", all[1].Key} {
		if r, err := Restore(t.Context(), elsewhere(t), store, from, Options{}); err != nil || r.Backup.MadeAt.Sub(all[0].MadeAt).Abs() > 2*time.Hour {
			t.Errorf("restore %s: %+v, %v", from, r.Backup, err)
		}
	}
	for _, from := range []string{"backup/none", "/no/such/file"} {
		if _, err := Restore(t.Context(), elsewhere(t), store, from, Options{}); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("restore %s: %v", from, err)
		}
	}
	if _, err := Restore(t.Context(), elsewhere(t), newShelf(), "latest", Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("restore latest from a storage without: %v", err)
	}
}
