package oci

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"
)

// FileContent is the content of a blob that lies whole in f, which it owns.
// The file may be unlinked while it is read.
func FileContent(f *os.File) Content { return &fileContent{f: f} }

type fileContent struct {
	f     *os.File
	taken atomic.Bool // f's own file offset belongs to the first section
}

// Section gives each reader a file offset of its own, so that a TCP connection
// can use sendfile: the first takes f's, later ones open the file anew.
func (c *fileContent) Section(_ context.Context, off, n int64) (io.ReadCloser, error) {
	if c.taken.CompareAndSwap(false, true) {
		if _, err := c.f.Seek(off, io.SeekStart); err != nil {
			return nil, err
		}
		return &FileSection{f: c.f, n: n}, nil
	}
	f, _ := Reopen(c.f)
	if f == nil {
		return io.NopCloser(io.NewSectionReader(c.f, off, n)), nil // no /proc: slower, as right
	}
	if _, err := f.Seek(off, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return &FileSection{f: f, n: n, owned: true}, nil
}

func (c *fileContent) Close() error { return c.f.Close() }

// Reopen opens the file f is open on once more for reading, with an offset of
// its own, even when its name is gone.
func Reopen(f *os.File) (*os.File, error) {
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
}

// FileSection reads n bytes from a file's current offset, and hands the file
// itself to a writer that can take it (sendfile).
type FileSection struct {
	f     *os.File
	n     int64
	owned bool
}

func (s *FileSection) Read(p []byte) (int, error) {
	if s.n == 0 {
		return 0, io.EOF
	}
	n, err := s.f.Read(p[:min(int64(len(p)), s.n)])
	s.n -= int64(n)
	if err == io.EOF && s.n > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// WriteTo implements io.WriterTo.
func (s *FileSection) WriteTo(w io.Writer) (int64, error) {
	n, err := io.CopyN(w, s.f, s.n)
	s.n -= n
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close closes the file when the section opened it.
func (s *FileSection) Close() error {
	if s.owned {
		return s.f.Close()
	}
	return nil
}

// BytesContent is the content of a small blob in memory.
func BytesContent(b []byte) Content { return bytesContent(b) }

type bytesContent []byte

func (c bytesContent) Section(_ context.Context, off, n int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(c[off : off+n])), nil
}

func (c bytesContent) Close() error { return nil }
