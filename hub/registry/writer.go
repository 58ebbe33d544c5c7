package registry

import (
	"context"
	"crypto"
	_ "crypto/sha256" // of the digests that are computed
	_ "crypto/sha512"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// hashes are the digest algorithms an upload can be hashed with on its way.
var hashes = map[string]crypto.Hash{
	"sha256": crypto.SHA256,
	"sha512": crypto.SHA512,
}

// resumable is a hash whose state can be stored and taken up again.
type resumable interface {
	hash.Hash
	encoding.BinaryMarshaler
	encoding.BinaryUnmarshaler
}

func newHash(alg string) (resumable, error) {
	if h, ok := hashes[alg]; ok {
		if r, ok := h.New().(resumable); ok {
			return r, nil
		}
	}
	return nil, oci.Errorf(oci.DigestInvalid, "%q is not a digest algorithm known here, want sha256 or sha512", alg)
}

// buffer is what bytes are read into on their way to a file.
type buffer [256 << 10]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// writer writes on an upload's file, and hashes what it writes.
type writer struct {
	f      *os.File
	alg    string
	hash   resumable
	offset int64
}

// openWriter takes an upload up where its row says it ends.
func openWriter(blobs *blob.FS, u meta.Upload) (w *writer, err error) {
	w = &writer{alg: u.Alg, offset: u.OffsetBytes}
	if w.hash, err = newHash(u.Alg); err == nil {
		err = w.hash.UnmarshalBinary(u.HashState)
	}
	if err != nil {
		return nil, fmt.Errorf("upload %s: %w", u.ID, err)
	}
	w.f, err = blobs.Reopen(u.StorageKey)
	if errors.Is(err, fs.ErrNotExist) {
		// Its file goes first when an upload is given up.
		return nil, &oci.Error{Code: oci.BlobUploadUnknown, Err: err}
	}
	if err != nil {
		return nil, err
	}
	if err := w.rewind(); err != nil {
		w.f.Close()
		return nil, fmt.Errorf("upload %s: %w", u.ID, err)
	}
	return w, nil
}

// rewind cuts off what was written but never noted in the row.
func (w *writer) rewind() error {
	fi, err := w.f.Stat()
	if err != nil {
		return err
	}
	switch {
	case fi.Size() < w.offset:
		return broken("the end is missing of", w.f.Name())
	case fi.Size() > w.offset:
		if err := w.f.Truncate(w.offset); err != nil {
			return err
		}
	}
	_, err = w.f.Seek(w.offset, io.SeekStart)
	return err
}

// readFrom writes what r gives: size bytes, or all when size is negative. What
// it wrote before an error counts.
func (w *writer) readFrom(ctx context.Context, r io.Reader, size int64) (err error) {
	if size >= 1<<20 { // a disk too full for it says so now
		if err := blob.Allocate(w.f, w.offset+size); err != nil {
			return err
		}
		defer func() {
			if err != nil { // what is not coming needs no room
				err = errors.Join(err, w.f.Truncate(w.offset))
			}
		}()
	}
	buf, _ := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	var total int64
	var end error
	for end == nil && total != size {
		p := buf[:]
		if size >= 0 {
			p = p[:min(int64(len(p)), size-total)]
		}
		var n int
		n, end = fill(r, p)
		if err := w.write(p[:n]); err != nil {
			return err
		}
		total += int64(n)
		if end == nil {
			end = ctx.Err()
		}
	}
	switch {
	case end != nil && !errors.Is(end, io.EOF):
		return &oci.Error{Code: oci.BlobUploadInvalid, Message: "the upload was cut off", Err: end}
	case size >= 0 && total != size:
		return oci.Errorf(oci.SizeInvalid, "%d bytes were announced, %d came", size, total)
	}
	return nil
}

// fill reads until p is full or r ends, whose error it returns as it is: one
// that says the client is gone must not pass for the end.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = r.Read(p[n:])
		n += k
	}
	return n, err
}

func (w *writer) write(p []byte) error {
	n, err := w.f.Write(p)
	w.hash.Write(p[:n]) // never fails
	w.offset += int64(n)
	if err != nil {
		return fmt.Errorf("write upload: %w", blob.Fault(err))
	}
	return nil
}

// digest is the digest of all that was written. It reads the file when that is
// of another algorithm than was hashed on the way.
func (w *writer) digest(alg digest.Algorithm) (oci.Digest, error) {
	if alg.String() == w.alg {
		return digest.NewDigest(alg, w.hash), nil
	}
	return alg.FromReader(io.NewSectionReader(w.f, 0, w.offset))
}
