package registry

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/breakwater-oci/breakwater/hub/blob"
)

// Most clients send a blob as one stream (PATCH) and then only say its digest
// (PUT). At the end of a stream the store makes the key whole, so that nothing
// of it has to wait in the row: what is left is a commit of the rows.

// becameWhole says that a key could not be gone on with since a request before
// has made it whole, just as the row has it, but could not tell the rows any
// more.
func (w *writer) becameWhole(ctx context.Context, err error) bool {
	if !errors.Is(err, fs.ErrNotExist) || w.offset != w.row.OffsetBytes || w.offset == 0 {
		return false
	}
	c, err := w.r.blobs.Open(ctx, w.row.StorageKey, w.offset)
	if err != nil {
		return false
	}
	defer c.Close()
	last, err := c.Section(ctx, w.offset-1, 1) // some stores only look when they have to
	if err != nil {
		return false
	}
	defer last.Close()
	_, err = io.ReadFull(last, make([]byte, 1))
	return err == nil
}

// reopen makes the store go on with what is whole. Who sends a blob as one
// stream and then another piece of it is rare, and so this may be dear.
func (w *writer) reopen(ctx context.Context) error {
	to, err := w.r.blobs.Create(ctx, w.row.StorageKey)
	switch {
	case errors.Is(err, fs.ErrExist): // a file, which can be longer any time
		to, err = w.r.blobs.Resume(ctx, w.row.StorageKey, w.offset, nil)
	case err == nil: // what is whole stays until it is replaced
		if err = w.copyTo(ctx, to); err != nil {
			err = errors.Join(err, to.Close())
		}
	}
	if err != nil {
		return err
	}
	to.OnSaved(w.saved)
	w.w, w.whole = to, false
	return nil
}

func (w *writer) copyTo(ctx context.Context, to blob.Writer) error {
	r, err := w.read(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.CopyN(to, r, w.offset)
	return err
}

// read reads what is whole.
func (w *writer) read(ctx context.Context) (io.ReadCloser, error) {
	c, err := w.r.blobs.Open(ctx, w.row.StorageKey, w.offset)
	if err != nil {
		return nil, err
	}
	section, err := c.Section(ctx, 0, w.offset)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{section, both{section, c}}, nil
}

type both [2]io.Closer

// Close implements io.Closer.
func (b both) Close() error { return errors.Join(b[0].Close(), b[1].Close()) }
