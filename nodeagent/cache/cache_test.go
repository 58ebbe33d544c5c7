package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// clock is a time that only tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// plenty is a file system that never fills.
func plenty(string) (uint64, error) { return math.MaxInt64, nil }

const testMax = 64 << 20

// open opens a cache for one test; what o leaves open is chosen for it.
func open(t testing.TB, o Options) *Cache {
	t.Helper()
	c, err := tryOpen(t, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func tryOpen(t testing.TB, o Options) (*Cache, error) {
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = testMax
	}
	if o.Statfs == nil {
		o.Statfs = plenty
	}
	return Open(context.Background(), o)
}

// blobBytes are n bytes that seed alone determines.
func blobBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	copy(key[:], fmt.Sprint(seed))
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

func fill(c *Cache, b []byte) (oci.Digest, error) {
	d := oci.FromBytes(b)
	p, err := c.Begin(context.Background(), d, int64(len(b)))
	if err != nil {
		return d, err
	}
	_, werr := p.File().WriteAt(b, 0)
	return d, errors.Join(werr, p.Commit(context.Background()), p.Close(false))
}

func put(t testing.TB, c *Cache, b []byte) oci.Digest {
	t.Helper()
	d, err := fill(c, b)
	if err != nil {
		t.Fatalf("put %s: %v", d, err)
	}
	return d
}

// get reads a blob whole; nil when it is not held.
func get(t testing.TB, c *Cache, d oci.Digest) []byte {
	t.Helper()
	b, err := c.Open(context.Background(), d)
	if err != nil {
		if oci.CodeOf(err) != oci.BlobUnknown {
			t.Fatalf("Open(%s) = %v, want a blob or BLOB_UNKNOWN", d, err)
		}
		return nil
	}
	defer b.Close()
	return readBlob(t, b)
}

func readBlob(t testing.TB, b *oci.Blob) []byte {
	t.Helper()
	r, err := b.Section(context.Background(), 0, b.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// held says what is there without using it.
func held(c *Cache, ds ...oci.Digest) (s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, d := range ds {
		if c.objects.Contains(d) {
			s += string(rune('a' + i))
		}
	}
	return s
}

// diskBytes is what all files below dir really take.
func diskBytes(t testing.TB, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // evicted while we walk
			}
			return err
		}
		if e.IsDir() {
			return nil
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		n += allocatedBytes(info)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// files are the regular files below dir.
func files(t testing.TB, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// audit holds what is counted to what is there. doomed are bytes of deleted
// objects that are still read.
func audit(t testing.TB, c *Cache, doomed int64) {
	t.Helper()
	c.names.Lock()
	defer c.names.Unlock()
	disk := diskBytes(t, c.o.Dir)
	c.refs.log.Lock()
	own := blocks(c.refs.log.sizeBytes) + blockBytes
	c.refs.log.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	used, pinned := own+doomed, own+doomed
	for _, o := range c.objects.Values() {
		used += o.costBytes()
		if o.readers > 0 {
			pinned += o.costBytes()
		}
	}
	for _, p := range c.partials {
		used += p.costBytes
		if !p.idle() {
			pinned += p.costBytes
		}
	}
	if c.used != used || c.pinned != pinned {
		t.Fatalf("used %d pinned %d, want %d and %d by what is there", c.used, c.pinned, used, pinned)
	}
	// The log of references grows a line at a time: where the file system has put
	// it into several places, it takes a block to say which.
	if disk > c.used+blockBytes || c.used > c.o.MaxBytes {
		t.Fatalf("%d bytes on the disk, %d counted, %d allowed", disk, c.used, c.o.MaxBytes)
	}
}

func TestKeepsBlobs(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Dir: dir})
	want := map[oci.Digest][]byte{}
	for i, n := range []int{0, 1, 4096, 4097, 5<<20 + 17} {
		b := blobBytes(uint64(i), n)
		want[put(t, c, b)] = b
	}
	for range 2 {
		for d, b := range want {
			if got := get(t, c, d); got == nil || !bytes.Equal(got, b) {
				t.Errorf("blob of %d bytes came back as %d", len(b), len(got))
			}
		}
		if s := c.Stats(); s.Objects != len(want) || s.Partials != 0 {
			t.Errorf("Stats = %+v, want %d objects", s, len(want))
		}
		audit(t, c, 0)
		before := c.Stats().Bytes
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		c = open(t, Options{Dir: dir})
		if got := c.Stats().Bytes; got != before {
			t.Errorf("%d bytes after a restart, %d before", got, before)
		}
	}
}

func TestOpenSaysWhatItIs(t *testing.T) {
	c := open(t, Options{})
	want := blobBytes(1, 100_000)
	d := put(t, c, want)
	b, err := c.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if diff := cmp.Diff(oci.BlobInfo{
		Descriptor: oci.Descriptor{Digest: d, Size: 100_000},
		Answer:     oci.Answer{Source: oci.FromCache},
	}, b.BlobInfo); diff != "" {
		t.Error(diff)
	}
	var parts [3][]byte
	var wg sync.WaitGroup
	for i, off := range []int64{50_000, 0, 99_999} { // the last section has an offset of its own
		r, err := b.Section(t.Context(), off, 1)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { parts[i], _ = io.ReadAll(r); r.Close() })
	}
	wg.Wait()
	for i, off := range []int64{50_000, 0, 99_999} {
		if !bytes.Equal(parts[i], want[off:off+1]) {
			t.Errorf("section at %d = %x", off, parts[i])
		}
	}
	for _, d := range []oci.Digest{oci.FromBytes(nil), "sha256:xyz", "../../etc/passwd", ""} {
		if _, err := c.Open(t.Context(), d); oci.CodeOf(err) != oci.BlobUnknown {
			t.Errorf("Open(%q) = %v, want BLOB_UNKNOWN", d, err)
		}
	}
}

// sink is a connection: it is given a file where there is one.
type sink struct{ from io.Reader }

func (s *sink) Write([]byte) (int, error) { panic("the bytes were copied") }

func (s *sink) ReadFrom(r io.Reader) (int64, error) {
	s.from = r
	return io.Copy(io.Discard, struct{ io.Reader }{r})
}

func TestSectionsAreSentFromTheFile(t *testing.T) {
	c := open(t, Options{})
	d := put(t, c, blobBytes(1, 10_000))
	b, err := c.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for range 2 {
		r, err := b.Section(t.Context(), 10, 5000)
		if err != nil {
			t.Fatal(err)
		}
		var to sink
		n, err := io.Copy(&to, r)
		r.Close()
		if n != 5000 || err != nil {
			t.Errorf("copied %d, %v", n, err)
		}
		lr, _ := to.from.(*io.LimitedReader)
		if lr == nil {
			t.Fatalf("the connection got a %T, which sendfile cannot take", to.from)
		}
		if _, ok := lr.R.(*os.File); !ok {
			t.Errorf("the connection got a %T, which sendfile cannot take", lr.R)
		}
	}
}

func TestUnreadableObjectIsDropped(t *testing.T) {
	for _, tt := range []struct {
		name string
		harm func(path string) error
	}{
		{"gone", os.Remove},
		{"short", func(p string) error { return os.Truncate(p, 10) }},
		{"long", func(p string) error { return os.Truncate(p, 1<<20) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := open(t, Options{})
			d := put(t, c, blobBytes(1, 9000))
			if err := tt.harm(c.dataPath(d)); err != nil {
				t.Fatal(err)
			}
			if get(t, c, d) != nil {
				t.Error("it was served")
			}
			if s := c.Stats(); s.Objects != 0 {
				t.Errorf("Stats = %+v, want it dropped", s)
			}
			audit(t, c, 0)
			put(t, c, blobBytes(1, 9000))
			if get(t, c, d) == nil {
				t.Error("it was not kept again")
			}
		})
	}
}

func TestTruncatedWhileRead(t *testing.T) {
	c := open(t, Options{})
	d := put(t, c, blobBytes(1, 1<<20))
	b, err := c.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(c.dataPath(d), 1000); err != nil {
		t.Fatal(err)
	}
	r, err := b.Section(t.Context(), 0, b.Size)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r); n != 1000 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read %d, %v; want 1000 and an unexpected end", n, err)
	}
	if held(c, d) != "" {
		t.Error("it is still held")
	}
	b.Close()
	audit(t, c, 0)
}

