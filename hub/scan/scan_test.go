package scan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/test/need"
)

// scanner is the program that takes breakwater-scan's place.
var scanner string

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(match.Quiet(slog.NewTextHandler(os.Stderr, nil))))
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "scan-test")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		scanner = filepath.Join(dir, "breakwater-scan")
		if out, err := exec.Command("go", "build", "-o", scanner, "./testdata/scanner").CombinedOutput(); err != nil {
			fmt.Printf("%v: %s\n", err, out)
			return 1
		}
		return m.Run()
	}())
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

const repo = "team/app"

// scene is a hub's part that scans.
type scene struct {
	t       *testing.T
	rows    *meta.Store
	images  *images
	matcher *match.Matcher
	s       *Service
	stop    func() // and wait
}

// images may be made to fail.
type images struct {
	*ocitest.Memory
	mu   sync.Mutex
	blob func(oci.Digest, *oci.Blob) (*oci.Blob, error)
}

func (i *images) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	if c := oci.CallerFrom(ctx); !c.Admin {
		return nil, oci.Errorf(oci.Denied, "%q may not", c.Name)
	}
	b, err := i.Memory.Blob(ctx, repo, d)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.blob != nil && err == nil {
		return i.blob(d, b)
	}
	return b, err
}

// newScene runs a service on a database with true advisories.
func newScene(t *testing.T, driver string, change func(*Options)) *scene {
	t.Helper()
	return sceneOn(t, metatest.Open(t, driver, meta.Config{}), &images{Memory: ocitest.NewMemory()}, match.New(), change)
}

func sceneOn(t *testing.T, rows *meta.Store, from *images, matcher *match.Matcher, change func(*Options)) *scene {
	t.Helper()
	x := &scene{t: t, rows: rows, images: from, matcher: matcher}
	must(t, rows.StartReplica(t.Context(), "http://"+t.Name(), "v1"))
	o := Options{Images: from, Dir: t.TempDir(), Program: scanner, RetryAfter: 10 * time.Millisecond, Every: -1, Timeout: time.Minute}
	if change != nil {
		change(&o)
	}
	var err error
	x.s, err = New(rows, x.matcher, o)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- x.s.Run(ctx) }()
	go func() {
		if err := rows.Listen(ctx, x.s.Told); ctx.Err() == nil {
			done <- err
			return
		}
		done <- nil
	}()
	x.stop = sync.OnceFunc(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if err := x.matcher.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(x.stop)
	return x
}

// use puts a database of some advisories to use.
func (x *scene) use(all ...matchtest.Advisory) match.Database {
	x.t.Helper()
	dir := x.t.TempDir()
	must(x.t, matchtest.Write(dir, time.Now(), all...))
	row, err := x.rows.AddDatabase(x.t.Context(), meta.ScanDatabase{Revision: dir, MadeAt: time.Now()})
	must(x.t, err)
	db := match.Database{ID: row.ID, Revision: row.Revision, MadeAt: row.MadeAt}
	must(x.t, x.matcher.Use(dir, db))
	x.s.NewDatabase()
	return db
}

// push stores an image whose layers are these texts, the last of which is what
// the scanner is to do.
func (x *scene) push(layers ...string) oci.Digest {
	x.t.Helper()
	var ids []oci.Digest
	for _, l := range layers {
		ids = append(ids, oci.FromBytes([]byte("unpacked "+l)))
	}
	return x.pushClaiming(ids, layers...)
}

func (x *scene) pushClaiming(ids []oci.Digest, layers ...string) oci.Digest {
	x.t.Helper()
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: ids}}
	text, err := json.Marshal(config)
	must(x.t, err)
	m := ocispec.Manifest{MediaType: oci.MediaTypeImage, Config: x.put(ocispec.MediaTypeImageConfig, text)}
	for _, l := range layers {
		m.Layers = append(m.Layers, x.put(ocispec.MediaTypeImageLayer, []byte(l)))
	}
	m.SchemaVersion = 2
	return x.putManifest(oci.MediaTypeImage, m)
}

func (x *scene) put(mediaType string, b []byte) oci.Descriptor {
	x.t.Helper()
	must(x.t, ocitest.PushBlob(x.t.Context(), x.images, repo, b))
	return oci.Descriptor{MediaType: mediaType, Digest: oci.FromBytes(b), Size: int64(len(b))}
}

// putManifest stores a manifest where images are, and its row.
func (x *scene) putManifest(mediaType string, m any) oci.Digest {
	x.t.Helper()
	body, err := json.Marshal(m)
	must(x.t, err)
	d := oci.FromBytes(body)
	_, err = x.images.PutManifest(x.t.Context(), repo, oci.Digested(d), mediaType, body)
	must(x.t, err)
	links, err := oci.ParseManifest(mediaType, body)
	must(x.t, err)
	if _, err := x.rows.PutProject(x.t.Context(), meta.Project{Name: "team", Kind: meta.Proxy, Source: meta.FromFile}); err != nil {
		x.t.Fatal(err)
	}
	must(x.t, x.rows.PutProxied(x.t.Context(), meta.NewManifest{Repo: repo, Digest: d, Body: body, Links: links}))
	return d
}

