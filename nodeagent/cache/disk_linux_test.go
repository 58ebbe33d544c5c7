package cache

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/need"
)

// tmpfs mounts a small file system of its own.
func tmpfs(t *testing.T, size string) (dir string) {
	t.Helper()
	need.Root(t) // it mounts a file system of its own
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fillUp leaves no byte free.
func fillUp(t *testing.T, dir string) (path string) {
	t.Helper()
	path = filepath.Join(dir, "others")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		if _, err := f.Write(make([]byte, 4096)); errors.Is(err, unix.ENOSPC) {
			return path
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	disk := tmpfs(t, "16m")
	var log strings.Builder
	now := newClock()
	c := open(t, Options{
		Dir: filepath.Join(disk, "cache"), Now: now.Now, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Statfs: plenty, // what the count misses, the disk says
	})
	want := blobBytes(1, 3*mib)
	d := put(t, c, want)
	m := manifest("a")
	if err := c.PutManifest(m, Grant{}); err != nil {
		t.Fatal(err)
	}
	running := begin3(t, c, blobBytes(2, mib))
	others := fillUp(t, disk)

	if _, err := c.Begin(t.Context(), oci.FromBytes([]byte("x")), mib); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Begin on a full disk = %v", err)
	}
	if s := c.Stats(); !s.Off || !strings.Contains(s.OffReason, "no space") {
		t.Errorf("Stats = %+v, want it off for want of space", s)
	}
	for range 3 {
		if _, err := c.Begin(t.Context(), oci.FromBytes([]byte("x")), 1); !errors.Is(err, ErrOff) {
			t.Errorf("Begin while off = %v, want ErrOff", err)
		}
		if err := c.PutManifest(manifest("b"), Grant{}); !errors.Is(err, ErrOff) {
			t.Errorf("PutManifest while off = %v, want ErrOff", err)
		}
	}
	served := func() {
		t.Helper()
		if !bytes.Equal(get(t, c, d), want) {
			t.Error("what is cached is not served")
		}
		if got, err := c.Manifest(m.Digest); err != nil || !bytes.Equal(got.Bytes, m.Bytes) {
			t.Errorf("Manifest = %v", err)
		}
		learn(t, c, "a", known("x", now.Now()))
		if _, ok := recall(t, c, "a"); !ok {
			t.Error("a reference is not known")
		}
	}
	served()
	if _, err := running.File().WriteAt(blobBytes(2, mib), 0); err != nil {
		t.Errorf("a fill whose space was set aside: %v", err)
	}
	now.Advance(offFor)
	if _, err := c.Begin(t.Context(), oci.FromBytes([]byte("x")), mib); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Begin when it is tried again = %v", err)
	}
	if n := strings.Count(log.String(), "caching is off"); n != 1 {
		t.Errorf("said %d times that caching is off:\n%s", n, log.String())
	}
	served()

	if err := os.Remove(others); err != nil {
		t.Fatal(err)
	}
	now.Advance(offFor)
	if err := errors.Join(running.Commit(t.Context()), running.Close(false)); err != nil {
		t.Error(err)
	}
	put(t, c, blobBytes(3, mib))
	if s := c.Stats(); s.Off || s.Objects != 4 {
		t.Errorf("Stats = %+v, want it on again", s)
	}
	audit(t, c, 0)
}

// With the system's own count a full disk is seen before it is hit.
func TestDiskFillsUp(t *testing.T) {
	disk := tmpfs(t, "16m")
	c := open(t, Options{Dir: filepath.Join(disk, "cache"), MinFreeBytes: 4 * mib, Statfs: statfs})
	d := put(t, c, blobBytes(1, 3*mib))
	b, err := c.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		put(t, c, blobBytes(uint64(10+i), 2*mib))
		if free, err := statfs(disk); err != nil || free < 4*mib {
			t.Fatalf("%d bytes are free, %v", free, err)
		}
	}
	fillUp(t, disk)
	if _, err := c.Begin(t.Context(), oci.FromBytes([]byte("x")), 10*mib); !errors.Is(err, ErrFull) {
		t.Errorf("Begin on a full disk = %v, want ErrFull", err)
	}
	c.tend()
	if free, err := statfs(disk); err != nil || free < 4*mib {
		t.Errorf("%d bytes are free after a look at it, %v", free, err)
	}
	if got := readBlob(t, b); !bytes.Equal(got, blobBytes(1, 3*mib)) {
		t.Error("what is read is gone")
	}
	b.Close()
	audit(t, c, 0)
}

func TestReadOnlyDisk(t *testing.T) {
	disk := tmpfs(t, "16m")
	c := open(t, Options{Dir: filepath.Join(disk, "cache")})
	want := blobBytes(1, mib)
	d := put(t, c, want)
	c.Grant(d, Grant{Repo: "a", Visibility: oci.Public})
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Begin(t.Context(), oci.FromBytes([]byte("x")), 1); !errors.Is(err, unix.EROFS) {
		t.Errorf("Begin = %v", err)
	}
	if s := c.Stats(); !s.Off || !strings.Contains(s.OffReason, "read-only") {
		t.Errorf("Stats = %+v", s)
	}
	learn(t, c, "a", known("x", time.Now()))
	if !bytes.Equal(get(t, c, d), want) {
		t.Error("what is cached is not served")
	}
	if err := c.Delete(d); !errors.Is(err, unix.EROFS) {
		t.Errorf("Delete = %v", err)
	}
	if get(t, c, d) != nil {
		t.Error("what was deleted is served, if not removed")
	}
	if s := c.Stats(); s.Bytes < mib {
		t.Errorf("%d bytes are counted; the file is still there", s.Bytes)
	}
}
