package blob

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// NewSpool implements [Store].
func (s *FS) NewSpool(_ context.Context, sizeBytes int64) (Spool, error) {
	p := &fsSpool{store: s, temp: !s.unnamed}
	var err error
	if s.unnamed {
		p.f, err = openUnnamed(s.root)
	} else {
		p.f, err = os.CreateTemp(filepath.Join(s.root, tempName), "*")
	}
	if err != nil {
		return nil, Fault(err)
	}
	if err := allocate(p.f, 0, sizeBytes); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// fsSpool is the [Spool] of a folder: a file that lacks only its name.
type fsSpool struct {
	store *FS
	f     *os.File
	temp  bool // it has a name under tmp
}

// File implements [Spool].
func (p *fsSpool) File() *os.File { return p.f }

// Keep implements [Spool].
func (p *fsSpool) Keep(_ context.Context, key string, sizeBytes int64) error {
	path, err := p.store.path(key)
	if err != nil {
		return err
	}
	fi, err := p.f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() < sizeBytes {
		return fmt.Errorf("keep %s: %d of %d bytes are there", key, fi.Size(), sizeBytes)
	}
	// Cuts off what is too much, and gives back what was reserved and did not come.
	if err := p.f.Truncate(sizeBytes); err != nil {
		return err
	}
	if err := p.store.inDir(path, func() error { return p.link(path) }); err != nil {
		return Fault(err)
	}
	if err := commit(p.f, path); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func (p *fsSpool) link(path string) error {
	if p.temp {
		return os.Link(p.f.Name(), path)
	}
	return link(p.f, path)
}

// Close implements [Spool].
func (p *fsSpool) Close() error {
	err := p.f.Close()
	if p.temp {
		p.temp = false
		err = errors.Join(err, os.Remove(p.f.Name()))
	}
	return err
}

// openUnnamed makes a file that has no name: of one that is not finished
// nothing is left, whatever ends the process. errors.ErrUnsupported where the
// file system has no such files.
func openUnnamed(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if errors.Is(err, unix.EISDIR) { // it does not even know the question
		err = errors.ErrUnsupported
	}
	return f, err
}
