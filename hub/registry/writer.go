package registry

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
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

// An upload's DriverState begins with what the rest is.
const (
	inRow   = 't' // all its bytes
	begun   = 'b' // the same, but the store may hold more, which nobody knows how to go on with
	inStore = 's' // the storage driver's state
	isWhole = 'w' // nothing: the store has the key, whole, with just that many bytes
	longer  = 'l' // as a varint, how many bytes the key has that the store has whole: at least the upload's
)

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

// point is where an upload could be gone on with, by the storage driver.
type point struct {
	offset int64
	state  []byte
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

// load goes on from the row's state. One that is long holds bytes that fill no
// part: it is read only when there is memory for it.
func (w *writer) load(ctx context.Context) error {
	state := w.row.DriverState
	if w.row.StateBytes > int64(len(state)) {
		free, err := w.r.blobs.Reserve(ctx, 2*w.row.StateBytes) // the database's driver has a copy of its own
		if err != nil {
			return err
		}
		defer free()
		if state, err = w.r.meta.UploadState(ctx, w.row.ID); err != nil {
			return notHeld(err)
		}
	}
	if len(state) == 0 {
		return nil
	}
	w.row.DriverState = short(state)
	return w.restore(ctx, state[0], state[1:])
}

// short is a state as it is kept while the upload is worked on: of one that the
// store goes on from only what it is.
func short(state []byte) []byte {
	if state[0] == inStore {
		return []byte{inStore}
	}
	return state
}

// inKey says whether a state, or the start of a long one, speaks of bytes that
// are at the upload's key, and nowhere else.
func (r *Registry) inKey(state []byte) bool {
	switch {
	case len(state) == 0, state[0] == inRow, state[0] == begun:
		return false
	case state[0] == inStore:
		return r.blobs.InKey(state[1:])
	}
	return true
}

func (w *writer) restore(ctx context.Context, kind byte, state []byte) (err error) {
	switch {
	case (kind == inRow || kind == begun) && int64(len(state)) == w.offset:
		w.tail, w.stale = state, kind == begun
		return nil
	case kind == isWhole:
		w.whole, w.has = true, w.offset
		return nil
	case kind == longer:
		n, k := binary.Varint(state)
		if k <= 0 || n < w.offset {
			return errors.New("its state is damaged")
		}
		w.whole, w.has = true, n
		return nil
	case kind != inStore:
		return errors.New("its state is not one of this program")
	}
	to, err := w.r.blobs.Resume(context.WithoutCancel(ctx), w.row.StorageKey, w.offset, state)
	if err != nil {
		if w.whole = w.becameWhole(ctx, err); w.whole {
			return nil
		}
		return w.lost(ctx, err)
	}
	w.w = to
	w.w.OnSaved(w.saved)
	return nil
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

// mark keeps the hash's state where it may be asked for, and notes in the row
// how far the upload has come, when it is time.
func (w *writer) mark(ctx context.Context) error {
	if w.offset%blob.SaveStep == 0 {
		state, err := w.hash.MarshalBinary()
		if err != nil {
			return err
		}
		w.marks.add(w.offset, state)
	}
	if time.Since(w.noted) < w.r.noteEvery {
		return nil
	}
	err := w.checkpoint(ctx)
	if err != nil && !errors.Is(err, meta.ErrNotFound) && !errors.Is(err, meta.ErrHeld) {
		w.r.log.Warn("cannot note how far an upload has come", "err", err)
		return nil // the next one, or the end, will do
	}
	return err
}

// checkpoint notes in the row where the storage driver could go on.
func (w *writer) checkpoint(ctx context.Context) error {
	at := w.latest
	if at == nil {
		return nil
	}
	w.latest, w.noted = nil, time.Now()
	next := w.row
	next.StorageKey = w.key
	next.OffsetBytes, next.HashState, next.DriverState = at.offset, w.marks.take(at.offset), slices.Insert(at.state, 0, inStore)
	if next.HashState == nil || at.offset <= w.row.OffsetBytes {
		return nil
	}
	return w.put(ctx, next, false)
}

// save notes all that was written, once that can be gone on with; when that
// fails, as much of it as can. The hold ends with it. The end of a stream is
// likely the end of the blob: with whole the store makes it so, and then nothing
// is left to do for it.
func (w *writer) save(ctx context.Context, whole bool) (err error) {
	if w.offset == w.row.OffsetBytes {
		return nil
	}
	next := w.row
	next.OffsetBytes = w.offset
	switch {
	case w.w == nil && w.stale:
		next.DriverState = append([]byte{begun}, w.tail...)
	case w.w == nil:
		next.DriverState = append([]byte{inRow}, w.tail...)
	case whole:
		if err := w.commit(ctx); err != nil {
			return fmt.Errorf("save upload: %w", err)
		}
		next.DriverState = []byte{isWhole}
	default:
		state, err := w.saveInStore(ctx)
		if err != nil {
			return fmt.Errorf("save upload: %w", errors.Join(w.lost(ctx, err), w.checkpoint(ctx)))
		}
		next.StorageKey = w.key
		next.DriverState = slices.Insert(state, 0, inStore) // for which there is room in it
	}
	if next.HashState, err = w.hash.MarshalBinary(); err != nil {
		return err
	}
	return w.put(ctx, next, true)
}

func (w *writer) saveInStore(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tailTimeout)
	defer cancel()
	return w.w.Save(ctx)
}

// put stores next as the row. With leave the hold ends, unless next has another
// key.
func (w *writer) put(ctx context.Context, next meta.Upload, leave bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	was := w.row
	var err error
	if next.StorageKey == was.StorageKey {
		err = w.r.meta.SaveUpload(ctx, next, was.OffsetBytes, leave)
	} else {
		w.asked = true
		err = w.r.meta.MoveUpload(ctx, next, was)
	}
	if err != nil {
		return notHeld(err)
	}
	w.row = next
	if len(next.DriverState) > 0 {
		w.row.DriverState = short(next.DriverState)
	}
	if next.StorageKey != was.StorageKey {
		w.r.forget(ctx, was.StorageKey)
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
