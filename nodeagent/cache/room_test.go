package cache

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

const mib = 1 << 20

// objectBytes is what a blob of n bytes counts, with a sidecar of one block.
func objectBytes(n int64) int64 { return dataBlocks(n) + blockBytes }

// budget has room for n blobs of 1 MiB, one of them on its way in.
func budget(n int64) int64 { return blockBytes + n*objectBytes(mib) + blockBytes }

func TestEvictsLeastRecentlyUsed(t *testing.T) {
	c := open(t, Options{MaxBytes: budget(3)})
	var ds []oci.Digest
	for i := range 3 {
		ds = append(ds, put(t, c, blobBytes(uint64(i), mib)))
	}
	get(t, c, ds[0])
	ds = append(ds, put(t, c, blobBytes(3, mib)))
	if got := held(c, ds...); got != "acd" {
		t.Errorf("held %q, want acd", got)
	}
	if s := c.Stats(); s.Evictions != 1 {
		t.Errorf("%d evictions, want 1", s.Evictions)
	}
	audit(t, c, 0)
	if _, err := c.Begin(t.Context(), oci.FromBytes([]byte("x")), budget(3)); !errors.Is(err, ErrFull) || oci.CodeOf(err) != oci.NoSpace {
		t.Errorf("Begin of more than the budget = %v, want ErrFull", err)
	}
	if got := held(c, ds...); got != "acd" {
		t.Errorf("held %q after a refusal, want acd", got)
	}
}

