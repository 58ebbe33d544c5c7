package hosts

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
)

// tmpName is where files and directories are made before a rename puts them in place:
// beside their destination, so on its file system. The leading dot keeps it from being
// looked up as a registry. One that is found under the lock was left by a killed run.
const tmpName = ".breakwater-tmp"

// attr is what a file has besides its bytes.
type attr struct {
	mode     fs.FileMode
	uid, gid int       // -1: whoever we are
	modTime  time.Time // zero: now
}

var plain = attr{mode: 0o644, uid: -1, gid: -1}

// disk makes every change there is to make on disk, one step at a time.
type disk struct {
	before func(op, path string) error // nil, or asked ahead of each step
}

func (d disk) step(op, path string, do func() error) error {
	if d.before != nil {
		if err := d.before(op, path); err != nil {
			return err
		}
	}
	return do()
}

func (d disk) mkdir(path string, mode fs.FileMode) error {
	return d.step("mkdir", path, func() error {
		if err := os.Mkdir(path, mode); err != nil {
			return err
		}
		return os.Chmod(path, mode) // whatever the umask
	})
}

func (d disk) remove(path string) error {
	return d.step("remove", path, func() error { return os.Remove(path) })
}

func (d disk) rename(from, to string) error {
	return d.step("rename", to, func() error { return os.Rename(from, to) })
}

// sync makes the names in a directory durable.
func (d disk) sync(dir string) error {
	return d.step("sync", dir, func() error {
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Sync()
	})
}

// staged calls do with a fresh directory inside of dir and removes it afterwards, with
// all that is still in it.
func (d disk) staged(dir string, do func(tmp string) error) error {
	tmp := filepath.Join(dir, tmpName)
	if err := d.mkdir(tmp, 0o700); err != nil {
		return err
	}
	err := do(tmp)
	return errors.Join(err, d.removeAll(tmp))
}

func (d disk) removeAll(path string) error {
	return d.step("remove", path, func() error { return os.RemoveAll(path) })
}

// put makes path a regular file with these bytes and attributes, by rename, durably.
func (d disk) put(path string, data []byte, a attr) error {
	dir := filepath.Dir(path)
	return d.staged(dir, func(tmp string) error {
		var f *renameio.PendingFile
		err := d.step("write", path, func() (err error) {
			f, err = write(path, tmp, data, a)
			return err
		})
		if err != nil {
			return err
		}
		defer func() { _ = f.Cleanup() }() // after the rename there is nothing to do
		if err := d.step("rename", path, f.CloseAtomicallyReplace); err != nil {
			return err
		}
		return d.sync(dir)
	})
}

// write fills a file in tmp that is to replace path.
func write(path, tmp string, data []byte, a attr) (f *renameio.PendingFile, err error) {
	f, err = renameio.NewPendingFile(path, renameio.WithTempDir(tmp))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Cleanup())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// Only where it changes something: without CAP_CHOWN even a no-op may be refused.
	if uid, gid := owner(info); a.uid >= 0 && (uid != a.uid || gid != a.gid) {
		if err = f.Chown(a.uid, a.gid); err != nil {
			return nil, err
		}
	}
	if err = f.Chmod(a.mode); err != nil {
		return nil, err
	}
	return f, os.Chtimes(f.Name(), time.Time{}, a.modTime) // a zero time stays as it is
}

// link makes path a symbolic link, by rename, durably.
func (d disk) link(path, target string) error {
	dir := filepath.Dir(path)
	return d.staged(dir, func(tmp string) error {
		made := filepath.Join(tmp, "link")
		if err := d.step("write", path, func() error { return os.Symlink(target, made) }); err != nil {
			return err
		}
		if err := d.rename(made, path); err != nil {
			return err
		}
		return d.sync(dir)
	})
}

// clean removes what killed runs left in root and in the directories in it.
func (d disk) clean(root string) error {
	dirs := []string{root}
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		dirs = append(dirs, filepath.Join(root, e.Name())) // links to directories too
	}
	var errs []error
	for _, dir := range dirs {
		tmp := filepath.Join(dir, tmpName)
		if _, err := os.Lstat(tmp); err == nil {
			errs = append(errs, d.removeAll(tmp))
		}
	}
	return errors.Join(errs...)
}
