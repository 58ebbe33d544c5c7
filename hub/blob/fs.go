package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Names in the folder that are no keys.
const (
	lockName = "lock" // held as long as the store is open
	tempName = "tmp"  // spools, where a file must have a name
)

// FS is a [Store] in a folder, which one process at a time may have open. A key
// is a file of that name.
type FS struct {
	root    string
	lock    *os.File
	unnamed bool // files without a name can be made, and be given one

	mu   sync.Mutex
	dirs map[string]bool // folders whose own name is known to be on disk
}

// NewFS opens the store in the folder root, which is made when it is not
// there. It fails when another process has it open, and when it cannot be
// written to.
func NewFS(root string) (*FS, error) {
	s := &FS{root: root, dirs: make(map[string]bool)}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("storage folder %s: %w", root, errors.Join(err, s.Close()))
	}
	return s, nil
}

func (s *FS) open() (err error) {
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return err
	}
	if s.lock, err = lockFile(filepath.Join(s.root, lockName)); err != nil {
		return err
	}
	// Whatever is in there, nobody writes it any more.
	if err := os.RemoveAll(filepath.Join(s.root, tempName)); err != nil {
		return err
	}
	if s.unnamed, err = s.probe(); err != nil {
		return err
	}
	if !s.unnamed {
		if err := os.Mkdir(filepath.Join(s.root, tempName), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// lockFile takes the lock that keeps a second hub away from the folder, which
// would take this one's files for nobody's. It ends with the process.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		pid, _ := io.ReadAll(io.LimitReader(f, 20))
		return nil, fmt.Errorf("%w (process %s)", ErrLocked, strings.TrimSpace(string(pid)))
	}
	// Who it is only helps the message above, so that failing to say is no fault.
	_ = f.Truncate(0)
	_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
	return f, nil
}

// probe finds out now what the first push would, and whether a file can be
// made without a name.
func (s *FS) probe() (unnamed bool, err error) {
	name := filepath.Join(s.root, ".probe")
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	f, err := openUnnamed(s.root)
	if err == nil {
		err = link(f, name)
		unnamed = err == nil
		err = errors.Join(err, f.Close())
	}
	if !unnamed {
		if f, err = create(name); err != nil {
			return false, err
		}
		err = f.Close()
	}
	return unnamed, errors.Join(err, os.Remove(name), syncDir(s.root))
}

