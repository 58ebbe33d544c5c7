package ociserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// startUpload serves POST /v2/<name>/blobs/uploads/ (distribution-spec v1.1,
// "Pushing blobs" and "Mounting a blob from another repository").
func (s *Server) startUpload(w *response, r *http.Request, q Request) error {
	if v := q.Query.Get("mount"); v != "" {
		if done, err := s.mount(w, r, q, v); done || err != nil {
			return err
		}
	}
	alg := q.Query.Get("digest-algorithm")
	v := q.Query.Get("digest")
	if v == "" {
		return s.openUpload(w, r, q, alg)
	}
	d, err := oci.ParseDigest(v)
	if err != nil {
		return err
	}
	alg = d.Algorithm().String()
	if r.ContentLength == 0 && d != d.Algorithm().FromBytes(nil) {
		return s.openUpload(w, r, q, alg) // the blob will follow
	}
	return s.uploadAtOnce(w, r, q, d)
}

// mountable is the registry's name for the repository to mount from.
func (s *Server) mountable(q Request, from string) (name string, ok bool) {
	if oci.CheckName(from) != nil {
		return "", false
	}
	name, err := s.name(q.Namespace, from)
	return name, err == nil
}

// mount answers when the blob could be mounted. When it cannot, the client
// uploads: even to say why would tell what is in a repository that it may not
// see. An error of the registry is the answer: a token that leaves from out is
// refused whatever is there.
func (s *Server) mount(w *response, r *http.Request, q Request, v string) (done bool, err error) {
	d, err := oci.ParseDigest(v)
	if err != nil {
		return false, err
	}
	from := q.Query.Get("from")
	if from != "" {
		name, ok := s.mountable(q, from)
		if !ok {
			return false, nil
		}
		from = name
	}
	ok, err := s.reg.Mount(r.Context(), q.Repo, from, d)
	if !ok || err != nil {
		return false, err
	}
	return true, s.blobCreated(w, r, q, d)
}

func (s *Server) openUpload(w *response, r *http.Request, q Request, alg string) error {
	u, err := s.reg.StartUpload(r.Context(), q.Repo, alg)
	if err != nil {
		return err
	}
	if s.o.ChunkMinBytes > 0 {
		w.Header().Set("OCI-Chunk-Min-Length", strconv.FormatInt(s.o.ChunkMinBytes, 10))
	}
	s.uploadHeaders(w, r, q, u)
	return w.writeEmpty(http.StatusAccepted)
}

// uploadAtOnce takes a blob in a single POST.
func (s *Server) uploadAtOnce(w *response, r *http.Request, q Request, d oci.Digest) error {
	u, err := s.reg.StartUpload(r.Context(), q.Repo, d.Algorithm().String())
	if err != nil {
		return err
	}
	in := s.incoming(w, r)
	if _, err := s.reg.FinishUpload(r.Context(), q.Repo, u.ID, d, 0, in, r.ContentLength); err != nil {
		// The client was given no name for this upload to go on with.
		_ = s.reg.CancelUpload(context.WithoutCancel(r.Context()), q.Repo, u.ID) // else it expires
		return in.blame(err)
	}
	return s.blobCreated(w, r, q, d)
}

// uploadStatus serves GET /v2/<name>/blobs/uploads/<id> ("Pushing a blob in
// chunks").
func (s *Server) uploadStatus(w *response, r *http.Request, q Request) error {
	u, err := s.reg.UploadStatus(r.Context(), q.Repo, q.UploadID)
	if err != nil {
		return err
	}
	u.ID = q.UploadID
	s.uploadHeaders(w, r, q, u)
	return w.writeEmpty(http.StatusNoContent)
}

// appendUpload serves PATCH of the same: a chunk, or all of a stream.
func (s *Server) appendUpload(w *response, r *http.Request, q Request) error {
	off, size, in, err := s.chunk(w, r)
	if err != nil {
		return err
	}
	u, err := s.reg.AppendUpload(r.Context(), q.Repo, q.UploadID, off, in, size)
	if err != nil {
		return s.chunkRefused(w, r, q, in.blame(err))
	}
	u.ID = q.UploadID
	s.uploadHeaders(w, r, q, u)
	return w.writeEmpty(http.StatusAccepted)
}

// finishUpload serves PUT of the same, with the last chunk or without.
func (s *Server) finishUpload(w *response, r *http.Request, q Request) error {
	d, err := oci.ParseDigest(q.Query.Get("digest"))
	if err != nil {
		return err
	}
	off, size, in, err := s.chunk(w, r)
	if err != nil {
		return err
	}
	var body io.Reader
	if r.ContentLength != 0 {
		body = in
	}
	if _, err := s.reg.FinishUpload(r.Context(), q.Repo, q.UploadID, d, off, body, size); err != nil {
		return s.chunkRefused(w, r, q, in.blame(err))
	}
	return s.blobCreated(w, r, q, d)
}

