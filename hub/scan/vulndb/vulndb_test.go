package vulndb_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
	"github.com/breakwater-oci/breakwater/hub/scan/vulndb"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(match.Quiet(slog.NewTextHandler(os.Stderr, nil))))
	os.Exit(m.Run())
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

var made = time.Date(2026, 8, 13, 6, 0, 0, 0, time.UTC)

// archive is a database as it is distributed.
func archive(tb testing.TB, all ...matchtest.Advisory) []byte {
	tb.Helper()
	dir := tb.TempDir()
	must(tb, matchtest.Write(dir, made, all...))
	b, err := matchtest.Archive(dir)
	must(tb, err)
	return b
}

// upstream is the one repository that databases come from.
type upstream struct {
	mu        sync.Mutex
	latest    oci.Digest
	manifests map[oci.Digest][]byte
	blobs     map[oci.Digest][]byte
	err       error
	fetched   int // blobs
	oci.RefuseAll
}

// publish points the tag at a layer.
func (u *upstream) publish(layer []byte, mediaType string) oci.Digest {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.manifests == nil {
		u.manifests, u.blobs = make(map[oci.Digest][]byte), make(map[oci.Digest][]byte)
	}
	d := oci.FromBytes(layer)
	u.blobs[d] = layer
	body, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": oci.MediaTypeImage,
		"config": oci.Descriptor{MediaType: "application/vnd.aquasec.trivy.config.v1+json", Digest: oci.FromBytes([]byte("{}")), Size: 2},
		"layers": []oci.Descriptor{{MediaType: mediaType, Digest: d, Size: int64(len(layer))}},
	})
	if err != nil {
		panic(err)
	}
	u.latest = oci.FromBytes(body)
	u.manifests[u.latest] = body
	return u.latest
}

func (u *upstream) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err != nil {
		return oci.Manifest{}, u.err
	}
	if name := repo + ":" + ref.Tag; name != "ghcr.io/aquasecurity/trivy-db:2" && name != "ghcr.io/aquasecurity/trivy-java-db:1" {
		return oci.Manifest{}, oci.Errorf(oci.ManifestUnknown, "%s:%s", repo, ref)
	}
	return oci.Manifest{Descriptor: oci.Descriptor{Digest: u.latest}}, nil
}

func (u *upstream) Manifest(_ context.Context, _ string, ref oci.Reference) (oci.Manifest, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	body := u.manifests[ref.Digest]
	return oci.Manifest{Descriptor: oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: ref.Digest, Size: int64(len(body))}, Bytes: body}, nil
}

func (u *upstream) Blob(_ context.Context, _ string, d oci.Digest) (*oci.Blob, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fetched++
	b := u.blobs[d]
	return &oci.Blob{BlobInfo: oci.BlobInfo{Descriptor: oci.Descriptor{Digest: d, Size: int64(len(b))}}, Content: oci.BytesContent(b)}, nil
}

const layerType = "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip"

func image(u *upstream, dir string) vulndb.Options {
	return vulndb.Options{Dir: dir, Images: u, Repo: "ghcr.io/aquasecurity/trivy-db", Ref: oci.Tagged("2")}
}

// findings is how many an image of Debian 10 has now.
func findings(t *testing.T, m *match.Matcher) int {
	t.Helper()
	r, err := m.Match(t.Context(), matchtest.Debian10())
	must(t, err)
	return len(r.Findings)
}

func update(t *testing.T, d *vulndb.DB) bool {
	t.Helper()
	changed, err := d.Update(t.Context(), false)
	must(t, err)
	return changed
}

