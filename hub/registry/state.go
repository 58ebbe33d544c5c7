package registry

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
)

// An upload's DriverState begins with what the rest is.
const (
	inRow   = 't' // all its bytes
	begun   = 'b' // the same, but the store may hold more, which nobody knows how to go on with
	inStore = 's' // the storage driver's state
	isWhole = 'w' // nothing: the store has the key, whole, with just that many bytes
	longer  = 'l' // as a varint, how many bytes the key has that the store has whole: at least the upload's
)

// point is where an upload could be gone on with, by the storage driver.
type point struct {
	offset int64
	state  []byte
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
