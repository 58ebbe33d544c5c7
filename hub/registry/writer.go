package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// tailBytes is how much of an upload is kept in its row alone, before any of it
// is in the store. Most configs and many layers come whole by then, and cost
// the store one write.
const tailBytes = 64 << 10

// buffer is what bytes are read into on their way to the store. The first one
// of a body of unknown length says whether it is a short one.
type buffer [256 << 10]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// bulkBytes is from where on the row says that the store may hold something: a
// driver's parts are no smaller.
const bulkBytes = 4 << 20

// writer appends to an upload that is held, and hashes what it appends. It is
// for one goroutine.
type writer struct {
	r   *Registry
	row meta.Upload // as it is stored, but for a state that is long
	key string      // where w writes: the row's key, or one that is not in it yet
	// asked: the row was asked to have that one, and may by now.
	asked bool
	first bool // nothing was in the store when the request began

	hash   resumable
	offset int64
	tail   []byte      // all there is, while nothing is in the store
	w      blob.Writer // nil until then
	whole  bool        // the store has it whole, and w is nil
	has    int64       // how many bytes then are there: the upload's, or more
	stale  bool        // the store may hold what is to be deleted first

	marks  marks
	latest *point    // where the driver said last that it could go on, until it is noted
	noted  time.Time // when that was last done
}