func TestDatabaseFromAnImage(t *testing.T) {
	metatest.Each(t, func(t *testing.T, driver string) {
		rows, m, u := metatest.Open(t, driver, meta.Config{}), match.New(), new(upstream)
		defer m.Close()
		first := u.publish(archive(t, matchtest.Libidn2), layerType)
		told := 0
		reg := prometheus.NewRegistry()
		o := image(u, t.TempDir())
		o.Changed, o.Metrics = func() { told++ }, reg
		d := vulndb.New(rows, m, o)
		if !update(t, d) || told != 1 || findings(t, m) != 1 {
			t.Errorf("the first database: told %d times, %d findings", told, findings(t, m))
		}
		if st := d.State(); !st.InUse || st.Database.Revision != first.String() || !st.Database.MadeAt.Equal(made) || st.Entries == 0 ||
			st.Source != "ghcr.io/aquasecurity/trivy-db:2" || st.CheckedAt.IsZero() || st.Err != nil {
			t.Errorf("state: %+v", st)
		}
		if update(t, d) || u.fetched != 1 {
			t.Errorf("the same database was fetched again: %d fetches", u.fetched)
		}
		u.publish(archive(t, matchtest.Libidn2, matchtest.Bash), layerType)
		if !update(t, d) || findings(t, m) != 2 {
			t.Errorf("with the second database: %d findings", findings(t, m))
		}
		if left, err := filepath.Glob(filepath.Join(o.Dir, "db-*")); len(left) != 1 || err != nil {
			t.Errorf("on disk are %v, %v; want the one in use", left, err)
		}
		latest, err := rows.LatestDatabase(t.Context())
		if err != nil || latest.ID != d.State().Database.ID || !latest.MadeAt.Equal(made) {
			t.Errorf("the row of it: %+v, %v", latest, err)
		}
		want := `
			# HELP breakwater_hub_vulndb_updates_total Looks for a newer vulnerability database, by result: new, same or failed.
			# TYPE breakwater_hub_vulndb_updates_total counter
			breakwater_hub_vulndb_updates_total{result="failed"} 0
			breakwater_hub_vulndb_updates_total{result="new"} 2
			breakwater_hub_vulndb_updates_total{result="same"} 1
			`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "breakwater_hub_vulndb_updates_total"); err != nil {
			t.Error(err)
		}
	})
}

// What is wrong with a new database is no reason to be without one.
func TestBadDatabaseIsRefused(t *testing.T) {
	rows, m, u := metatest.Open(t, "sqlite", meta.Config{}), match.New(), new(upstream)
	defer m.Close()
	good := archive(t, matchtest.Libidn2)
	u.publish(good, layerType)
	o := image(u, t.TempDir())
	o.MaxBytes = 1 << 20
	d := vulndb.New(rows, m, o)
	update(t, d)
	other := t.TempDir()
	must(t, os.WriteFile(filepath.Join(other, "trivy.db"), []byte("garbage"), 0o600))
	must(t, os.WriteFile(filepath.Join(other, "metadata.json"), []byte("{}"), 0o600))
	garbage, err := matchtest.Archive(other)
	must(t, err)
	must(t, os.Truncate(filepath.Join(other, "trivy.db"), 2<<20))
	large, err := matchtest.Archive(other)
	must(t, err)
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)/2] ^= 0x40
	for _, tt := range []struct {
		name, mediaType string
		layer           []byte
		forGood         bool // it is not fetched again
	}{
		{"no archive", layerType, []byte("hello"), true},
		{"empty", layerType, nil, true},
		{"cut short", layerType, good[:len(good)/2], true},
		{"without its end", layerType, good[:len(good)-4], true},
		{"a bit wrong", layerType, flipped, true},
		{"garbage within", layerType, garbage, true},
		{"too large", layerType, large, true},
		{"another thing", "application/vnd.oci.image.layer.v1.tar+gzip", good, false},
	} {
		u.publish(tt.layer, tt.mediaType)
		changed, err := d.Update(t.Context(), false)
		if changed || err == nil || findings(t, m) != 1 {
			t.Errorf("%s: changed %t, %v, %d findings", tt.name, changed, err, findings(t, m))
		}
		t.Logf("%s: %v", tt.name, err)
		if st := d.State(); st.Err == nil || !st.InUse {
			t.Errorf("%s: state %+v", tt.name, st)
		}
		before := u.fetched
		if _, err := d.Update(t.Context(), false); err == nil {
			t.Errorf("%s: the second look is well", tt.name)
		}
		if tt.forGood && u.fetched != before {
			t.Errorf("%s: it was fetched again", tt.name)
		}
		if left, err := filepath.Glob(filepath.Join(o.Dir, "db-*")); len(left) != 1 || err != nil {
			t.Errorf("%s: on disk are %v, %v", tt.name, left, err)
		}
	}
	u.publish(large, layerType)
	before := u.fetched
	for again, want := range map[bool]int{false: 0, true: 1} {
		if _, err := d.Update(t.Context(), again); err == nil {
			t.Error("what is too large was taken")
		}
		if n := u.fetched - before; n < want {
			t.Errorf("by hand %t: fetched %d times", again, n)
		}
	}
	u.publish(archive(t, matchtest.Libidn2, matchtest.Bash), layerType)
	if !update(t, d) || findings(t, m) != 2 || d.State().Err != nil {
		t.Errorf("with a good one after them: %d findings, %+v", findings(t, m), d.State())
	}
}

