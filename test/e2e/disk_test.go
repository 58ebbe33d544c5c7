package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
	"github.com/breakwater-oci/breakwater/test/need"
)

const mib = 1 << 20

// smallDisk is a house whose agent has its cache on a disk of its own.
type smallDisk struct {
	*house
	dir    string
	budget int64
	floor  int64 // of free space
}

func newSmallDisk(t *testing.T, size, budget, floor int64) *smallDisk {
	t.Helper()
	need.Root(t)
	d := &smallDisk{dir: filepath.Join(rig.TempDir(t, "disk"), "m"), budget: budget, floor: floor}
	if err := errors.Join(os.Mkdir(d.dir, 0o755), unix.Mount("tmpfs", d.dir, "tmpfs", 0, fmt.Sprintf("size=%d", size))); err != nil {
		t.Fatal(err)
	}
	d.house = newHouse(t, plan{node: rig.Keys{
		"cache.dir": filepath.Join(d.dir, "cache"), "cache.maxBytes": budget, "cache.minFreeBytes": floor,
	}})
	return d
}

// free is what the disk could still take.
func (d *smallDisk) free() int64 {
	d.t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(d.dir, &s); err != nil {
		d.t.Fatal(err)
	}
	return int64(s.Bavail) * s.Bsize
}

// used is what the cache's files take of it, as du counts.
func (d *smallDisk) used() (n int64) {
	d.t.Helper()
	for path, info := range files(d.t, filepath.Join(d.dir, "cache")) {
		s, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			d.t.Fatalf("%s cannot be measured", path)
		}
		n += s.Blocks * 512
	}
	return n
}

// watch looks at the disk all the time until the pull has ended, which must go well, and returns the most that the
// cache had on it and the least that was free.
func (d *smallDisk) watch(pull <-chan error) (most, least int64) {
	d.t.Helper()
	for least = d.free(); ; {
		most, least = max(most, d.used()), min(least, d.free())
		select {
		case err := <-pull:
			if err != nil {
				d.t.Fatal(err)
			}
			return most, least
		default:
		}
	}
}

// throughAgent checks that containerd asked nobody but the agent, and was never told no.
func (d *smallDisk) throughAgent() {
	d.t.Helper()
	if n := asked(d.door, byContainerd, "", "") + asked(d.upstream, byContainerd, "", ""); n != 0 {
		d.t.Errorf("containerd had to ask others than the agent %d times:%s%s", n, lines(d.door), lines(d.upstream))
	}
	if p := d.status().Pulls[0]; p.Failed != 0 {
		d.t.Errorf("the agent failed %d times: %+v", p.Failed, p)
	}
}

// An image that is larger than what the cache may take is pulled through it all the same: what does not fit is passed
// through, and the cache keeps to its budget and above its floor all the while.
func TestImageLargerThanTheCache(t *testing.T) {
	const sizeMB = 120
	for _, tt := range []struct {
		bound               string
		disk, budget, floor int64
		most, least         int64 // that the cache may take and must leave
	}{
		{"budget", 200 * mib, 96 * mib, 32 * mib, 96 * mib, 32 * mib},
		{"floor", 112 * mib, 1024 * mib, 32 * mib, 80 * mib, 32 * mib},
	} {
		t.Run(tt.bound, func(t *testing.T) {
			d := newSmallDisk(t, tt.disk, tt.budget, tt.floor)
			image := rig.Big(t, sizeMB)
			const ref = "docker.io/library/big:1"
			digest := d.push("library/big:1", image)
			most, least := d.watch(async(func() error { _, err := d.pull(ref, digest); return err }))
			t.Logf("an image of %d MB: the cache had %d MiB at most, %d MiB of the disk were free at least", sizeMB, most/mib, least/mib)
			if most > tt.most || least < tt.least {
				t.Errorf("the cache had %d bytes and left %d free; want %d at most, and %d left", most, least, tt.most, tt.least)
			}
			if most < tt.most/3 {
				t.Errorf("the cache had %d bytes at most: it keeps next to nothing", most)
			}
			d.throughAgent()
			if got, want := d.verified(), digestsOf(t, image); !slices.Equal(got, want) {
				t.Errorf("containerd holds %v, want %v", got, want)
			}
		})
	}
}

// Someone else fills the agent's disk amid a pull. The pull comes through the agent all the same; the agent gives back
// space until its floor is free; when there is room again, it keeps what it fetches.
func TestOthersFillTheDisk(t *testing.T) {
	t.Parallel()
	// notices is how long the agent may take to see that others have filled the disk, or that there is space again: it
	// looks each 30 s, and keeps off for 30 s after the disk has refused a write.
	const notices = 35 * time.Second
	d := newSmallDisk(t, 160*mib, 96*mib, 32*mib)
	d.pulled("docker.io/library/big:1", d.push("library/big:1", rig.Big(t, 60)))
	d.settle()
	d.forget("docker.io/library/big:1")
	kept := d.used()

	const ref = "docker.io/library/big:2"
	digest := d.push("library/big:2", rig.Big(t, 120))
	d.resetLogs()
	d.upstream.Limit(40 * mib)
	pull := async(func() error { _, err := d.pull(ref, digest); return err })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := d.upstream.Wait(ctx, 4, "GET", "/blobs/"); err != nil { // the config and three layers
		t.Fatal(err)
	}
	other := filepath.Join(d.dir, "other")
	fillDisk(t, other)
	most, _ := d.watch(pull)
	if most > d.budget {
		t.Errorf("the cache had %d bytes on the full disk, its budget is %d", most, d.budget)
	}
	d.throughAgent()
	d.settle()
	d.forget(ref)
	start := time.Now()
	rig.Eventually(t, notices, func() error {
		if n, c := d.free(), d.status().Cache; n < d.floor && c.Objects > 0 {
			return fmt.Errorf("%d bytes of the disk are free, the floor is %d, and the cache holds %+v", n, d.floor, c)
		}
		return nil
	})
	t.Logf("the cache had %d MiB when others filled the disk; %v after the pull it has %d and %d MiB are free",
		kept/mib, time.Since(start), d.used()/mib, d.free()/mib)

	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	d.upstream.Limit(0)
	start = time.Now()
	attempt := 0
	rig.Eventually(t, notices, func() error {
		attempt++
		ref, digest := d.fresh(fmt.Sprintf("room%d", attempt))
		d.pulled(ref, digest)
		d.settle()
		d.forget(ref)
		d.door.ResetLog()
		d.pulled(ref, digest)
		d.forget(ref)
		if n := d.door.Count("GET", ""); n > 0 {
			return fmt.Errorf("pulled again, the image cost the hub %d GETs: %+v", n, d.status().Cache)
		}
		return nil
	})
	t.Logf("there is room again: %v later the cache keeps what it fetches", time.Since(start))
}

// fillDisk writes a file until the disk takes no more.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for b := make([]byte, 1<<20); err == nil; {
		_, err = f.Write(b)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}
