package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// An upload is a row and, once it is not small any more, a key in the store; the
// row is there first and gone last, so that no crash leaves bytes nobody knows
// of. One replica at a time writes to a key: who takes an upload from another, and
// who finds bytes there that nobody knows how to go on with, goes on at a new key
// where that can be. For a replica that was only taken for dead may still write
// and delete at the old one. (Parts of an object it can send at most: the list of
// them that the upload ends with tells them apart.) Offset, hash state and what the storage driver needs are noted in the row
// at the end of each request, of a long one meanwhile, when the bytes are where
// they can be gone on with: from there it goes on, after a restart and at
// another replica too.
//
// What a client is told to be there is durable, rows and bytes, and where a
// standby of the database is waited for, there too: it need not keep what it has
// sent. Only the beginning does not wait for the disk: a crash of the machine may
// undo it, and then there is nothing yet that the client would lose.

const (
	// saveTimeout bounds what is done for a client that may be gone.
	saveTimeout = 30 * time.Second
	// commitTimeout bounds how long a store may take to make a key whole. Of
	// thousands of parts an object store makes one for minutes.
	commitTimeout = 10 * time.Minute
	// tailTimeout bounds how long what fills no part waits to be saved: for the
	// parts before it, and for its turn at the memory.
	tailTimeout = 5 * time.Minute
	// noteEvery is how often it is noted how far a long request has come. The
	// note holds the names of all parts.
	noteEvery = time.Second
)

// StartUpload implements [oci.Pusher].
func (r *Registry) StartUpload(ctx context.Context, repo, alg string) (oci.Upload, error) {
	if err := r.pushable(repo); err != nil {
		return oci.Upload{}, err
	}
	if alg == "" {
		alg = "sha256"
	}
	h, err := newHash(alg)
	if err != nil {
		return oci.Upload{}, err
	}
	state, err := h.MarshalBinary()
	if err != nil {
		return oci.Upload{}, err
	}
	id, err := uuid.NewRandom() // who knows it may write on
	if err != nil {
		return oci.Upload{}, err
	}
	u := meta.Upload{ID: id.String(), StorageKey: blob.NewKey(), Alg: alg, HashState: state}
	return oci.Upload{ID: u.ID}, refused(r.meta.CreateUpload(ctx, repo, u), repo)
}

// UploadStatus implements [oci.Pusher].
func (r *Registry) UploadStatus(ctx context.Context, repo, id string) (oci.Upload, error) {
	u, err := r.meta.Upload(ctx, repo, id)
	if err != nil {
		return oci.Upload{}, absent(err, oci.BlobUploadUnknown)
	}
	return status(u), nil
}

func status(u meta.Upload) oci.Upload { return oci.Upload{ID: u.ID, OffsetBytes: u.OffsetBytes} }

// AppendUpload implements [oci.Pusher]. An [oci.UploadOutOfOrder] error's
// Detail is the [oci.Upload] as it is: at another offset, or at work for
// another request.
func (r *Registry) AppendUpload(ctx context.Context, repo, id string, off int64, body io.Reader, size int64) (oci.Upload, error) {
	u, err := r.hold(ctx, repo, id, off)
	if err != nil {
		return oci.Upload{}, err
	}
	defer r.release(ctx, id)
	w, err := r.writer(ctx, u)
	if err != nil {
		return oci.Upload{}, err
	}
	defer w.close(ctx)
	cut := w.readFrom(ctx, body, size)
	err = w.save(ctx, cut == nil && off < 0 && w.first)
	if cut != nil {
		r.unsaved(err)
		err = cut
	}
	return status(w.row), err
}

// unsaved logs that less was noted of an upload than has come. The client is
// told of what was wrong before, and asks where to go on.
func (r *Registry) unsaved(err error) {
	if err != nil {
		r.log.Warn("cannot note how far an upload has come", "err", err)
	}
}

// FinishUpload implements [oci.Pusher]. An upload whose digest proves wrong is
// dropped: nothing added to it would make it right.
func (r *Registry) FinishUpload(ctx context.Context, repo, id string, d oci.Digest, off int64, body io.Reader, size int64) (oci.Descriptor, error) {
	u, err := r.hold(ctx, repo, id, off)
	if oci.CodeOf(err) == oci.BlobUploadUnknown {
		return r.finished(ctx, repo, d, err)
	}
	if err != nil {
		return oci.Descriptor{}, err
	}
	defer r.release(ctx, id)
	w, err := r.writer(ctx, u)
	if err != nil {
		return oci.Descriptor{}, err
	}
	defer w.close(ctx)
	if body != nil {
		if cut := w.readFrom(ctx, body, size); cut != nil {
			r.unsaved(w.save(ctx, false))
			return oci.Descriptor{}, cut
		}
	}
	switch got, err := w.digest(ctx, d.Algorithm()); {
	case err != nil:
		return oci.Descriptor{}, fmt.Errorf("hash upload: %w", err)
	case got != d:
		r.drop(ctx, w.row) // which may have another key by now
		return oci.Descriptor{}, oci.Errorf(oci.DigestInvalid, "the digest of the %d bytes uploaded is %s", w.offset, got)
	}
	if err := w.commit(ctx); err != nil {
		return oci.Descriptor{}, fmt.Errorf("commit upload: %w", err)
	}
	return r.publish(ctx, repo, w, d)
}