// What was damaged on the way is fetched again.
func TestWrongBytesAreFetchedAgain(t *testing.T) {
	rows, m, u := metatest.Open(t, "sqlite", meta.Config{}), match.New(), new(upstream)
	defer m.Close()
	d := vulndb.New(rows, m, image(u, t.TempDir()))
	good := archive(t, matchtest.Libidn2)
	u.publish(good, layerType)
	u.blobs[oci.FromBytes(good)] = good[:100]
	if _, err := d.Update(t.Context(), false); err == nil {
		t.Fatal("what is cut short was taken")
	}
	u.blobs[oci.FromBytes(good)] = good
	if changed, err := d.Update(t.Context(), false); !changed || err != nil {
		t.Errorf("the whole of it: %t, %v", changed, err)
	}
}

func TestDatabaseSurvivesARestart(t *testing.T) {
	rows, u, dir := metatest.Open(t, "sqlite", meta.Config{}), new(upstream), t.TempDir()
	u.publish(archive(t, matchtest.Libidn2), layerType)
	m := match.New()
	d := vulndb.New(rows, m, image(u, dir))
	update(t, d)
	was := d.State().Database
	must(t, m.Close())
	must(t, os.MkdirAll(filepath.Join(dir, "db-new-half"), 0o700)) // of a process that was killed
	u.err = errors.New("no network")

	run := func(want int) match.Database {
		t.Helper()
		m := match.New()
		ctx, cancel := context.WithCancel(t.Context())
		d := vulndb.New(rows, m, image(u, dir))
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		for d.State().Err == nil { // the first look fails, after the database was opened
			time.Sleep(5 * time.Millisecond)
		}
		defer func() {
			cancel()
			must(t, <-done)
		}()
		if want == 0 {
			if _, ok := m.InUse(); ok {
				t.Error("a damaged database is in use")
			}
			return match.Database{}
		}
		if n := findings(t, m); n != want {
			t.Errorf("after a restart: %d findings, want %d", n, want)
		}
		return d.State().Database
	}
	if db := run(1); db != was {
		t.Errorf("after a restart the database is %+v, was %+v", db, was)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "db-*")); len(left) != 1 || err != nil {
		t.Errorf("on disk are %v, %v", left, err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "db-*", "trivy.db"))
	must(t, err)
	// What cannot be opened now is kept: it may be whole.
	aside := filepath.Join(filepath.Dir(found[0]), "aside")
	must(t, os.Rename(found[0], aside))
	must(t, os.Symlink(found[0], found[0]))
	run(0)
	must(t, os.Rename(aside, found[0]))
	if db := run(1); db != was {
		t.Errorf("after a fault that has passed the database is %+v, was %+v", db, was)
	}
	must(t, os.Truncate(found[0], 5000))
	run(0)
	if left, err := filepath.Glob(filepath.Join(dir, "db-*")); len(left) != 0 || err != nil {
		t.Errorf("of a damaged one there are %v, %v", left, err)
	}
}