// cancelUpload serves DELETE of the same ("Cancel a blob upload").
func (s *Server) cancelUpload(w *response, r *http.Request, q Request) error {
	if err := s.reg.CancelUpload(r.Context(), q.Repo, q.UploadID); err != nil {
		return err
	}
	return w.writeEmpty(http.StatusNoContent)
}

// chunkRefused tells the client of a misplaced chunk where the upload ends.
func (s *Server) chunkRefused(w *response, r *http.Request, q Request, err error) error {
	if oci.CodeOf(err) == oci.UploadOutOfOrder {
		if u, err := s.reg.UploadStatus(r.Context(), q.Repo, q.UploadID); err == nil {
			u.ID = q.UploadID
			s.uploadHeaders(w, r, q, u)
		}
	}
	return err
}

// uploadHeaders says where an upload goes on. Its Range counts from the first
// byte to the last: "0-0" is one byte, and by everyone's custom also none.
func (s *Server) uploadHeaders(w *response, r *http.Request, q Request, u oci.Upload) {
	h := w.Header()
	h.Set("Location", s.location(r, q, "/blobs/uploads/"+url.PathEscape(u.ID)))
	h.Set("Range", "0-"+strconv.FormatInt(max(u.OffsetBytes-1, 0), 10))
	h.Set("Docker-Upload-UUID", u.ID)
}

func (s *Server) blobCreated(w *response, r *http.Request, q Request, d oci.Digest) error {
	h := w.Header()
	h.Set("Location", s.location(r, q, "/blobs/"+d.String()))
	h.Set("Docker-Content-Digest", d.String())
	return w.writeEmpty(http.StatusCreated)
}

// chunk reads where a request's body belongs: off is -1 when that is unsaid,
// size when its length is.
func (s *Server) chunk(w *response, r *http.Request) (off, size int64, in *incoming, err error) {
	in = s.incoming(w, r)
	v := r.Header.Get("Content-Range")
	if v == "" {
		return -1, r.ContentLength, in, nil
	}
	off, n, ok := parseContentRange(v)
	switch {
	case !ok:
		return 0, 0, nil, oci.Errorf(oci.BlobUploadInvalid, "Content-Range is %.80q, want <first>-<last>", v)
	case r.ContentLength >= 0 && r.ContentLength != n:
		return 0, 0, nil, oci.Errorf(oci.SizeInvalid, "Content-Range %s has %d bytes but Content-Length is %d", v, n, r.ContentLength)
	}
	return off, n, in, nil
}

// parseContentRange reads the spec's "0-99", and "bytes 0-99/*" as RFC 9110
// would have it.
func parseContentRange(v string) (off, n int64, ok bool) {
	v, _, _ = strings.Cut(strings.TrimPrefix(v, "bytes "), "/")
	first, last, ok := strings.Cut(v, "-")
	off, okFirst := number(first)
	end, okLast := number(last)
	if !ok || !okFirst || !okLast || end < off || end == math.MaxInt64 {
		return 0, 0, false
	}
	return off, end - off + 1, true
}

// incoming is a request's body that remembers how it broke.
type incoming struct {
	r     io.Reader
	err   error
	conn  *http.ResponseController
	stall time.Duration // 0: no bound
}

func (s *Server) incoming(w *response, r *http.Request) *incoming {
	return &incoming{r: r.Body, conn: http.NewResponseController(w), stall: s.o.BodyTimeout}
}

// Read implements io.Reader. Time passes only while the client is waited for.
func (in *incoming) Read(p []byte) (int, error) {
	if in.stall > 0 { // where a deadline cannot be set there is none
		_ = in.conn.SetReadDeadline(time.Now().Add(in.stall))
	}
	n, err := in.r.Read(p)
	if err == nil {
		return n, nil
	}
	if err != io.EOF {
		in.err = err
	}
	if in.stall > 0 && !errors.Is(err, os.ErrDeadlineExceeded) { // what follows may take its time
		_ = in.conn.SetReadDeadline(time.Time{})
	}
	return n, err
}

// blame turns the registry's error into the client's when its body broke.
func (in *incoming) blame(err error) error {
	if _, ok := errors.AsType[*oci.Error](err); ok || in.err == nil {
		return err
	}
	message := "the body did not arrive whole"
	if errors.Is(in.err, os.ErrDeadlineExceeded) {
		message += fmt.Sprintf(": nothing of it came for %v", in.stall)
	}
	return &oci.Error{Code: oci.BlobUploadInvalid, Message: message, Err: err}
}
