package blob

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FS is a folder of blobs. Its methods may be called concurrently, each key
// being written by one at a time.
type FS struct {
	root string
}

// OpenFS returns the store in the folder root, which is made when it is not
// there. It fails when root cannot be written to.
func OpenFS(root string) (*FS, error) {
	s := &FS{root: root}
	if err := s.probe(); err != nil {
		return nil, fmt.Errorf("storage folder %s: %w", root, err)
	}
	return s, nil
}

// probe finds out now what the first push would.
func (s *FS) probe() error {
	if err := os.MkdirAll(filepath.Join(s.root, "b"), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.root, ".probe-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString("written to see whether that can be done\n")
	return errors.Join(err, f.Close(), os.Remove(f.Name()), syncDir(s.root))
}

// Create makes the file of a new key, for writing and reading. Its name is on
// disk only after [FS.Commit].
func (s *FS) Create(key string) (*os.File, error) {
	path, err := s.path(key)
	if err != nil {
		return nil, err
	}
	f, err := create(path)
	if errors.Is(err, fs.ErrNotExist) { // its folder's first
		if err = s.makeDir(filepath.Dir(path)); err == nil {
			f, err = create(path)
		}
	}
	return f, Fault(err)
}

// CreateUnnamed makes a file that has no name until [FS.Name] gives it one: of
// one that is not finished nothing is left, whatever ends the process.
// errors.ErrUnsupported where the file system has no such files.
func (s *FS) CreateUnnamed() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(s.root, "b"), os.O_RDWR|unix.O_TMPFILE, 0o600)
	if errors.Is(err, unix.EISDIR) { // it does not even know the question
		err = errors.ErrUnsupported
	}
	return f, Fault(err)
}

// Name makes f, from [FS.CreateUnnamed], the file of a new key. As with
// [FS.Create] the name is on disk only after [FS.Commit].
func (s *FS) Name(f *os.File, key string) error {
	path, err := s.path(key)
	if err != nil {
		return err
	}
	err = link(f, path)
	if errors.Is(err, fs.ErrNotExist) { // its folder's first
		if err = s.makeDir(filepath.Dir(path)); err == nil {
			err = link(f, path)
		}
	}
	return Fault(err)
}

func link(f *os.File, path string) error {
	fd := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if err := unix.Linkat(unix.AT_FDCWD, fd, unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &os.LinkError{Op: "link", Old: fd, New: path, Err: err}
	}
	return nil
}

func create(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// Open opens a key's file for reading; fs.ErrNotExist when there is none.
func (s *FS) Open(key string) (*os.File, error) {
	path, err := s.path(key)
	if err != nil {
		return nil, err
	}
	return os.Open(path)
}

// Reopen opens a key's file for writing on, and for reading; fs.ErrNotExist
// when there is none.
func (s *FS) Reopen(key string) (*os.File, error) {
	path, err := s.path(key)
	if err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR, 0)
}

// Commit returns once f, the file of key, is on disk with its name. Only then
// may a row speak of it. After an error it is unknown which bytes are.
func (s *FS) Commit(f *os.File, key string) error {
	path, err := s.path(key)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return Fault(err)
	}
	return Fault(syncDir(filepath.Dir(path)))
}

// Delete removes keys' files. One that is gone already is no error; an error
// at one does not keep the others.
func (s *FS) Delete(keys ...string) error {
	var errs []error
	for _, key := range keys {
		path, err := s.path(key)
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Walk calls fn for each file there is, in the order of keys, for as long as
// it returns nil. Files made meanwhile may be left out.
func (s *FS) Walk(ctx context.Context, fn func(key string, info fs.FileInfo) error) error {
	return filepath.WalkDir(filepath.Join(s.root, "b"), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // deleted meanwhile
			return nil
		}
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if !e.Type().IsRegular() {
			return nil
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		key, err := filepath.Rel(s.root, path)
		if err != nil {
			return err
		}
		return fn(filepath.ToSlash(key), info)
	})
}

// path is the file of a key, which must not lead out of the folder.
func (s *FS) path(key string) (string, error) {
	p, err := filepath.Localize(key)
	if err != nil {
		return "", fmt.Errorf("%q is no storage key: %w", key, err)
	}
	return filepath.Join(s.root, p), nil
}

// makeDir makes a folder of files, its name being on disk when it returns.
func (s *FS) makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