func TestDatabaseFromAFile(t *testing.T) {
	rows, m, dir := metatest.Open(t, "sqlite", meta.Config{}), match.New(), t.TempDir()
	defer m.Close()
	file := filepath.Join(dir, "db.tar.gz")
	d := vulndb.New(rows, m, vulndb.Options{Dir: filepath.Join(t.TempDir(), "new"), File: file})
	must(t, os.MkdirAll(filepath.Dir(file), 0o700))
	write := func(b []byte, at time.Time) {
		t.Helper()
		must(t, os.WriteFile(file, b, 0o600))
		must(t, os.Chtimes(file, at, at))
	}
	if _, err := d.Update(t.Context(), false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the file: %v", err)
	}
	write(archive(t, matchtest.Libidn2), made)
	if !update(t, d) || findings(t, m) != 1 {
		t.Errorf("%d findings", findings(t, m))
	}
	if update(t, d) {
		t.Error("the same file is a new database")
	}
	write([]byte("garbage"), made.Add(time.Hour))
	if _, err := d.Update(t.Context(), false); err == nil || findings(t, m) != 1 {
		t.Errorf("with garbage: %v, %d findings", err, findings(t, m))
	}
	write(archive(t, matchtest.Libidn2, matchtest.Bash), made.Add(2*time.Hour))
	if !update(t, d) || findings(t, m) != 2 {
		t.Errorf("with another file: %d findings", findings(t, m))
	}
	first := d.State().Database.ID
	// Back to the older one: it is meant to be used.
	write(archive(t, matchtest.Libidn2), made.Add(3*time.Hour))
	if !update(t, d) || findings(t, m) != 1 || d.State().Database.ID <= first {
		t.Errorf("back to the first: %d findings, database %+v", findings(t, m), d.State().Database)
	}
}

func TestUnpackedDatabaseFromAFile(t *testing.T) {
	rows, m, dir := metatest.Open(t, "sqlite", meta.Config{}), match.New(), t.TempDir()
	defer m.Close()
	must(t, matchtest.Write(dir, made, matchtest.Libidn2))
	d := vulndb.New(rows, m, vulndb.Options{Dir: t.TempDir(), File: filepath.Join(dir, "trivy.db")})
	if !update(t, d) || findings(t, m) != 1 || !d.State().Database.MadeAt.Equal(made) {
		t.Errorf("%d findings, %+v", findings(t, m), d.State())
	}
}

// Two replicas that find the same database have it by the same name.
func TestReplicasShareADatabase(t *testing.T) {
	dsn := metatest.DSN(t, "postgres")
	u := new(upstream)
	u.publish(archive(t, matchtest.Libidn2), layerType)
	var ids []int64
	for range 2 {
		rows, err := meta.Open(t.Context(), meta.Config{Driver: "postgres", DSN: dsn})
		must(t, err)
		m := match.New()
		d := vulndb.New(rows, m, image(u, t.TempDir()))
		update(t, d)
		ids = append(ids, d.State().Database.ID)
		must(t, errors.Join(m.Close(), rows.Close()))
	}
	if ids[0] != ids[1] || ids[0] == 0 {
		t.Errorf("its ids are %v", ids)
	}
}