// failing is content on a disk that fails.
type failing struct{ err error }

func (f failing) Section(context.Context, int64, int64) (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(strings.NewReader("abc"), errReader(f))), nil
}
func (failing) Close() error { return nil }

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestReadErrors(t *testing.T) {
	for _, tt := range []struct {
		err  error
		held string
		off  bool
	}{
		{mediaErrors[0], "", true},
		{&fs.PathError{Op: "read", Err: mediaErrors[0]}, "", true},
		{errors.New("the client left"), "a", false},
	} {
		c := open(t, Options{})
		d := put(t, c, blobBytes(1, 9000))
		b, err := c.Open(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		bad := b.Content.(*content)
		bad.Content.Close()
		bad.Content = failing{tt.err}
		r, err := b.Section(t.Context(), 0, 9000)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(r); !errors.Is(err, tt.err) {
			t.Errorf("read: %v, want %v", err, tt.err)
		}
		b.Close()
		if got := held(c, d); got != tt.held {
			t.Errorf("after %v held %q, want %q", tt.err, got, tt.held)
		}
		if s := c.Stats(); s.Off != tt.off {
			t.Errorf("after %v Off is %v (%s), want %v", tt.err, s.Off, s.OffReason, tt.off)
		}
	}
}

func TestDirectoryIsOurs(t *testing.T) {
	t.Run("in use", func(t *testing.T) {
		c := open(t, Options{})
		if _, err := tryOpen(t, Options{Dir: c.o.Dir}); !errors.Is(err, ErrInUse) {
			t.Errorf("second Open = %v, want ErrInUse", err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		open(t, Options{Dir: c.o.Dir})
	})
	for _, tt := range []struct{ name, file, text string }{
		{"newer", "FORMAT", `{"format":2}`},
		{"no version", "FORMAT", `{}`},
		{"not JSON", "FORMAT", "x"},
		{"someone else's blobs", "blobs/sha256/ab/data", "x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, tt.file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(tt.text), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := tryOpen(t, Options{Dir: dir}); !errors.Is(err, ErrFormat) {
				t.Errorf("Open = %v, want ErrFormat", err)
			}
			if b, _ := os.ReadFile(path); string(b) != tt.text {
				t.Error("it was touched")
			}
			if err := os.RemoveAll(filepath.Join(dir, strings.Split(tt.file, "/")[0])); err != nil {
				t.Fatal(err)
			}
			open(t, Options{Dir: dir}) // the refusal let go of the lock
		})
	}
	t.Run("lost+found beside it", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
			t.Fatal(err)
		}
		open(t, Options{Dir: dir})
	})
	t.Run("odd characters", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), `a[b*?\`)
		c := open(t, Options{Dir: dir})
		d := put(t, c, []byte("x"))
		c.Close()
		if held(open(t, Options{Dir: dir}), d) != "a" {
			t.Error("not found again")
		}
	})
}

func TestHalvesAreClearedAway(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Dir: dir})
	var ds []oci.Digest
	for i := range 8 {
		ds = append(ds, put(t, c, blobBytes(uint64(i), 5000)))
	}
	keep, err := c.Begin(t.Context(), oci.FromBytes([]byte("p")), 5000)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	keep.Close(true)
	d512 := digest.SHA512.FromString("x")
	for _, err := range []error{
		os.Remove(c.dataPath(ds[0])),
		os.Remove(c.sidecarPath(ds[1])),
		os.Truncate(c.dataPath(ds[2]), 4999),
		os.Truncate(c.sidecarPath(ds[3]), 5),
		os.Truncate(c.sidecarPath(ds[4]), 0),
		os.WriteFile(c.sidecarPath(ds[5]), make([]byte, 60), 0o600),
		os.WriteFile(filepath.Join(dir, "tmp", "17"), []byte("x"), 0o600),
		os.WriteFile(c.chunkMapPath(d512), []byte("x"), 0o600),
		os.WriteFile(filepath.Join(dir, "partial", "notes.txt"), []byte("foreign"), 0o600),
		os.WriteFile(filepath.Join(filepath.Dir(c.dataPath(ds[6])), "notes.txt"), []byte("foreign"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c = open(t, Options{Dir: dir})
	if got := held(c, ds...); got != "gh" {
		t.Errorf("held %q, want gh", got)
	}
	if got := len(files(t, dir)); got != 2+2+2+1 { // objects, sidecars, notes, FORMAT
		t.Errorf("%d files are left: %v", got, files(t, dir))
	}
}

func TestRecencySurvivesRestart(t *testing.T) {
	dir, now := t.TempDir(), newClock()
	o := Options{Dir: dir, Now: now.Now}
	c := open(t, o)
	var ds []oci.Digest
	for i := range 4 {
		ds = append(ds, put(t, c, blobBytes(uint64(i), 1<<20)))
		now.Advance(time.Second)
	}
	m := manifest("x")
	if err := c.PutManifest(m, Grant{}); err != nil {
		t.Fatal(err)
	}
	ds = append(ds, m.Digest)
	now.Advance(2 * time.Minute)
	get(t, c, ds[1])
	now.Advance(time.Second)
	if _, err := c.Manifest(m.Digest); err != nil {
		t.Fatal(err)
	}
	now.Advance(time.Second)
	get(t, c, ds[0])
	c.Close()
	o.MaxBytes = 2<<20 + 100_000 // room for two of the blobs, and the manifest
	c = open(t, o)
	if got := held(c, ds...); got != "abe" {
		t.Errorf("held %q, want what was read last: abe", got)
	}
	if s := c.Stats(); s.Evictions != 2 {
		t.Errorf("%d evictions, want 2", s.Evictions)
	}
	audit(t, c, 0)
}

func TestTouchIsCheap(t *testing.T) {
	now := newClock()
	c := open(t, Options{Now: now.Now})
	d := put(t, c, []byte("x"))
	stored := now.Now()
	for _, tt := range []struct {
		after   time.Duration
		touched bool
	}{{30 * time.Second, false}, {29 * time.Second, false}, {time.Second, true}, {59 * time.Second, false}} {
		now.Advance(tt.after)
		get(t, c, d)
		if tt.touched {
			stored = now.Now()
		}
		info, err := os.Stat(c.dataPath(d))
		if err != nil {
			t.Fatal(err)
		}
		if !info.ModTime().Equal(stored) {
			t.Errorf("at %v the file says %v, want %v", now.Now(), info.ModTime(), stored)
		}
	}
}

func TestClosed(t *testing.T) {
	c := open(t, Options{})
	d := put(t, c, blobBytes(1, 9000))
	b, err := c.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Begin(t.Context(), oci.FromBytes([]byte("y")), 1)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got := readBlob(t, b); !bytes.Equal(got, blobBytes(1, 9000)) {
		t.Error("what was open is not readable any more")
	}
	b.Close()
	before := files(t, c.o.Dir)
	if get(t, c, d) != nil {
		t.Error("Open works")
	}
	if _, err := c.Begin(t.Context(), oci.FromBytes([]byte("z")), 1); err == nil {
		t.Error("Begin works")
	}
	if _, err := c.Resume(t.Context(), d); err == nil {
		t.Error("Resume works")
	}
	if err := p.Commit(t.Context()); err == nil {
		t.Error("Commit works")
	}
	if err := p.Close(false); err != nil {
		t.Error(err)
	}
	if err := c.Delete(d); err == nil {
		t.Error("Delete works")
	}
	if err := c.PutManifest(manifest("x"), Grant{}); err == nil {
		t.Error("PutManifest works")
	}
	c.Grant(d, Grant{Repo: "x"})
	if err := c.Learn(t.Context(), "a", oci.Tagged("b"), known("x", time.Now()), oci.Manifest{}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, files(t, c.o.Dir)); diff != "" {
		t.Errorf("a closed cache changed its directory: %s", diff)
	}
}

func TestDelete(t *testing.T) {
	c := open(t, Options{})
	want := blobBytes(1, 1<<20)
	d := put(t, c, want)
	b, err := c.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	full := c.Stats().Bytes
	for range 2 {
		if err := c.Delete(d); err != nil {
			t.Fatal(err)
		}
	}
	if get(t, c, d) != nil {
		t.Error("it is still there")
	}
	if got := c.Stats().Bytes; got != full {
		t.Errorf("%d bytes counted while it is read, want %d", got, full)
	}
	put(t, c, want) // again, beside the one that is read
	if err := c.Delete(d); err != nil {
		t.Fatal(err)
	}
	if got := readBlob(t, b); !bytes.Equal(got, want) {
		t.Error("the reader lost it")
	}
	b.Close()
	b.Close()
	if s := c.Stats(); s.Bytes != blockBytes || s.Objects != 0 {
		t.Errorf("Stats = %+v, want an empty cache", s)
	}
	audit(t, c, 0)
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	c := open(t, Options{Metrics: reg, Statfs: func(string) (uint64, error) { return 123 << 20, nil }})
	put(t, c, make([]byte, 4096))
	want := `
