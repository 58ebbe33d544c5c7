package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// blockBytes is what file systems round up to.
const blockBytes = 4096

// Names in the directory.
const (
	formatFile  = "FORMAT"
	blobsDir    = "blobs"
	partialDir  = "partial"
	refsDir     = "refs"
	refsFile    = "log"
	tmpDir      = "tmp"
	sidecarExt  = ".json"
	chunkMapExt = ".map"
)

// blocks rounds a file's size up to whole blocks.
func blocks(sizeBytes int64) int64 {
	return (sizeBytes + blockBytes - 1) / blockBytes * blockBytes
}

// dataBlocks is what an object's data costs. File systems keep the map of a
// file's extents in blocks that belong to it; one block for 128 MiB allows for
// more than they take.
func dataBlocks(sizeBytes int64) int64 { return blocks(sizeBytes) + blocks(sizeBytes>>15) }

func (c *Cache) dataPath(d oci.Digest) string {
	hex := d.Encoded()
	return filepath.Join(c.o.Dir, blobsDir, d.Algorithm().String(), hex[:2], hex)
}

func (c *Cache) sidecarPath(d oci.Digest) string { return c.dataPath(d) + sidecarExt }

func (c *Cache) partialPath(d oci.Digest) string {
	return filepath.Join(c.o.Dir, partialDir, d.Algorithm().String()+"-"+d.Encoded())
}

func (c *Cache) chunkMapPath(d oci.Digest) string { return c.partialPath(d) + chunkMapExt }

// partialDigest reads what [Cache.partialPath] wrote.
func partialDigest(name string) (oci.Digest, error) {
	return oci.ParseDigest(strings.Replace(name, "-", ":", 1))
}

// temp writes a new file under tmp, for a rename; its room is made already.
func (c *Cache) temp(data []byte, durable bool) (path string, err error) {
	path = filepath.Join(c.o.Dir, tmpDir, fmt.Sprint(c.serial.Add(1)))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
		return "", err
	}
	return path, nil
}

// moveIn renames a file to its final name, whose folder it makes.
func moveIn(from, to string) error {
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		err = os.Rename(from, to)
	}
	return err
}

// remove unlinks files; what is gone already is no error.
func remove(paths ...string) error {
	var errs []error
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// allocatedBytes is what a file really takes on the disk.
func allocatedBytes(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}

func statfs(dir string) (uint64, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		if err == nil {
			return st.Bavail * uint64(st.Bsize), nil
		}
		if err != unix.EINTR {
			return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
		}
	}
}

func clampBytes(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