// A source that does not answer is asked again soon, and then less and less.
func TestRunRetries(t *testing.T) {
	rows := metatest.Open(t, "sqlite", meta.Config{})
	dir := t.TempDir()
	u := new(upstream)
	u.publish(archive(t, matchtest.Libidn2), layerType)
	u.err = errors.New("no network")
	synctest.Test(t, func(t *testing.T) {
		m := match.New()
		d := vulndb.New(rows, m, image(u, dir))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		time.Sleep(15 * time.Second)
		u.mu.Lock()
		u.err = nil
		u.mu.Unlock()
		time.Sleep(20 * time.Second)
		if !d.State().InUse {
			t.Errorf("35 s after a failed look: %+v", d.State())
		}
		u.publish(archive(t, matchtest.Libidn2, matchtest.Bash), layerType)
		d.Wake()
		time.Sleep(time.Second)
		if n := findings(t, m); n != 2 {
			t.Errorf("after another replica's word: %d findings", n)
		}
		cancel()
		must(t, <-done)
	})
}

// A database on disk that could not be opened at first is used once it can be,
// though its source does not answer.
func TestDatabaseIsOpenedLater(t *testing.T) {
	rows, u, dir := metatest.Open(t, "sqlite", meta.Config{}), new(upstream), t.TempDir()
	u.publish(archive(t, matchtest.Libidn2), layerType)
	m := match.New()
	update(t, vulndb.New(rows, m, image(u, dir)))
	must(t, m.Close())
	u.err = errors.New("no network")
	found, err := filepath.Glob(filepath.Join(dir, "db-*", "trivy.db"))
	must(t, err)
	must(t, os.Rename(found[0], found[0]+".aside"))
	must(t, os.Symlink(found[0], found[0]))
	synctest.Test(t, func(t *testing.T) {
		m := match.New()
		d := vulndb.New(rows, m, image(u, dir))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		time.Sleep(5 * time.Second)
		if d.State().InUse {
			t.Error("what cannot be opened is in use")
		}
		must(t, os.Rename(found[0]+".aside", found[0]))
		time.Sleep(10 * time.Second)
		if n := findings(t, m); n != 1 {
			t.Errorf("once it can be opened: %d findings", n)
		}
		cancel()
		must(t, <-done)
	})
}

// A database that is damaged on disk while it is used is fetched again.
func TestDamagedDatabaseIsFetchedAgain(t *testing.T) {
	rows, u, m := metatest.Open(t, "sqlite", meta.Config{}), new(upstream), match.New()
	u.publish(archive(t, matchtest.Libidn2), layerType)
	o := image(u, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	d := vulndb.New(rows, m, o)
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	defer func() {
		cancel()
		must(t, <-done)
	}()
	for !d.State().InUse {
		time.Sleep(5 * time.Millisecond)
	}
	files, err := filepath.Glob(filepath.Join(o.Dir, "db-*", "trivy.db"))
	must(t, err)
	must(t, os.Truncate(files[0], 5000))
	if r, err := m.Match(t.Context(), matchtest.Debian10()); !errors.Is(err, match.ErrBroken) {
		t.Fatalf("by a damaged database: %+v, %v", r, err)
	}
	for {
		if r, err := m.Match(t.Context(), matchtest.Debian10()); err == nil {
			if len(r.Findings) != 1 {
				t.Errorf("%d findings", len(r.Findings))
			}
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// By hand it is looked for at once, also for one that was refused.
func TestLook(t *testing.T) {
	rows, u := metatest.Open(t, "sqlite", meta.Config{}), new(upstream)
	u.publish([]byte("garbage"), layerType)
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d := vulndb.New(rows, match.New(), image(u, dir))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		synctest.Wait()
		first := d.State()
		if first.Err == nil || first.Looking || first.LookedAt.IsZero() || !first.CheckedAt.IsZero() || first.From != "ghcr.io/aquasecurity/trivy-db:2" || u.fetched != 1 {
			t.Errorf("after garbage: %+v, fetched %d times", first, u.fetched)
		}
		d.Look()
		synctest.Wait()
		if u.fetched != 2 {
			t.Errorf("by hand it was fetched %d times, want one more", u.fetched-1)
		}
		d.Wake()
		synctest.Wait()
		if u.fetched != 2 {
			t.Error("and then without being asked to")
		}
		cancel()
		must(t, <-done)
	})
}