// index stores an index of images, for platforms in the order of these.
func (x *scene) index(platforms []ocispec.Platform, children ...oci.Digest) oci.Digest {
	x.t.Helper()
	m := ocispec.Index{MediaType: oci.MediaTypeIndex}
	m.SchemaVersion = 2
	for i, c := range children {
		found, err := x.images.Manifest(x.t.Context(), repo, oci.Digested(c))
		must(x.t, err)
		found.Platform = &platforms[i]
		m.Manifests = append(m.Manifests, found.Descriptor)
	}
	return x.putManifest(oci.MediaTypeIndex, m)
}

// wait asks for an image's scan and waits for it.
func (x *scene) wait(d oci.Digest) Facts {
	x.t.Helper()
	f, err := x.s.Wait(x.t.Context(), Image{Repo: repo, Digest: d}, time.Now().Add(time.Minute))
	must(x.t, err)
	return f
}

// one is the fact of an image that is no index.
func (x *scene) one(d oci.Digest) policy.Scan {
	x.t.Helper()
	f := x.wait(d)
	if len(f.Scans) != 1 {
		x.t.Fatalf("facts %+v, want one", f)
	}
	return f.Scans[0]
}

func (x *scene) job(d oci.Digest) meta.Scan {
	x.t.Helper()
	job, err := x.rows.Scan(x.t.Context(), d)
	must(x.t, err)
	return job
}