func TestWhatIsReadStays(t *testing.T) {
	c := open(t, Options{MaxBytes: budget(3)})
	var ds []oci.Digest
	for i := range 3 {
		ds = append(ds, put(t, c, blobBytes(uint64(i), mib)))
	}
	var open []*oci.Blob
	for _, i := range []int{0, 1} {
		b, err := c.Open(t.Context(), ds[i])
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, b)
	}
	ds = append(ds, put(t, c, blobBytes(3, mib)))
	if got := held(c, ds...); got != "abd" {
		t.Errorf("held %q, want abd", got)
	}
	b, err := c.Open(t.Context(), ds[3])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fill(c, blobBytes(4, mib)); !errors.Is(err, ErrFull) {
		t.Errorf("with all of it being read: %v, want ErrFull", err)
	}
	audit(t, c, 0)
	if err := c.Delete(ds[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := fill(c, blobBytes(4, mib)); !errors.Is(err, ErrFull) {
		t.Errorf("with a deleted one still on the disk: %v, want ErrFull", err)
	}
	audit(t, c, objectBytes(mib))
	for i, b := range append(open, b) {
		if got := readBlob(t, b); !bytes.Equal(got, blobBytes([]uint64{0, 1, 3}[i], mib)) {
			t.Errorf("reader %d got other bytes", i)
		}
	}
	open[0].Close()
	put(t, c, blobBytes(4, mib))
	audit(t, c, 0)
}

func TestLeftPartialsGoFirst(t *testing.T) {
	now := newClock()
	c := open(t, Options{MaxBytes: budget(4) + 2*blockBytes, Now: now.Now})
	ds := []oci.Digest{put(t, c, blobBytes(0, mib)), put(t, c, blobBytes(1, mib))}
	var left []oci.Digest
	for i := range 2 {
		b := blobBytes(uint64(10+i), mib)
		p := begin3(t, c, b)
		if err := errors.Join(p.Save(chunks(mib, 0)), p.Close(true)); err != nil {
			t.Fatal(err)
		}
		left = append(left, oci.FromBytes(b))
		now.Advance(time.Second)
	}
	p, err := c.Begin(t.Context(), oci.FromBytes([]byte("x")), mib)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resume(t.Context(), left[0]); !errors.Is(err, pullthrough.ErrNoPartial) {
		t.Errorf("Resume of the longest left = %v, want it evicted", err)
	}
	q, err := c.Resume(t.Context(), left[1])
	if err != nil {
		t.Fatal(err)
	}
	if got := held(c, ds...); got != "ab" {
		t.Errorf("held %q, want ab", got)
	}
	audit(t, c, 0)
	if _, err := c.Begin(t.Context(), oci.FromBytes([]byte("y")), 3*mib); !errors.Is(err, ErrFull) {
		t.Errorf("with two fills running: %v, want ErrFull", err)
	}
	if err := errors.Join(p.Close(false), q.Close(false)); err != nil {
		t.Fatal(err)
	}
	audit(t, c, 0)
}

func TestFloor(t *testing.T) {
	// A disk of 10 MiB of which others use what they like.
	var c *Cache
	others := int64(0)
	statfs := func(dir string) (uint64, error) {
		return uint64(max(0, 10*mib-others-diskBytes(t, dir))), nil
	}
	var log strings.Builder
	now := newClock()
	c = open(t, Options{MinFreeBytes: 4 * mib, Statfs: statfs, Now: now.Now, Log: slog.New(slog.NewTextHandler(&log, nil))})
	var ds []oci.Digest
	for i := range 5 {
		ds = append(ds, put(t, c, blobBytes(uint64(i), mib)))
	}
	if got := held(c, ds...); got != "abcde" {
		t.Fatalf("held %q", got)
	}
	check := func(when, want string, off bool) {
		t.Helper()
		if got := held(c, ds...); got != want {
			t.Errorf("%s held %q, want %q", when, got, want)
		}
		free, _ := statfs(c.o.Dir)
		if s := c.Stats(); s.Off != off || !off && int64(free) < 4*mib {
			t.Errorf("%s %d bytes are free and Off is %v (%s)", when, free, s.Off, s.OffReason)
		}
		audit(t, c, 0)
	}
	ds = append(ds, put(t, c, blobBytes(5, mib)))
	check("after one more", "bcdef", false)
	b, err := c.Open(t.Context(), ds[1])
	if err != nil {
		t.Fatal(err)
	}
	others = 2*mib + mib/2
	c.tend()
	check("with others on the disk", "bef", false)
	if _, err := c.Begin(t.Context(), oci.FromBytes([]byte("x")), 5*mib); !errors.Is(err, ErrFull) {
		t.Errorf("Begin of more than there can be = %v, want ErrFull", err)
	}
	check("after a refusal", "bef", false)
	others = 9 * mib
	for range 3 {
		c.tend()
		now.Advance(tendEvery)
	}
	c.tend()
	check("with others all over the disk", "b", true)
	if !bytes.Equal(readBlob(t, b), blobBytes(1, mib)) {
		t.Error("what is read is gone")
	}
	b.Close()
	if n := strings.Count(log.String(), "caching is off"); n != 1 {
		t.Errorf("said %d times that caching is off: %s", n, log.String())
	}
	if _, err := c.Begin(t.Context(), oci.FromBytes([]byte("x")), 1); !errors.Is(err, ErrOff) {
		t.Errorf("Begin = %v, want ErrOff", err)
	}
	others = 0
	now.Advance(offFor)
	put(t, c, blobBytes(9, mib))
	check("with the disk back", "b", false)
	if !strings.Contains(log.String(), "caching is on again") {
		t.Errorf("did not say that caching is on again: %s", log.String())
	}
}

// A file system that frees late, or a count that is wrong, must not cost all
// there is.
func TestFloorBelievesSlowly(t *testing.T) {
	free := uint64(100 * mib)
	c := open(t, Options{MinFreeBytes: 50 * mib, Statfs: func(string) (uint64, error) { return free, nil }})
	for i := range 10 {
		put(t, c, blobBytes(uint64(i), mib))
	}
	free = 49 * mib
	if _, err := c.Begin(t.Context(), oci.FromBytes([]byte("x")), mib); !errors.Is(err, ErrFull) {
		t.Errorf("Begin = %v, want ErrFull", err)
	}
	if s := c.Stats(); s.Objects < 7 {
		t.Errorf("one refusal cost %d of 10 objects", 10-s.Objects)
	}
	audit(t, c, 0)
}

func TestStatfsFails(t *testing.T) {
	fail := false
	c := open(t, Options{Statfs: func(string) (uint64, error) {
		if fail {
			return 0, mediaErrors[0]
		}
		return 100 * mib, nil
	}})
	d := put(t, c, []byte("x"))
	fail = true
	if _, err := c.Begin(t.Context(), oci.FromBytes([]byte("y")), 1); !errors.Is(err, ErrFull) {
		t.Errorf("Begin = %v, want ErrFull", err)
	}
	if s := c.Stats(); !s.Off || s.FreeBytes != -1 {
		t.Errorf("Stats = %+v", s)
	}
	if get(t, c, d) == nil {
		t.Error("what is cached is not served")
	}
}

func TestNothingIsKeptWithoutBudget(t *testing.T) {
	o := Options{Dir: t.TempDir(), Statfs: plenty}
	c, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Begin(t.Context(), oci.FromBytes(nil), 0); !errors.Is(err, ErrFull) {
		t.Errorf("Begin = %v, want ErrFull", err)
	}
	if err := c.Learn(t.Context(), "a", oci.Tagged("b"), known("x", time.Now()), oci.Manifest{}); err != nil {
		t.Error(err)
	}
	if _, ok, _ := c.Recall(t.Context(), "a", oci.Tagged("b")); !ok {
		t.Error("a reference is not even remembered in memory")
	}
	if got := files(t, o.Dir); len(got) != 1 {
		t.Errorf("files: %v", got)
	}
}
