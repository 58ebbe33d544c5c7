package cache

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/need"
)

// ext4 that stops as at a power cut (fs/ext4/ext4.h): what is not on the disk
// or in its journal is lost.
const (
	ext4Shutdown  = 0x8004587D // EXT4_IOC_SHUTDOWN
	withoutFlush  = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH
	ext4ImageSize = 192 * mib
)

// disk is an ext4 file system in a file.
type disk struct {
	t          *testing.T
	image, dir string
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	need.Root(t) // it mounts a file system of its own
	d := &disk{t: t, image: filepath.Join(t.TempDir(), "image"), dir: t.TempDir()}
	if err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, ext4ImageSize)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", d.image).CombinedOutput(); err != nil {
		t.Skipf("mkfs.ext4: %v %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", d.image, d.dir).CombinedOutput(); err != nil {
		t.Skipf("mount: %v %s", err, out)
	}
	t.Cleanup(d.unmount)
	return d
}

func (d *disk) unmount() {
	if err := unix.Unmount(d.dir, 0); err != nil {
		d.t.Errorf("unmount: %v", err)
	}
}

// cut is the power cut.
func (d *disk) cut() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetPointerInt(int(f.Fd()), ext4Shutdown, withoutFlush)
}

// restart is the machine coming up again.
func (d *disk) restart() {
	d.unmount()
	if out, err := exec.Command("mount", "-o", "loop", d.image, d.dir).CombinedOutput(); err != nil {
		d.t.Fatalf("mount after the cut: %v %s", err, out)
	}
}

// crash is the cut, the machine coming up again, and the agent's next start.
func (d *disk) crash(c *Cache) *Cache {
	d.t.Helper()
	if err := d.cut(); err != nil {
		d.t.Skipf("this kernel cannot stop ext4: %v", err)
	}
	_ = c.Close()
	d.restart()
	return open(d.t, c.o)
}

// flush brings a file and its name to the disk, as the kernel does when it
// likes.
func flush(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(f.Sync(), syncDir(filepath.Dir(path))); err != nil {
		t.Fatal(err)
	}
}

func TestPowerCutAfter(t *testing.T) {
	disk := newDisk(t)
	c := open(t, Options{Dir: filepath.Join(disk.dir, "cache"), Statfs: statfs})
	b := blobBytes(1, chunk+5000)
	d := put(t, c, b)
	c = disk.crash(c)
	if !bytes.Equal(get(t, c, d), b) {
		t.Fatal("Commit: the blob is lost or zeros")
	}

	c.Grant(d, Grant{Repo: "a", Visibility: oci.Public})
	c.Grant(d, Grant{Repo: "b", Visibility: oci.Public})
	flush(t, c.sidecarPath(d))
	c.Grant(d, Grant{Repo: "a", Visibility: oci.Private})
	c = disk.crash(c)
	if g, ok := c.Granted(d, "", "a"); !ok || g.Visibility != oci.Private {
		t.Errorf("Grant: public again: %+v, %v", g, ok)
	}
	c.Revoke(d, "", "b")
	c = disk.crash(c)
	if _, ok := c.Granted(d, "", "b"); ok || get(t, c, d) == nil {
		t.Error("Revoke: granted again, or the blob is lost")
	}

	learn(t, c, "a", known("x", time.Now()))
	flush(t, c.refs.log.path)
	if err := c.Forget(t.Context(), "docker.io/a", oci.Tagged("a")); err != nil {
		t.Fatal(err)
	}
	c = disk.crash(c)
	if _, ok := recall(t, c, "a"); ok {
		t.Error("Forget: known again")
	}
	learn(t, c, "a", known("x", time.Now()))
	c.refs.log.Lock()
	err := c.refs.compact()
	c.refs.log.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	c = disk.crash(c)
	if _, ok := recall(t, c, "a"); !ok {
		t.Error("rewriting the log: not known any more")
	}

	b = blobBytes(2, 2*chunk)
	p := begin3(t, c, b)
	if _, err := p.File().WriteAt(b[chunk:], chunk); err != nil {
		t.Fatal(err)
	}
	if err := p.Save(chunks(2*chunk, 1)); err != nil {
		t.Fatal(err)
	}
	flush(t, c.chunkMapPath(oci.FromBytes(b)))
	if err := p.Close(true); err != nil {
		t.Fatal(err)
	}
	c = disk.crash(c)
	p, err = c.Resume(t.Context(), oci.FromBytes(b))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, chunk)
	if _, err := p.File().ReadAt(got, chunk); err != nil || !p.Chunks().Has(1) || !bytes.Equal(got, b[chunk:]) {
		t.Errorf("Save: chunks %v, and chunk 1 is not right (%v)", p.Chunks(), err)
	}
	if err := errors.Join(p.Close(false), c.Close()); err != nil {
		t.Fatal(err)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestPowerCut(t *testing.T) {
	rounds := 4
	if testing.Short() {
		rounds = 2
	}
	r := rand.New(rand.NewPCG(1, 5))
	disk := newDisk(t)
	now := newClock()
	o := Options{Dir: filepath.Join(disk.dir, "cache"), MaxBytes: 120 * mib, Now: now.Now, Statfs: statfs}
	for i := range rounds {
		c := open(t, o)
		var mu sync.Mutex
		committed, deleted := map[oci.Digest]bool{}, map[oci.Digest]bool{}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for w := range 3 {
			r := rand.New(rand.NewPCG(uint64(i), uint64(w)))
			wg.Go(func() {
				for n := 0; !isClosed(stop); n++ {
					b := r.IntN(victimBlobs/3)*3 + w
					d := oci.FromBytes(victimBlob(b))
					if n%5 == 4 {
						mu.Lock()
						deleted[d] = true
						mu.Unlock()
						_ = c.Delete(d)
						continue
					}
					err := victimOnce(c, b)
					if c.Stats().Off || errors.Is(err, unix.EIO) {
						return // the disk is gone
					}
					if err != nil && !errors.Is(err, ErrFull) {
						t.Error(err)
						return
					}
					if err == nil {
						mu.Lock()
						committed[d] = true
						delete(deleted, d)
						mu.Unlock()
					}
				}
			})
		}
		time.Sleep(time.Duration(50+r.IntN(400)) * time.Millisecond) // the moment is what is tested
		err := disk.cut()
		close(stop)
		wg.Wait()
		if err != nil {
			t.Skipf("this kernel cannot stop ext4: %v", err)
		}
		if n := c.Stats().Evictions; n > 0 {
			t.Errorf("%d evictions where there is room", n)
		}
		_ = c.Close()
		disk.restart()

		c = open(t, o)
		whole, parts := survey(t, c)
		t.Logf("round %d: whole %v, partial %v", i, whole, parts)
		for d := range committed {
			if !deleted[d] && held(c, d) == "" {
				t.Errorf("%s was committed and is lost", d)
			}
		}
		if i%2 == 1 {
			reclaim(t, c, now)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
