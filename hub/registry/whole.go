package registry

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Most clients send a blob as one stream (PATCH) and then only say its digest
// (PUT). At the end of a stream the store makes the key whole, so that nothing
// of it has to wait in the row: what is left is a commit of the rows.

// A client that is not answered sends the end of a blob again, and by then the
// store may have made the key whole: with that end, of which the rows know
// nothing. It cannot be gone on with then, but what the rows know of can be read
// from it, and so nobody has to send it again.

// longerState is what the row says of a key that is whole with n bytes, at least
// those of the row.
func longerState(n int64) []byte { return binary.AppendVarint([]byte{longer}, n) }

// wholeBytes is how many bytes the store has of a key that is whole; 0 for one
// that is not there, or only begun.
func (w *writer) wholeBytes(ctx context.Context) (n int64, err error) {
	err = w.r.blobs.Walk(ctx, w.row.StorageKey, func(o blob.Object) error {
		if o.Key == w.row.StorageKey && !o.Begun {
			n = o.SizeBytes
		}
		return nil
	})
	return n, err
}

// becameWhole says that a key cannot be gone on with since a request before has
// made it whole, and that it holds what the row knows of, at the least.
func (w *writer) becameWhole(ctx context.Context, err error) bool {
	if !errors.Is(err, fs.ErrNotExist) || w.row.OffsetBytes == 0 {
		return false
	}
	n, err := w.wholeBytes(ctx)
	if err != nil || n < w.row.OffsetBytes {
		return false
	}
	w.has = n
	return true
}

// lost makes of a key that is gone what the client is told: to begin anew, or,
// where the store has it whole, to go on from where the row has it. What it has
// sent since is in there, but nobody knows that for sure.
func (w *writer) lost(ctx context.Context, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	if !w.becameWhole(ctx, err) {
		return &oci.Error{Code: oci.BlobUploadUnknown, Message: "the upload cannot be gone on with: begin anew", Err: err}
	}
	w.latest = nil // which can be gone on with as little
	next := w.row
	next.DriverState = longerState(w.has)
	if err := w.put(ctx, next, false); err != nil {
		return err
	}
	return &oci.Error{Code: oci.Unavailable, Message: "the upload was about to end: ask where it ends, and go on from there", Err: err}
}

// reopen makes the store go on with what is whole: a file under its key, where it
// can be longer any time; an object, which cannot, as a copy under a new key. The
// row gets that key with the first of it that is saved, and what is whole stays
// until then. Who sends a blob as one stream and then another piece of it is rare,
// and so this may be dear; but it is once for an upload, since only a first stream
// is made whole.
func (w *writer) reopen(ctx context.Context) error {
	to, err := w.r.blobs.Resume(ctx, w.row.StorageKey, w.offset, nil)
	if errors.Is(err, errors.ErrUnsupported) {
		if w.key == w.row.StorageKey || w.asked {
			w.key = blob.NewKey()
		}
		if to, err = w.r.blobs.Create(ctx, w.key); err == nil {
			err = w.copyTo(ctx, to)
		}
		if err != nil && to != nil {
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

// read reads what is whole, as far as this upload goes.
func (w *writer) read(ctx context.Context) (io.ReadCloser, error) {
	c, err := w.r.blobs.Open(ctx, w.row.StorageKey, w.has)
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
