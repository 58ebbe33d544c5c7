package cache

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Purge removes all that caches wrote in dir and nothing else: folders go when
// nothing foreign is left in them, dir and those above it when they were made
// for the cache. A dir that is missing or no cache's is no error; [ErrInUse]
// and [ErrFormat] are refusals.
func Purge(dir string) error {
	root, err := os.OpenRoot(dir) // no link in it leads out
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	f, err := readFormat(root.FS())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := errors.Join(
		purgeBlobs(root),
		purgeFolder(root, partialDir, isPartialName),
		purgeFolder(root, refsDir, func(name string) bool { return name == refsFile }),
		purgeFolder(root, tmpDir, func(name string) bool { return strings.Trim(name, "0123456789") == "" }),
		removeNames(root, ".", func(name string) bool { return strings.HasPrefix(name, "."+formatFile) }),
	); err != nil {
		return err // FORMAT stays: another Purge goes on from here
	}
	if err := root.Remove(formatFile); err != nil {
		return err
	}
	for p := filepath.Clean(dir); f.Made > 0 && os.Remove(p) == nil; p = filepath.Dir(p) {
		f.Made--
	}
	return nil
}

func purgeBlobs(root *os.Root) error {
	var errs []error
	for _, algorithm := range []string{"sha256", "sha512"} {
		dir := path.Join(blobsDir, algorithm)
		folders, err := readNames(root, dir)
		errs = append(errs, err)
		for _, folder := range folders {
			ours := func(name string) bool {
				hex := strings.TrimSuffix(name, sidecarExt)
				_, err := oci.ParseDigest(algorithm + ":" + hex)
				return err == nil && hex[:2] == folder
			}
			if len(folder) == 2 {
				errs = append(errs, purgeFolder(root, path.Join(dir, folder), ours))
			}
		}
		errs = append(errs, removeFolder(root, dir))
	}
	return errors.Join(append(errs, removeFolder(root, blobsDir))...)
}

func isPartialName(name string) bool {
	_, err := partialDigest(strings.TrimSuffix(name, chunkMapExt))
	return err == nil
}

// purgeFolder removes what is ours in a folder, and the folder if that was
// all.
func purgeFolder(root *os.Root, dir string, ours func(name string) bool) error {
	return errors.Join(removeNames(root, dir, ours), removeFolder(root, dir))
}

func removeNames(root *os.Root, dir string, ours func(name string) bool) error {
	names, err := readNames(root, dir)
	errs := []error{err}
	for _, name := range names {
		if ours(name) {
			errs = append(errs, root.Remove(path.Join(dir, name)))
		}
	}
	return errors.Join(errs...)
}

func removeFolder(root *os.Root, dir string) error {
	err := root.Remove(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return err
}

func readNames(root *os.Root, dir string) ([]string, error) {
	f, err := root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