# HELP breakwater_node_cache_bytes Bytes of the cache on the disk or set aside.
# TYPE breakwater_node_cache_bytes gauge
breakwater_node_cache_bytes 12288
# HELP breakwater_node_cache_evictions_total Objects evicted to make room.
# TYPE breakwater_node_cache_evictions_total counter
breakwater_node_cache_evictions_total 0
# HELP breakwater_node_cache_free_bytes Bytes free on the cache's file system.
# TYPE breakwater_node_cache_free_bytes gauge
breakwater_node_cache_free_bytes 1.28974848e+08
# HELP breakwater_node_cache_max_bytes Bytes the cache may take.
# TYPE breakwater_node_cache_max_bytes gauge
breakwater_node_cache_max_bytes 6.7108864e+07
# HELP breakwater_node_cache_objects Whole blobs and manifests in the cache.
# TYPE breakwater_node_cache_objects gauge
breakwater_node_cache_objects 1
# HELP breakwater_node_cache_off 1 while nothing new is kept because the disk failed or is full.
# TYPE breakwater_node_cache_off gauge
breakwater_node_cache_off 0
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	c.Close()
	open(t, Options{Metrics: reg}) // Close has made room for it
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, Options{Dir: dir, ResumeFor: time.Minute})
		p, err := c.Begin(t.Context(), oci.FromBytes([]byte("x")), 10)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(p.Save(pullthrough.Chunks{1}), p.Close(true)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Second)
		synctest.Wait()
		if s := c.Stats(); s.Partials != 1 {
			t.Errorf("Stats = %+v, want the partial kept for a minute", s)
		}
		time.Sleep(tendEvery)
		synctest.Wait()
		if s := c.Stats(); s.Partials != 0 || s.Bytes != blockBytes {
			t.Errorf("Stats = %+v, want the partial given up", s)
		}
		c.Close() // ends the watch, or the bubble would not
	})
}
