package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// fsWriter is the [Writer] of a folder: the file under its final name.
type fsWriter struct {
	f        *os.File
	offset   int64
	expected int64 // up to where bytes are to come
	reserved int64 // up to where there is room for them
	dirty    bool  // written to since it was last made durable
	named    bool  // its name is on disk
	failed   error // of making it durable: what is on disk nobody knows since
}

// reserveBytes is how far ahead of what has come room is reserved: who says that
// much is to come, and sends nothing, takes no more of the disk.
const reserveBytes = 1 << 30

// Write implements [io.Writer].
func (w *fsWriter) Write(p []byte) (int, error) {
	if end := w.offset + int64(len(p)); end > w.reserved && w.expected > w.reserved {
		if err := w.reserve(); err != nil {
			return 0, err
		}
	}
	n, err := w.f.Write(p)
	w.offset += int64(n)
	w.dirty = true
	return n, Fault(err)
}

// Expect implements [Writer].
func (w *fsWriter) Expect(n int64) error {
	if n <= 0 {
		return nil
	}
	if err := fits(w.f, n-max(0, w.reserved-w.offset)); err != nil {
		return err
	}
	w.expected = max(w.expected, w.offset+n)
	return w.reserve()
}

// reserve makes room for the next stretch of what is expected.
func (w *fsWriter) reserve() error {
	n := min(w.expected-w.offset, reserveBytes)
	if err := allocate(w.f, w.offset, n); err != nil {
		return err
	}
	w.reserved = max(w.reserved, w.offset+n)
	return nil
}

// fits says whether the disk has n bytes left, as far as it tells.
func fits(f *os.File, n int64) error {
	var st unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &st) == nil && st.Blocks > 0 { // else to reserve tells
		if free := int64(st.Bavail) * st.Bsize; n > free {
			return &oci.Error{Code: oci.NoSpace, Err: fmt.Errorf("%d bytes are to come, %d are free", n, free)}
		}
	}
	return nil
}

// OnSaved implements [Writer]: nothing is durable before [fsWriter.Save].
func (w *fsWriter) OnSaved(func(int64, []byte) error) {}

// Save implements [Writer].
func (w *fsWriter) Save(context.Context) ([]byte, error) {
	if w.failed == nil && (w.dirty || !w.named) {
		// To ask again after a failure would be told a lie: the kernel drops what it
		// could not write.
		w.failed = commit(w.f, w.f.Name())
		w.dirty, w.named = false, true
	}
	return nil, w.failed
}

// Commit implements [Writer].
func (w *fsWriter) Commit(ctx context.Context) error {
	if err := w.giveBack(); err != nil {
		return err
	}
	_, err := w.Save(ctx)
	return err
}

// commit returns once f is on disk with its name.
func commit(f *os.File, path string) error {
	if err := f.Sync(); err != nil {
		return Fault(err)
	}
	return Fault(syncDir(filepath.Dir(path)))
}

// Reader implements [Writer].
func (w *fsWriter) Reader(context.Context) (io.ReadCloser, error) {
	f, err := os.Open(w.f.Name())
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, 0, w.offset), f}, nil
}

// Close implements [Writer].
func (w *fsWriter) Close() error { return errors.Join(w.giveBack(), w.f.Close()) }

// giveBack frees the room for what did not come.
func (w *fsWriter) giveBack() error {
	if w.reserved <= w.offset {
		return nil
	}
	w.expected, w.reserved = 0, 0
	return w.f.Truncate(w.offset)
}

// rewind goes to the offset, and cuts off what was written past it.
func (w *fsWriter) rewind() error {
	fi, err := w.f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() < w.offset {
		return fmt.Errorf("%s has %d bytes, not the %d that were saved", w.f.Name(), fi.Size(), w.offset)
	}
	if err := w.f.Truncate(w.offset); err != nil {
		return err
	}
	_, err = w.f.Seek(w.offset, io.SeekStart)
	return err
}