// writer takes an upload up where its row says it ends.
func (r *Registry) writer(ctx context.Context, row meta.Upload) (w *writer, err error) {
	w = &writer{r: r, row: row, key: row.StorageKey, offset: row.OffsetBytes, noted: time.Now()}
	if w.hash, err = newHash(row.Alg); err == nil {
		err = w.hash.UnmarshalBinary(row.HashState)
	}
	if err == nil {
		err = w.load(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("upload %s: %w", row.ID, err)
	}
	w.first = w.w == nil && !w.whole
	return w, nil
}

// begin makes the store's key, with what was kept in the row until now. n bytes
// are about to come; -1: nobody knows how many.
func (w *writer) begin(ctx context.Context, n int64) (err error) {
	if int64(len(w.tail))+n >= bulkBytes {
		if err := w.noteBegun(ctx); err != nil {
			return err
		}
	}
	if w.stale {
		if err := w.move(ctx); err != nil {
			return err
		}
	}
	to, err := w.r.blobs.Create(ctx, w.key)
	if errors.Is(err, fs.ErrExist) && !w.stale { // left by a crash
		w.stale = true
		return w.begin(ctx, n)
	}
	if err != nil {
		return err
	}
	w.stale = true // until it can be gone on with
	to.OnSaved(w.saved)
	if n >= 0 {
		err = to.Expect(int64(len(w.tail)) + n)
	}
	if err == nil && len(w.tail) > 0 {
		_, err = to.Write(w.tail)
	}
	if err != nil {
		return errors.Join(err, to.Close())
	}
	w.w, w.tail = to, nil
	return nil
}

// move leaves what the store may hold, of which the row needs nothing, for a new
// key.
func (w *writer) move(ctx context.Context) error {
	next := w.row
	next.StorageKey = blob.NewKey()
	if err := w.put(ctx, next, false); err != nil {
		return err
	}
	w.key = next.StorageKey
	return nil
}

// noteBegun notes in the row, once, that the store may hold something from now
// on: whoever comes after a crash then knows to delete it.
func (w *writer) noteBegun(ctx context.Context) error {
	if kind := w.row.DriverState; len(kind) > 0 && kind[0] != inRow {
		return nil
	}
	next := w.row
	next.DriverState = append([]byte{begun}, next.DriverState[min(1, len(next.DriverState)):]...)
	return w.put(ctx, next, false)
}

// saved hears from the storage driver how far it has come. That is in the midst
// of a Write, before what is written was hashed: to note it waits until then.
func (w *writer) saved(offset int64, state []byte) error {
	w.latest = &point{offset, state}
	return nil
}

// readFrom appends what body gives: size bytes, or all when size is negative.
// What it wrote before an error counts.
func (w *writer) readFrom(ctx context.Context, body io.Reader, size int64) error {
	// The client may leave: what has come until then is kept all the same.
	kept := context.WithoutCancel(ctx)
	if size >= 0 {
		if err := w.expect(kept, size); err != nil {
			return fmt.Errorf("write upload: %w", w.lost(ctx, err))
		}
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
		n, end = fill(body, p)
		if err := w.write(kept, p[:n]); err != nil {
			return fmt.Errorf("write upload: %w", w.lost(ctx, err))
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

// expect makes room for n bytes about to come.
func (w *writer) expect(ctx context.Context, n int64) error {
	if w.whole && n > 0 {
		if err := w.reopen(ctx); err != nil {
			return err
		}
	}
	switch {
	case w.w != nil:
		return w.w.Expect(n)
	case !w.whole && int64(len(w.tail))+n > tailBytes:
		return w.begin(ctx, n)
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

func (w *writer) write(ctx context.Context, p []byte) error {
	switch {
	case len(p) == 0:
		return nil
	case w.whole:
		if err := w.reopen(ctx); err != nil {
			return err
		}
	case w.w == nil:
		if len(w.tail)+len(p) <= tailBytes {
			w.tail = append(w.tail, p...)
			w.hash.Write(p) // never fails
			w.offset += int64(len(p))
			return nil
		}
		if err := w.begin(ctx, -1); err != nil {
			return err
		}
	}
	for len(p) > 0 {
		piece := p[:min(int64(len(p)), blob.SaveStep-w.offset%blob.SaveStep)]
		if w.offset+int64(len(piece)) > bulkBytes {
			if err := w.noteBegun(ctx); err != nil {
				return err
			}
		}
		n, err := w.w.Write(piece)
		w.hash.Write(piece[:n])
		w.offset += int64(n)
		if err != nil {
			return err
		}
		if err := w.mark(ctx); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// commit makes what was written whole and durable.
func (w *writer) commit(ctx context.Context) error {
	if w.whole && w.has == w.offset {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	switch {
	case w.whole:
		if err := w.reopen(ctx); err != nil {
			return err
		}
	case w.w == nil:
		if err := w.begin(ctx, 0); err != nil {
			return err
		}
	}
	err := w.w.Commit(ctx)
	if err == nil && w.key != w.row.StorageKey {
		return w.moveWhole(ctx)
	}
	if err == nil {
		return nil
	}
	if w.offset == w.row.OffsetBytes && w.becameWhole(ctx, err) && w.has == w.offset {
		return nil // by a request before, which could not tell the rows
	}
	return w.lost(ctx, err)
}

// moveWhole makes the row speak of the key that was made whole in place of its
// own.
func (w *writer) moveWhole(ctx context.Context) (err error) {
	next := w.row
	next.StorageKey, next.OffsetBytes, next.DriverState = w.key, w.offset, []byte{isWhole}
	if next.HashState, err = w.hash.MarshalBinary(); err != nil {
		return err
	}
	return w.put(ctx, next, false)
}

// close frees what is open. What was saved stays; a key that no row was ever
// asked to have is nobody's.
func (w *writer) close(ctx context.Context) {
	var err error
	if w.w != nil {
		err = w.w.Close()
	}
	if w.key != w.row.StorageKey && !w.asked {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
		defer cancel()
		err = errors.Join(err, w.r.blobs.Delete(ctx, w.key))
	}
	if err != nil {
		w.r.log.Warn("cannot close an upload", "err", err)
	}
}

// digest is the digest of all that was written. It reads that back when it is
// of another algorithm than was hashed on the way.
func (w *writer) digest(ctx context.Context, alg digest.Algorithm) (oci.Digest, error) {
	switch {
	case alg.String() == w.row.Alg:
		return digest.NewDigest(alg, w.hash), nil
	case w.w == nil && !w.whole:
		return alg.FromBytes(w.tail), nil
	}
	read := w.read
	if !w.whole {
		read = w.w.Reader
	}
	r, err := read(ctx)
	if err != nil {
		return "", err
	}
	defer r.Close()
	return alg.FromReader(r)
}