// publish makes what w has committed a blob of the repository.
func (r *Registry) publish(ctx context.Context, repo string, w *writer, d oci.Digest) (oci.Descriptor, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	won, err := r.meta.CommitUpload(ctx, w.row, d, w.offset)
	if err != nil {
		// It may have happened all the same: the bytes stay, and whose they are,
		// the rows say.
		return oci.Descriptor{}, notHeld(err)
	}
	if !won { // the same bytes were here, or came first
		r.tidied(r.erase(ctx, w.row))
	}
	return oci.Descriptor{MediaType: octets, Digest: d, Size: w.offset}, nil
}

// finished answers for an upload that is not there. Who was not told whether it
// was finished asks again; and when the blob is in the repository, it was.
func (r *Registry) finished(ctx context.Context, repo string, d oci.Digest, unknown error) (oci.Descriptor, error) {
	info, err := r.Stat(ctx, repo, d)
	if oci.CodeOf(err) == oci.BlobUnknown {
		err = unknown
	}
	return info.Descriptor, err
}

// CancelUpload implements [oci.Pusher].
func (r *Registry) CancelUpload(ctx context.Context, repo, id string) error {
	u, err := r.hold(ctx, repo, id, -1)
	if err != nil {
		return err
	}
	defer r.release(ctx, id)
	return r.remove(ctx, u)
}

// hold takes an upload for one request, which is to begin at off, until
// release.
func (r *Registry) hold(ctx context.Context, repo, id string, off int64) (meta.Upload, error) {
	var was string
	u, err := r.meta.HoldUpload(ctx, repo, id, func(u meta.Upload) string {
		if was = ""; r.inKey(u.DriverState) {
			return u.StorageKey
		}
		was = u.StorageKey
		return blob.NewKey()
	})
	if err == nil && was != "" {
		r.forget(ctx, was)
	}
	switch {
	case errors.Is(err, meta.ErrHeld):
		return u, &oci.Error{Code: oci.UploadOutOfOrder, Message: "another request is writing to the upload", Detail: status(u), Err: err}
	case err != nil:
		return u, absent(err, oci.BlobUploadUnknown)
	case off >= 0 && off != u.OffsetBytes:
		r.release(ctx, id)
		return u, &oci.Error{Code: oci.UploadOutOfOrder, Detail: status(u)}
	}
	return u, nil
}

func (r *Registry) release(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	if err := r.meta.ReleaseUpload(ctx, id); err != nil {
		r.log.Warn("cannot release an upload, it is tried again later", "err", err)
	}
}

// remove deletes an upload that is held: its bytes, then its row. From its first
// step on nobody can go on with it, so that no bytes are deleted that another
// replica, which took this one for dead, has written since.
func (r *Registry) remove(ctx context.Context, u meta.Upload) error {
	if err := r.meta.DoomUpload(ctx, u.ID); err != nil {
		return absent(err, oci.BlobUploadUnknown)
	}
	return r.erase(ctx, u)
}

// erase deletes what is left of an upload that is doomed.
func (r *Registry) erase(ctx context.Context, u meta.Upload) error {
	if err := r.blobs.Delete(ctx, u.StorageKey); err != nil {
		return fmt.Errorf("delete upload: %w", err)
	}
	return r.meta.DeleteUpload(ctx, u.ID)
}

// forget erases a key that an upload has left, and which is doomed.
func (r *Registry) forget(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	r.tidied(r.erase(ctx, meta.Upload{ID: key, StorageKey: key}))
}

// drop is remove where the client's answer does not depend on it.
func (r *Registry) drop(ctx context.Context, u meta.Upload) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	r.tidied(r.remove(ctx, u))
}

// tidied logs what is left to [Registry.Reap].
func (r *Registry) tidied(err error) {
	if err != nil {
		r.log.Warn("cannot remove an upload, it is tried again later", "err", err)
	}
}