// until waits for something that comes of itself.
func until(t *testing.T, what string, fn func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !fn(); {
		if time.Now().After(end) {
			t.Fatalf("after a minute: not %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestScan(t *testing.T) {
	metatest.Each(t, func(t *testing.T, driver string) {
		x := newScene(t, driver, nil)
		db := x.use(matchtest.Libidn2, matchtest.Bash, matchtest.Undescribed)
		d := x.push("base", "well")
		f := x.wait(d)
		if f.Kind != policy.KindImage || len(f.Scans) != 1 || !f.Settled() {
			t.Fatalf("facts %+v", f)
		}
		got := f.Scans[0]
		if got.State != policy.ScanDone || got.Digest != d || got.DBRevision != db.Revision || got.At.IsZero() || got.DBTime.IsZero() || len(got.Vulns) != 3 {
			t.Fatalf("fact %+v", got)
		}
		v := got.Vulns[0]
		if v.ID != "CVE-2019-18224" || v.Package != "libidn2-0" || v.Installed != "2.0.5-1" || v.Fixed != "2.0.5-1+deb10u1" ||
			v.Severity != policy.Critical || v.Severities["redhat"] != policy.Medium || v.FirstSeen.IsZero() || v.Published.Year() != 2019 {
			t.Errorf("the worst of it: %+v", v)
		}
		if got.Vulns[2].Severity != policy.Unknown {
			t.Errorf("what nobody has said is %s", got.Vulns[2].Severity)
		}
		job := x.job(d)
		if job.State != meta.ScanDone || job.Attempts != 1 || job.Holder != "" || job.Cause != meta.ScanPull {
			t.Errorf("job %+v", job)
		}
		reports, err := x.s.Reports(t.Context(), Image{Repo: repo, Digest: d})
		if err != nil || len(reports) != 1 || len(reports[0].Findings) != 3 || reports[0].ScanResult.Findings.Counts != (meta.Severities{Critical: 1, Low: 1, Unknown: 1}) ||
			reports[0].Packages != 2 || reports[0].Scanner != "test v1" {
			t.Errorf("reports %+v, %v", reports, err)
		}
		st, err := x.s.State(t.Context())
		if err != nil || st.Program != scanner || st.Scanner != "test v1" || st.Jobs[meta.ScanDone] != 1 || st.Matched != 1 || st.Inventories != 1 || st.Database != db {
			t.Errorf("state %+v, %v", st, err)
		}
		if left, err := filepath.Glob(filepath.Join(x.s.o.Dir, "*")); len(left) > 0 || err != nil {
			t.Errorf("left on disk: %v, %v", left, err)
		}
	})
}

// Whatever the scanner does, the job ends, with a reason.
func TestHowScansEnd(t *testing.T) {
	x := newScene(t, "sqlite", func(o *Options) {
		o.Workers, o.Timeout, o.MemoryBytes, o.DiskBytes = 3, 5*time.Second, 64<<20, 16<<20
	})
	x.use(matchtest.Libidn2)
	dir := t.TempDir()
	type want struct {
		state    policy.ScanState
		reason   string // of the job
		attempts int
	}
	all := map[string]want{
		"well":               {policy.ScanDone, "", 1},
		"failed unscannable": {policy.ScanUnscannable, "unscannable", 1},
		"failed too-large":   {policy.ScanError, "too-large", 1},
		"failed corrupt":     {policy.ScanError, "corrupt", 1},
		"failed internal":    {policy.ScanError, "internal", 4},
		"failed timeout":     {policy.ScanError, "timeout", 2},
		"failed nonsense":    {policy.ScanError, "crashed", 4},
		"silent":             {policy.ScanError, "crashed", 4},
		"crash":              {policy.ScanError, "crashed", 4},
		"killed":             {policy.ScanError, "killed", 2},
		"greedy":             {policy.ScanError, "memory", 2},
		"disk":               {policy.ScanError, "too-large", 1},
		"hang":               {policy.ScanError, "timeout", 2},
		"times 1 " + sub(t, dir, "a") + " killed":          {policy.ScanDone, "", 2},
		"times 1 " + sub(t, dir, "b") + " greedy":          {policy.ScanDone, "", 2},
		"times 1 " + sub(t, dir, "c") + " hang":            {policy.ScanDone, "", 2},
		"times 3 " + sub(t, dir, "d") + " crash":           {policy.ScanDone, "", 4},
		"times 2 " + sub(t, dir, "e") + " failed internal": {policy.ScanDone, "", 3},
		"many":                      {policy.ScanDone, "", 1},
		"child " + sub(t, dir, "f"): {policy.ScanDone, "", 1},
		"deputy":                    {policy.ScanError, "crashed", 4},
		"spy /blobs/" + oci.FromBytes([]byte("other")).String(): {policy.ScanError, "internal", 4},
	}
	digests := make(map[string]oci.Digest)
	for what := range all {
		digests[what] = x.push("base", what)
		must(t, x.s.Request(t.Context(), Image{Repo: repo, Digest: digests[what]}, meta.ScanPush))
	}
	until(t, "all ended", func() bool {
		counts, err := x.rows.ScanCounts(t.Context())
		must(t, err)
		return counts[meta.ScanDone]+counts[meta.ScanFailed] == int64(len(all))
	})
	for what, w := range all {
		job := x.job(digests[what])
		f, err := x.s.Facts(t.Context(), Image{Repo: repo, Digest: digests[what]})
		must(t, err)
		got := want{f.Scans[0].State, job.Reason, job.Attempts}
		if got != w || (w.reason != "") != (job.Message != "") || job.Holder != "" {
			t.Errorf("%q: %+v, want %+v; job %+v", what, got, w, job)
		}
		if w.state == policy.ScanError && !strings.HasPrefix(f.Scans[0].Reason, w.reason+": ") {
			t.Errorf("%q: the fact's reason is %q", what, f.Scans[0].Reason)
		}
	}
	if job := x.job(digests["crash"]); !strings.Contains(job.Message, "something went wrong") {
		t.Errorf("what the program said at its end is not told: %q", job.Message)
	}
	pid, err := os.ReadFile(filepath.Join(dir, "f", "pid"))
	must(t, err)
	until(t, "what a scanner left behind is gone", func() bool {
		status, err := os.ReadFile("/proc/" + string(pid) + "/status")
		return err != nil || strings.Contains(string(status), "State:\tZ")
	})
	if left, err := filepath.Glob(filepath.Join(x.s.o.Dir, "*")); len(left) > 0 || err != nil {
		t.Errorf("left on disk: %v, %v", left, err)
	}
}

func sub(t *testing.T, dir, name string) string {
	t.Helper()
	dir = filepath.Join(dir, name)
	must(t, os.Mkdir(dir, 0o700))
	return dir
}

// A scanner that is taken over by the image it reads learns nothing of others',
// and changes nothing of theirs.
func TestScannerIsConfined(t *testing.T) {
	t.Setenv("BREAKWATER_ADMIN_PASSWORD", "hunter2")
	x := newScene(t, "sqlite", func(o *Options) { o.MaxAttempts = 1 })
	x.put("", []byte("other"))
	other := oci.FromBytes([]byte("other"))
	key := "sha256:" + strings.Repeat("a", 64)
	d := x.push("base", fmt.Sprintf("spy /blobs/%s /blobs/%s /analysis/%s/%s /analysis/x/y", other, "x", other, key))
	x.one(d)
	job := x.job(d)
	if want := "404 404 404 400 405 405 404 400 "; !strings.HasPrefix(job.Message, want) {
		t.Errorf("it got %q, want %q", job.Message, want)
	}
	if strings.Contains(job.Message, "hunter2") || !strings.Contains(job.Message, "TMPDIR="+x.s.o.Dir) {
		t.Errorf("its environment: %s", job.Message)
	}
}

// Nor does it change what is known of a layer that its image shares with others.
func TestAnalysesAreNotReplaced(t *testing.T) {
	x := newScene(t, "sqlite", nil)
	x.use(matchtest.Libidn2)
	x.one(x.push("base", "well"))
	d := x.push("base", "replace")
	x.one(d)
	if job := x.job(d); job.Message != "409 409" {
		t.Errorf("it was told %q", job.Message)
	}
	if f := x.one(x.push("base", "well ")); f.State != policy.ScanDone {
		t.Errorf("the next image with that layer: %+v", f)
	}
}

// A hub that is root has scanners run as another.
func TestUser(t *testing.T) {
	need.Root(t)
	dir, err := os.MkdirTemp("", "scan-user") //nolint:usetesting // t.TempDir is in a folder that is closed to others
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o711))
	must(t, os.Chmod(filepath.Dir(scanner), 0o755))
	x := newScene(t, "sqlite", func(o *Options) { o.Dir, o.User = filepath.Join(dir, "jobs"), "65534:65533" })
	d := x.push("base", "who")
	x.one(d)
	if job := x.job(d); job.Message != "65534 65533 false" {
		t.Errorf("job %+v", job)
	}
	t.Run("give", func(t *testing.T) { giveInOrder(t, x.s.as) })
	if err := x.s.as.reaches(t.TempDir()); err == nil { // which is closed to others
		t.Error("it can be reached through a closed folder")
	}
}

// What is within a folder is given before the folder, and not what a link leads
// to: from then on the account may have put it there.
func giveInOrder(t *testing.T, as *account) {
	t.Helper()
	owner := func(path string) int {
		fi, err := os.Stat(path)
		must(t, err)
		return int(fi.Sys().(*syscall.Stat_t).Uid)
	}
	tmp, sockets, ours := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "ours")
	socket := filepath.Join(sockets, "hub.sock")
	if err := as.give(tmp, sockets, socket, ""); err == nil || owner(tmp) != 0 || owner(sockets) != 0 {
		t.Errorf("without a socket: %v, the folders are %d's and %d's", err, owner(tmp), owner(sockets))
	}
	must(t, os.WriteFile(ours, nil, 0o600))
	must(t, os.Symlink(ours, socket))
	if err := as.give(tmp, sockets, socket, ""); err != nil || owner(ours) != 0 {
		t.Errorf("with a link in the socket's place: %v, what it leads to is %d's", err, owner(ours))
	}
	if owner(tmp) != int(as.uid) || owner(sockets) != int(as.uid) {
		t.Errorf("the folders are %d's and %d's", owner(tmp), owner(sockets))
	}
}

