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
	_, err := purge(dir, false)
	return err
}

// Trace is what [Purge] removes of a directory.
type Trace struct {
	Files int
	Bytes int64
}

// Inspect says what [Purge] would remove, with the same errors.
func Inspect(dir string) (Trace, error) { return purge(dir, true) }

func purge(dir string, dryRun bool) (Trace, error) {
	root, err := os.OpenRoot(dir) // no link in it leads out
	if errors.Is(err, fs.ErrNotExist) {
		return Trace{}, nil
	}
	if err != nil {
		return Trace{}, err
	}
	defer root.Close()
	lock, err := lockDir(dir)
	if err != nil {
		return Trace{}, err
	}
	defer lock.Close()
	f, err := readFormat(root.FS())
	if errors.Is(err, fs.ErrNotExist) {
		return Trace{}, nil
	}
	if err != nil {
		return Trace{}, err
	}
	p := &purger{root: root, dryRun: dryRun}
	if err := errors.Join(
		p.blobs(),
		p.folder(partialDir, isPartialName),
		p.folder(refsDir, func(name string) bool { return name == refsFile }),
		p.folder(tmpDir, func(name string) bool { return strings.Trim(name, "0123456789") == "" }),
		p.names(".", func(name string) bool { return strings.HasPrefix(name, "."+formatFile) }),
	); err != nil {
		return p.Trace, err // FORMAT stays: another Purge goes on from here
	}
	if err := p.remove(formatFile); err != nil || dryRun {
		return p.Trace, err
	}
	for p := filepath.Clean(dir); f.Made > 0 && os.Remove(p) == nil; p = filepath.Dir(p) {
		f.Made--
	}
	return p.Trace, nil
}

// purger removes files and counts them; with dryRun it only counts.
type purger struct {
	Trace
	root   *os.Root
	dryRun bool
}

func (p *purger) remove(name string) error {
	info, err := p.root.Lstat(name)
	if err != nil {
		return err
	}
	if !p.dryRun {
		if err := p.root.Remove(name); err != nil {
			return err
		}
	}
	p.Files++
	p.Bytes += info.Size()
	return nil
}

func (p *purger) blobs() error {
	var errs []error
	for _, algorithm := range []string{"sha256", "sha512"} {
		dir := path.Join(blobsDir, algorithm)
		folders, err := readNames(p.root, dir)
		errs = append(errs, err)
		for _, folder := range folders {
			ours := func(name string) bool {
				hex := strings.TrimSuffix(name, sidecarExt)
				_, err := oci.ParseDigest(algorithm + ":" + hex)
				return err == nil && hex[:2] == folder
			}
			if len(folder) == 2 {
				errs = append(errs, p.folder(path.Join(dir, folder), ours))
			}
		}
		errs = append(errs, p.removeFolder(dir))
	}
	return errors.Join(append(errs, p.removeFolder(blobsDir))...)
}

func isPartialName(name string) bool {
	_, err := partialDigest(strings.TrimSuffix(name, chunkMapExt))
	return err == nil
}

// folder removes what is ours in a folder, and the folder if that was all.
func (p *purger) folder(dir string, ours func(name string) bool) error {
	return errors.Join(p.names(dir, ours), p.removeFolder(dir))
}

func (p *purger) names(dir string, ours func(name string) bool) error {
	names, err := readNames(p.root, dir)
	errs := []error{err}
	for _, name := range names {
		if ours(name) {
			errs = append(errs, p.remove(path.Join(dir, name)))
		}
	}
	return errors.Join(errs...)
}

func (p *purger) removeFolder(dir string) error {
	if p.dryRun {
		return nil
	}
	err := p.root.Remove(dir)
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