// Close implements [Store]: it lets another process have the folder.
func (s *FS) Close() error {
	if s.lock == nil {
		return nil
	}
	if err := s.lock.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// Open implements [Store].
func (s *FS) Open(_ context.Context, key string, sizeBytes int64) (oci.Content, error) {
	path, err := s.path(key)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && fi.Size() != sizeBytes {
		err = fmt.Errorf("%s has %d bytes, not the %d that were stored", path, fi.Size(), sizeBytes)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return oci.FileContent(f), nil
}

// URL implements [Store]: a folder has none.
func (s *FS) URL(context.Context, string, time.Duration) (string, error) { return "", nil }

// Create implements [Store].
func (s *FS) Create(_ context.Context, key string) (Writer, error) {
	path, err := s.path(key)
	if err != nil {
		return nil, err
	}
	var f *os.File
	err = s.inDir(path, func() (err error) { f, err = create(path); return err })
	if err != nil {
		return nil, Fault(err)
	}
	return &fsWriter{f: f}, nil
}

// Resume implements [Store]. There is no state: a file says itself how long it
// is.
func (s *FS) Resume(_ context.Context, key string, offset int64, _ []byte) (Writer, error) {
	path, err := s.path(key)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	w := &fsWriter{f: f, offset: offset}
	if err := w.rewind(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return w, nil
}

// InKey implements [Store].
func (s *FS) InKey([]byte) bool { return true }

// Reserve implements [Store]: states are nothing.
func (s *FS) Reserve(context.Context, int64) (free func(), err error) { return func() {}, nil }

// PutFile implements [Store]. Where the file system can, the bytes are shared
// and not copied.
func (s *FS) PutFile(ctx context.Context, key string, f *os.File, sizeBytes int64) (err error) {
	path, err := s.path(key)
	if err != nil {
		return err
	}
	var dst *os.File
	if err := s.inDir(path, func() (err error) { dst, err = create(path); return err }); err != nil {
		return Fault(err)
	}
	defer func() {
		if err = errors.Join(err, dst.Close()); err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	if err := copyFile(ctx, dst, f, sizeBytes); err != nil {
		return fmt.Errorf("copy %s: %w", f.Name(), err)
	}
	return commit(dst, path)
}

// copyFile copies the first sizeBytes of src, whose own offset others may use.
func copyFile(ctx context.Context, dst, src *os.File, sizeBytes int64) error {
	if err := allocate(dst, 0, sizeBytes); err != nil {
		return err
	}
	var r io.Reader = io.NewSectionReader(src, 0, sizeBytes)
	if again, err := oci.Reopen(src); err == nil {
		defer again.Close()
		r = again // as a file, so that the kernel copies
	}
	const step = 64 << 20 // between looks at whether it is still wanted
	for left := sizeBytes; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(dst, r, min(left, step))
		if left -= n; err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return Fault(err)
		}
	}
	return nil
}

// Delete implements [Store].
func (s *FS) Delete(ctx context.Context, keys ...string) error {
	var errs []error
	for _, key := range keys {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
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

// DeleteWhole implements [Store].
func (s *FS) DeleteWhole(ctx context.Context, keys ...string) error { return s.Delete(ctx, keys...) }

// Abort implements [Store].
func (s *FS) Abort(context.Context, ...string) error { return nil }

// Walk implements [Store].
func (s *FS) Walk(ctx context.Context, prefix string, fn func(Object) error) error {
	return filepath.WalkDir(s.root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // deleted meanwhile
			return nil
		}
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		key, err := filepath.Rel(s.root, path)
		if err != nil || key == "." {
			return err
		}
		key = filepath.ToSlash(key)
		switch {
		case e.IsDir():
			if dir := key + "/"; key == tempName || !strings.HasPrefix(dir, prefix) && !strings.HasPrefix(prefix, dir) {
				return fs.SkipDir
			}
			return nil
		case !e.Type().IsRegular(), key == lockName, !strings.HasPrefix(key, prefix):
			return nil
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return fn(Object{Key: key, SizeBytes: info.Size(), At: info.ModTime()})
	})
}

// path is the file of a key, which must not lead out of the folder.
func (s *FS) path(key string) (string, error) {
	p, err := filepath.Localize(key)
	if top, _, _ := strings.Cut(key, "/"); err == nil && (top == lockName || top == tempName || key == ".") {
		err = errors.New("the name is taken")
	}
	if err != nil {
		return "", fmt.Errorf("%q is no storage key: %w", key, err)
	}
	return filepath.Join(s.root, p), nil
}

// inDir calls fn, which makes the file path, with its folder there and on disk.
func (s *FS) inDir(path string, fn func() error) error {
	dir := filepath.Dir(path)
	if err := s.makeDir(dir, false); err != nil {
		return err
	}
	err := fn()
	if errors.Is(err, fs.ErrNotExist) { // someone has tidied up
		if err = s.makeDir(dir, true); err == nil {
			err = fn()
		}
	}
	return err
}

// makeDir makes a folder whose name is on disk when it returns, whoever made
// it: who comes second must not rely on a name that is still being written.
func (s *FS) makeDir(dir string, anew bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dirs[dir] && !anew {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for d := dir; d != s.root; d = filepath.Dir(d) {
		if err := syncDir(filepath.Dir(d)); err != nil {
			return err
		}
	}
	s.dirs[dir] = true
	return nil
}

func create(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// link gives a file that has no name one.
func link(f *os.File, path string) error {
	fd := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if err := unix.Linkat(unix.AT_FDCWD, fd, unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &os.LinkError{Op: "link", Old: fd, New: path, Err: err}
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

var _ Store = (*FS)(nil)