// What the storage does wrong is not the image's fault, whatever the scanner
// makes of it.
func TestStorageFails(t *testing.T) {
	x := newScene(t, "sqlite", nil)
	x.use(matchtest.Libidn2)
	d := x.push("base", "well")
	var mu sync.Mutex
	n := 0
	x.images.blob = func(_ oci.Digest, b *oci.Blob) (*oci.Blob, error) {
		mu.Lock()
		defer mu.Unlock()
		switch n++; n {
		case 1: // of the config
			return nil, errors.New("no answer")
		case 3: // of a layer
			return nil, errors.New("no answer")
		case 5:
			b.Content = short{b.Content}
		}
		return b, nil
	}
	if f := x.one(d); f.State != policy.ScanDone {
		t.Errorf("fact %+v", f)
	}
	if job := x.job(d); job.Attempts != 4 {
		t.Errorf("job %+v after %d blobs", job, n)
	}
}

// A scanner that was killed while it read a layer is no fault of the storage.
func TestKilledWhileReading(t *testing.T) {
	x := newScene(t, "sqlite", func(o *Options) { o.MaxAttempts = 1 })
	x.use(matchtest.Libidn2)
	dir := t.TempDir()
	base := oci.FromBytes([]byte("base"))
	x.images.blob = func(d oci.Digest, b *oci.Blob) (*oci.Blob, error) {
		if d == base {
			b.Content = slow{b.Content, filepath.Join(dir, "asked")}
		}
		return b, nil
	}
	d := x.push("base", "reading "+dir)
	x.one(d)
	if job := x.job(d); job.State != meta.ScanFailed || job.Reason != reasonKilled {
		t.Errorf("job %+v", job)
	}
}

// slow is content of a storage that answers who has not gone.
type slow struct {
	oci.Content
	asked string // a file
}

