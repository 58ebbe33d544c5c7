package registry

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// An upload is a row and a file, the row there first and gone last, so that no
// crash leaves a file nobody knows of. The row's offset and hash state are
// noted at the end of each request, when the bytes are on disk: from there it
// goes on, after a restart too.

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
	if err := r.meta.CreateUpload(ctx, repo, u); err != nil {
		return oci.Upload{}, refused(err, repo)
	}
	f, err := r.blobs.Create(u.StorageKey)
	if err != nil {
		r.drop(ctx, u)
		return oci.Upload{}, err
	}
	return oci.Upload{ID: u.ID}, f.Close()
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
	u, release, err := r.hold(ctx, repo, id, off)
	if err != nil {
		return oci.Upload{}, err
	}
	defer release()
	w, err := openWriter(r.blobs, u)
	if err != nil {
		return oci.Upload{}, err
	}
	defer w.f.Close()
	cut := w.readFrom(ctx, body, size)
	u, err = r.save(ctx, u, w)
	if cut != nil {
		err = cut
	}
	return status(u), err
}

// FinishUpload implements [oci.Pusher]. An upload whose digest proves wrong is
// dropped: nothing added to it would make it right.
func (r *Registry) FinishUpload(ctx context.Context, repo, id string, d oci.Digest, off int64, body io.Reader, size int64) (oci.Descriptor, error) {
	u, release, err := r.hold(ctx, repo, id, off)
	if err != nil {
		return oci.Descriptor{}, err
	}
	defer release()
	w, err := openWriter(r.blobs, u)
	if err != nil {
		return oci.Descriptor{}, err
	}
	defer w.f.Close()
	if body != nil {
		if cut := w.readFrom(ctx, body, size); cut != nil {
			if _, err := r.save(ctx, u, w); err != nil {
				r.log.Warn("cannot note how far an upload has come", "repo", repo, "err", err)
			}
			return oci.Descriptor{}, cut
		}
	}
	switch got, err := w.digest(d.Algorithm()); {
	case err != nil:
		return oci.Descriptor{}, fmt.Errorf("hash upload: %w", err)
	case got != d:
		r.drop(ctx, u)
		return oci.Descriptor{}, oci.Errorf(oci.DigestInvalid, "the digest of the %d bytes uploaded is %s", w.offset, got)
	}
	if err := r.blobs.Commit(w.f, u.StorageKey); err != nil {
		return oci.Descriptor{}, fmt.Errorf("commit upload: %w", err)
	}
	won, err := r.meta.CommitUpload(ctx, u, d, w.offset)
	if err != nil {
		// It may have been committed all the same: the file stays, and whose it
		// is, the rows say.
		return oci.Descriptor{}, absent(err, oci.BlobUploadUnknown)
	}
	if !won {
		r.drop(ctx, u) // the same bytes were here, or came first
	}
	return oci.Descriptor{MediaType: octets, Digest: d, Size: w.offset}, nil
}

// CancelUpload implements [oci.Pusher].
func (r *Registry) CancelUpload(ctx context.Context, repo, id string) error {
	u, release, err := r.hold(ctx, repo, id, -1)
	if err != nil {
		return err
	}
	defer release()
	return r.remove(ctx, u)
}

// hold takes an upload for one request, which is to begin at off; release
// gives it back.
func (r *Registry) hold(ctx context.Context, repo, id string, off int64) (u meta.Upload, release func(), err error) {
	release, free := r.tryHold(id)
	u, err = r.meta.Upload(ctx, repo, id)
	switch {
	case err != nil:
		err = absent(err, oci.BlobUploadUnknown)
	case !free:
		err = &oci.Error{Code: oci.UploadOutOfOrder, Message: "another request is writing to the upload", Detail: status(u)}
	case off >= 0 && off != u.OffsetBytes:
		err = &oci.Error{Code: oci.UploadOutOfOrder, Detail: status(u)}
	}
	if err != nil {
		release()
		return meta.Upload{}, nil, err
	}
	return u, release, nil
}

// tryHold is hold for an id alone. When it is not free, release does nothing.
func (r *Registry) tryHold(id string) (release func(), free bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, taken := r.held[id]; taken {
		return func() {}, false
	}
	r.held[id] = struct{}{}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.held, id)
	}, true
}

// saveTimeout bounds what is done for a client that may be gone.
const saveTimeout = 30 * time.Second

// save notes how far w has come, once that is on disk. The client may be gone
// by then: it comes back for the rest.
func (r *Registry) save(ctx context.Context, u meta.Upload, w *writer) (meta.Upload, error) {
	if w.offset == u.OffsetBytes {
		return u, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	state, err := w.hash.MarshalBinary()
	if err != nil {
		return u, err
	}
	if err := r.blobs.Commit(w.f, u.StorageKey); err != nil {
		return u, fmt.Errorf("save upload: %w", err)
	}
	if err := r.meta.SaveUpload(ctx, u.ID, u.OffsetBytes, w.offset, state); err != nil {
		return u, absent(err, oci.BlobUploadUnknown)
	}
	u.OffsetBytes, u.HashState = w.offset, state
	return u, nil
}

// remove deletes an upload's file, then its row.
func (r *Registry) remove(ctx context.Context, u meta.Upload) error {
	if err := r.blobs.Delete(u.StorageKey); err != nil {
		return fmt.Errorf("delete upload: %w", err)
	}
	return r.meta.DeleteUpload(ctx, u.ID)
}

// drop is remove where the client's answer does not depend on it: what fails
// is left to [Registry.Reap].
func (r *Registry) drop(ctx context.Context, u meta.Upload) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	if err := r.remove(ctx, u); err != nil {
		r.log.Warn("cannot remove an upload, it is tried again later", "err", err)
	}
}