func (s slow) Section(ctx context.Context, _, _ int64) (io.ReadCloser, error) {
	if err := os.WriteFile(s.asked, nil, 0o600); err != nil {
		return nil, err
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// short is content that ends before its end.
type short struct{ oci.Content }

func (s short) Section(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	return s.Content.Section(ctx, off, n/2)
}

func TestImageThatIsGone(t *testing.T) {
	x := newScene(t, "sqlite", nil)
	d := x.push("base", "well")
	must(t, x.images.DeleteManifest(t.Context(), repo, oci.Digested(d)))
	_, err := x.rows.QueueScan(t.Context(), meta.NewScan{Repo: repo, Digest: d, Cause: meta.ScanPush})
	must(t, err)
	until(t, "failed", func() bool { return x.job(d).State == meta.ScanFailed })
	if job := x.job(d); job.Reason != reasonGone || job.Attempts != 1 {
		t.Errorf("job %+v", job)
	}
}

// Layers are looked at once; what an image claims of other bytes is its own.
func TestAnalysesAreShared(t *testing.T) {
	x := newScene(t, "sqlite", func(o *Options) { o.MaxAttempts = 1 })
	x.use(matchtest.Libidn2)
	kept := func() []meta.Analysis {
		id := oci.FromBytes([]byte("unpacked base"))
		all, err := x.rows.Analyses(t.Context(), []string{"sha256:00000000" + id.Encoded()[8:]})
		must(t, err)
		return all
	}
	base := oci.FromBytes([]byte("unpacked base"))
	// First somebody says that an empty layer is what the base is.
	liar := x.pushClaiming([]oci.Digest{base, oci.FromBytes([]byte("2"))}, "empty", "well")
	if f := x.one(liar); f.State != policy.ScanDone || len(kept()) != 1 {
		t.Fatalf("fact %+v, %d analyses", f, len(kept()))
	}
	// Then the base itself comes, beside that empty layer.
	honest := x.push("base", "empty", "well")
	if f := x.one(honest); f.State != policy.ScanDone {
		t.Fatalf("fact %+v", f)
	}
	all := kept()
	if len(all) != 2 {
		t.Fatalf("analyses %+v: what the liar said counts for the base", all)
	}
	// And a third image with it.
	x.one(x.push("base", "well well"))
	if n := len(kept()); n != 2 {
		t.Errorf("%d analyses", n)
	}
}

func TestStop(t *testing.T) {
	metatest.Each(t, func(t *testing.T, driver string) {
		x := newScene(t, driver, nil)
		dir := t.TempDir()
		d := x.push("base", "slow "+dir)
		img := Image{Repo: repo, Digest: d}
		must(t, x.s.Request(t.Context(), img, meta.ScanHand))
		until(t, "begun", func() bool { return exists(filepath.Join(dir, "begun")) })
		next := x.push("base", "well")
		must(t, x.s.Request(t.Context(), Image{Repo: repo, Digest: next}, meta.ScanSchedule))
		if n, err := x.s.Stop(t.Context(), img); n != 1 || err != nil {
			t.Errorf("Stop = %d, %v", n, err)
		}
		if job := x.job(d); job.State != meta.ScanFailed || job.Reason != reasonStopped {
			t.Errorf("job %+v", job)
		}
		// Its worker is free: the next one's turn has come.
		until(t, "the next scan is done", func() bool { return x.job(next).State == meta.ScanDone })
		if n, err := x.s.Stop(t.Context(), img); n != 0 || err != nil {
			t.Errorf("Stop of one that has ended = %d, %v", n, err)
		}
		// A person who asks for it gets it, a pull does not.
		if f := x.one(d); f.State != policy.ScanError {
			t.Errorf("asked for by a pull it is %+v", f)
		}
		must(t, os.WriteFile(filepath.Join(dir, "go"), nil, 0o600))
		must(t, x.s.Request(t.Context(), img, meta.ScanHand))
		until(t, "done", func() bool { return x.job(d).State == meta.ScanDone })
	})
}

// A scan that was stopped, and is slow to end, has no part in the one that is
// asked for next.
func TestAgainBeforeTheEnd(t *testing.T) {
	x := newScene(t, "sqlite", func(o *Options) { o.Workers = 2 })
	x.use(matchtest.Libidn2)
	dir, asked, release := t.TempDir(), make(chan struct{}), make(chan struct{})
	d := x.push("base", "slow "+dir)
	img := Image{Repo: repo, Digest: d}
	first := true
	x.images.blob = func(_ oci.Digest, b *oci.Blob) (*oci.Blob, error) {
		if first {
			first, b.Content = false, stuck{b.Content, asked, release}
		}
		return b, nil
	}
	must(t, x.s.Request(t.Context(), img, meta.ScanHand))
	<-asked
	if n, err := x.s.Stop(t.Context(), img); n != 1 || err != nil {
		t.Fatalf("Stop = %d, %v", n, err)
	}
	must(t, x.s.Request(t.Context(), img, meta.ScanHand))
	until(t, "begun again", func() bool { return exists(filepath.Join(dir, "begun")) })
	close(release)
	until(t, "the first one has ended", func() bool { return len(x.s.mine()) == 1 })
	must(t, os.WriteFile(filepath.Join(dir, "go"), nil, 0o600))
	until(t, "done", func() bool { return x.job(d).State == meta.ScanDone })
	if job := x.job(d); job.Run != 2 || job.Attempts != 1 {
		t.Errorf("job %+v", job)
	}
}

// stuck is content of a storage that does not heed who has gone.
type stuck struct {
	oci.Content
	asked, release chan struct{}
}

func (s stuck) Section(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	close(s.asked)
	<-s.release
	return s.Content.Section(ctx, off, n)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// A hub that stops gives back what it was at, and it counts for nothing.
func TestShutdownGivesBack(t *testing.T) {
	x := newScene(t, "sqlite", nil)
	dir := t.TempDir()
	d := x.push("base", "slow "+dir)
	must(t, x.s.Request(t.Context(), Image{Repo: repo, Digest: d}, meta.ScanPush))
	until(t, "begun", func() bool { return exists(filepath.Join(dir, "begun")) })
	x.stop()
	if job := x.job(d); job.State != meta.ScanQueued || job.Attempts != 0 || job.Reason != "" {
		t.Errorf("job %+v", job)
	}
	if left, err := filepath.Glob(filepath.Join(x.s.o.Dir, "*")); len(left) > 0 || err != nil {
		t.Errorf("left on disk: %v, %v", left, err)
	}
}

// What a dead hub was at is done by another.
func TestTakeover(t *testing.T) {
	dsn := metatest.DSN(t, "postgres")
	open := func() *meta.Store {
		s, err := meta.Open(t.Context(), meta.Config{Driver: "postgres", DSN: dsn})
		must(t, err)
		t.Cleanup(func() { _ = s.Close() }) // the dead one was closed before
		return s
	}
	dead := open()
	must(t, dead.StartReplica(t.Context(), "http://dead", "v1"))
	x := sceneOn(t, open(), &images{Memory: ocitest.NewMemory()}, match.New(), func(o *Options) { o.Workers = -1 })
	x.use(matchtest.Libidn2)
	d := x.push("base", "well")
	must(t, x.s.Request(t.Context(), Image{Repo: repo, Digest: d}, meta.ScanPush))
	job, err := dead.ClaimScan(t.Context())
	must(t, err)
	must(t, dead.Close()) // which its heart does not survive

	sceneOn(t, open(), x.images, x.matcher, nil) // one database is in use in a process
	f := x.one(d)                                // as told by the hub that has no workers
	if f.State != policy.ScanDone {
		t.Errorf("fact %+v", f)
	}
	if again := x.job(d); again.Run != job.Run+1 || again.Attempts != 2 || again.State != meta.ScanDone {
		t.Errorf("job %+v", again)
	}
}

func TestProgramComesLater(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "breakwater-scan")
	x := newScene(t, "sqlite", func(o *Options) { o.Program = program })
	x.use(matchtest.Libidn2)
	d := x.push("base", "well")
	f, err := x.s.Wait(t.Context(), Image{Repo: repo, Digest: d}, time.Now().Add(50*time.Millisecond))
	if err != nil || f.Scans[0].State != policy.ScanPending || f.Scans[0].Since.IsZero() || f.Settled() {
		t.Errorf("without a scanner: %+v, %v", f, err)
	}
	if st, err := x.s.State(t.Context()); err != nil || st.Program != "" || st.Jobs[meta.ScanQueued] != 1 {
		t.Errorf("state %+v, %v", st, err)
	}
	must(t, os.Link(scanner, program))
	if f := x.one(d); f.State != policy.ScanDone {
		t.Errorf("with one: %+v", f)
	}
}

// All who wait for one image are told by one look at it.
func TestHerdWaits(t *testing.T) {
	x := newScene(t, "sqlite", nil)
	x.use(matchtest.Libidn2)
	dir := t.TempDir()
	d := x.push("base", "slow "+dir)
	const herd = 20
	type told struct {
		Facts
		err error
	}
	got := make(chan told, herd)
	for range herd {
		go func() {
			f, err := x.s.Wait(t.Context(), Image{Repo: repo, Digest: d}, time.Now().Add(time.Minute))
			got <- told{f, err}
		}()
	}
	waiting := func() (watches, waiters int) {
		x.s.mu.Lock()
		defer x.s.mu.Unlock()
		for _, w := range x.s.watches {
			watches, waiters = watches+1, waiters+w.waiters
		}
		return watches, waiters
	}
	until(t, "all wait", func() bool { _, n := waiting(); return n == herd })
	if n, _ := waiting(); n != 1 {
		t.Errorf("%d look at the scan", n)
	}
	must(t, os.WriteFile(filepath.Join(dir, "go"), nil, 0o600))
	for range herd {
		if f := <-got; f.err != nil || f.Kind != policy.KindImage || len(f.Scans) != 1 || f.Scans[0].State != policy.ScanDone || len(f.Scans[0].Vulns) != 1 {
			t.Errorf("one was told %+v", f)
		}
	}
	until(t, "nobody waits", func() bool { n, _ := waiting(); return n == 0 })
}

func TestWaitWithoutADatabase(t *testing.T) {
	x := newScene(t, "sqlite", nil)
	d := x.push("base", "well")
	must(t, x.s.Request(t.Context(), Image{Repo: repo, Digest: d}, meta.ScanPush))
	until(t, "done", func() bool { return x.job(d).State == meta.ScanDone })
	if f, err := x.s.Facts(t.Context(), Image{Repo: repo, Digest: d}); err != nil || f.Scans[0].State != policy.ScanPending || f.Scans[0].Reason != policy.NoDatabase {
		t.Errorf("scanned, but not matched: %+v, %v", f, err)
	}
	x.use(matchtest.Libidn2)
	if f := x.one(d); f.State != policy.ScanDone || len(f.Vulns) != 1 {
		t.Errorf("fact %+v", f)
	}
}

func TestIndex(t *testing.T) {
	x := newScene(t, "sqlite", func(o *Options) { o.Platforms = []string{"linux/amd64", "linux/arm64"} })
	x.use(matchtest.Libidn2)
	amd, arm, s390, attestation := x.push("base", "well"), x.push("base", "failed unscannable"), x.push("base", "crash"), x.push("base", "hang")
	platforms := []ocispec.Platform{
		{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64", Variant: "v8"},
		{OS: "linux", Architecture: "s390x"}, {OS: "unknown", Architecture: "unknown"},
	}
	d := x.index(platforms, amd, arm, s390, attestation)
	f := x.wait(d)
	if f.Kind != policy.KindIndex || len(f.Children) != 3 || len(f.Scans) != 2 {
		t.Fatalf("facts %+v", f)
	}
	if got := f.Scans[0]; got.Platform != "linux/amd64" || got.State != policy.ScanDone || got.Digest != amd {
		t.Errorf("of amd64: %+v", got)
	}
	if got := f.Scans[1]; got.Platform != "linux/arm64/v8" || got.State != policy.ScanUnscannable || got.Reason != "so it says" {
		t.Errorf("of arm64: %+v", got)
	}
	// Who asks for another platform is told of that.
	f, err := x.s.Facts(t.Context(), Image{Repo: repo, Digest: d, Platforms: []string{"linux/s390x"}})
	if err != nil || len(f.Scans) != 1 || f.Scans[0].Digest != s390 || f.Scans[0].State != policy.ScanNone {
		t.Errorf("of s390x: %+v, %v", f, err)
	}
	if _, err := x.rows.Scan(t.Context(), attestation); !errors.Is(err, meta.ErrNotFound) {
		t.Errorf("an attestation is scanned: %v", err)
	}
	// An index in an index.
	outer := x.index([]ocispec.Platform{{}}, d)
	if f, err := x.s.Facts(t.Context(), Image{Repo: repo, Digest: outer}); err != nil || len(f.Scans) != 2 {
		t.Errorf("of an index in an index: %+v, %v", f, err)
	}
}

func TestWhatCannotRun(t *testing.T) {
	x := newScene(t, "sqlite", nil)
	chart := ocispec.Manifest{MediaType: oci.MediaTypeImage, Config: x.put("application/vnd.cncf.helm.config.v1+json", []byte("{}"))}
	chart.SchemaVersion = 2
	f := x.wait(x.putManifest(oci.MediaTypeImage, chart))
	if f.Kind != policy.KindOther || len(f.Scans) > 0 {
		t.Errorf("facts of a chart: %+v", f)
	}
}

// A new database judges every image anew, without a look at it, and nothing of
// it is done twice.
func TestRematch(t *testing.T) {
	metatest.Each(t, func(t *testing.T, driver string) {
		x := newScene(t, driver, func(o *Options) { o.Workers = 2 })
		x.use(matchtest.Libidn2)
		const n = 60
		var all []oci.Digest
		for i := range n {
			d := x.push("base", fmt.Sprintf("well %d", i))
			all = append(all, d)
			must(t, x.s.Request(t.Context(), Image{Repo: repo, Digest: d}, meta.ScanPush))
		}
		until(t, "all scanned", func() bool {
			counts, err := x.rows.ScanCounts(t.Context())
			must(t, err)
			return counts[meta.ScanDone] == n
		})
		before := x.one(all[0])
		x.images.mu.Lock()
		x.images.blob = func(d oci.Digest, _ *oci.Blob) (*oci.Blob, error) {
			t.Errorf("a layer was read: %s", d)
			return nil, errors.New("no")
		}
		x.images.mu.Unlock()
		db := x.use(matchtest.Libidn2, matchtest.Bash)
		until(t, "all matched", func() bool {
			st, err := x.s.State(t.Context())
			must(t, err)
			return st.Matched == n && st.Inventories == n && st.Database == db
		})
		for _, d := range all {
			f := x.one(d)
			if f.State != policy.ScanDone || len(f.Vulns) != 2 || f.DBRevision != db.Revision {
				t.Fatalf("fact %+v", f)
			}
		}
		if f := x.one(all[0]); !f.Vulns[0].FirstSeen.Equal(before.Vulns[0].FirstSeen) {
			t.Errorf("it was first seen at %v, and now at %v", before.Vulns[0].FirstSeen, f.Vulns[0].FirstSeen)
		}
	})
}

// An inventory that is none of a real image is no reason not to match others.
func TestUnmatchable(t *testing.T) {
	x := newScene(t, "sqlite", nil)
	var many []matchtest.Advisory
	for i := range 20 {
		a := matchtest.Libidn2
		a.ID = fmt.Sprintf("CVE-2019-%d", 20000+i)
		many = append(many, a)
	}
	x.use(many...)
	if f := x.one(x.push("base", "many")); f.State != policy.ScanError || !strings.Contains(f.Reason, "30000") {
		t.Errorf("of one with too many: %s, %q", f.State, f.Reason)
	}
	if f := x.one(x.push("base", "well")); f.State != policy.ScanDone || len(f.Vulns) != 20 {
		t.Errorf("of another: %+v", f)
	}
}

// What is stored of an image and cannot be read is found out anew, and keeps no
// other from being matched.
func TestDamagedInventory(t *testing.T) {
	program := filepath.Join(t.TempDir(), "breakwater-scan")
	x := newScene(t, "sqlite", func(o *Options) { o.Program = program })
	damaged, other := x.push("base", "well"), x.push("base", "well again")
	for d, body := range map[oci.Digest][]byte{damaged: []byte("no zstd"), other: x.s.pack.bytes(matchtest.JSON(matchtest.Debian10()))} {
		until(t, "stored", func() bool { // unless it is taken for lost meanwhile
			_, err := x.rows.QueueScan(t.Context(), meta.NewScan{Repo: repo, Digest: d, Cause: meta.ScanHand, Again: true})
			must(t, err)
			job, err := x.rows.ClaimScan(t.Context())
			if err == nil && job.Digest == d {
				err = x.rows.SaveInventory(t.Context(), job, meta.Inventory{Body: body}, meta.Findings{})
				job.State = meta.ScanDone
				return err == nil && x.rows.EndScan(t.Context(), job) == nil
			}
			return false
		})
	}
	x.use(matchtest.Bash, matchtest.Libidn2)
	until(t, "the other is matched", func() bool { return len(x.one(other).Vulns) == 2 })
	if job := x.job(damaged); job.State != meta.ScanQueued {
		t.Errorf("the job of the damaged one: %+v", job)
	}
	must(t, os.Link(scanner, program))
	if f := x.one(damaged); f.State != policy.ScanDone || len(f.Vulns) != 2 {
		t.Errorf("scanned again: %+v", f)
	}
}

func TestPass(t *testing.T) {
	x := newScene(t, "sqlite", func(o *Options) { o.Every = time.Hour })
	x.use(matchtest.Libidn2)
	// The first pass begins with Run, perhaps before the image.
	d := x.push("base", "well")
	m, err := x.rows.StatManifest(t.Context(), repo, d)
	must(t, err)
	x.rows.Pulled(m.RepoID, m.ID)
	must(t, x.rows.Flush(t.Context()))
	if _, err := x.s.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "done", func() bool {
		job, err := x.rows.Scan(t.Context(), d)
		return err == nil && job.State == meta.ScanDone && job.Cause == meta.ScanSchedule
	})
	until(t, "noted", func() bool {
		_, err := x.rows.Fact(t.Context(), passFact)
		return err == nil
	})
}

// published is what was put beside images.
type published struct {
	mu         sync.Mutex
	documents  map[string]int
	statements []policy.ScanStatement
	fail       int
	full       string // a repository that takes no statement
}

func (p *published) Document(_ context.Context, in string, image oci.Descriptor, mediaType string, body []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail > 0 {
		p.fail--
		return errors.New("the storage is full")
	}
	if in != repo || image.MediaType != oci.MediaTypeImage || !json.Valid(body) {
		return fmt.Errorf("document of %s, %+v: %s", in, image, body)
	}
	p.documents[mediaType]++
	return nil
}

func (p *published) Statement(_ context.Context, in string, image oci.Descriptor, predicateType string, predicate json.RawMessage) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if in == p.full {
		return oci.Errorf(oci.SizeInvalid, "its quota is used up")
	}
	var st policy.ScanStatement
	if err := json.Unmarshal(predicate, &st); err != nil || predicateType != policy.ScanStatementType || st.Scan.Digest != image.Digest {
		return fmt.Errorf("statement %s: %s, %w", predicateType, predicate, err)
	}
	p.statements = append(p.statements, st)
	return oci.Errorf(oci.Unsupported, "a proxy's repository") // is no failure
}

func TestPublish(t *testing.T) {
	p := &published{documents: make(map[string]int), fail: 1}
	x := newScene(t, "sqlite", func(o *Options) { o.Publisher, o.SBOM = p, true })
	stated := func() []policy.ScanStatement {
		p.mu.Lock()
		defer p.mu.Unlock()
		return append([]policy.ScanStatement(nil), p.statements...)
	}
	x.use(matchtest.Libidn2)
	d := x.push("base", "well")
	x.one(d)
	until(t, "stated", func() bool { return len(stated()) == 1 })
	until(t, "done", func() bool { return x.job(d).State == meta.ScanDone })
	if job := x.job(d); job.Attempts != 2 { // the first could not attach its documents
		t.Errorf("job %+v", job)
	}
	if p.documents[TypeSPDX] != 1 || p.documents[TypeCycloneDX] != 1 {
		t.Errorf("documents %v", p.documents)
	}
	st := stated()[0]
	if st.Scan.State != policy.ScanDone || len(st.Scan.Vulns) != 1 || st.Counts.Critical != 1 || st.Until.Before(time.Now().Add(time.Hour)) ||
		st.Scan.Vulns[0].Fixed == "" || st.Scan.Vulns[0].Severities != nil {
		t.Errorf("statement %+v", st)
	}
	// The same verdict of a newer database is nothing new.
	x.use(matchtest.Libidn2)
	x.use(matchtest.Libidn2, matchtest.Bash)
	until(t, "stated again", func() bool { return len(stated()) == 2 })
	if st := stated()[1]; st.Counts.Low != 1 || st.Counts.Critical != 1 {
		t.Errorf("statement %+v", st)
	}
}

// A repository that takes nothing more does not keep a statement from others.
func TestPublishToTheOthers(t *testing.T) {
	p := &published{documents: make(map[string]int), full: repo}
	x := newScene(t, "sqlite", func(o *Options) { o.Publisher = p })
	x.use(matchtest.Libidn2)
	d := x.push("base", "well")
	m, err := x.images.Manifest(t.Context(), repo, oci.Digested(d))
	must(t, err)
	links, err := oci.ParseManifest(m.MediaType, m.Bytes)
	must(t, err)
	for _, l := range links.Blobs {
		_, err := x.images.Mount(t.Context(), "team/other", repo, l.Digest)
		must(t, err)
	}
	_, err = x.images.PutManifest(t.Context(), "team/other", oci.Digested(d), m.MediaType, m.Bytes)
	must(t, err)
	must(t, x.rows.PutProxied(t.Context(), meta.NewManifest{Repo: "team/other", Digest: d, Body: m.Bytes, Links: links}))
	x.one(d)
	until(t, "stated in the other", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.statements) > 0
	})
	if err := x.s.publish(asService(t.Context()), d); err == nil || !strings.Contains(err.Error(), repo+": ") {
		t.Errorf("publish = %v", err)
	}
}
