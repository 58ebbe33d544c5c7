package ociserver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// headBlob serves HEAD /v2/<name>/blobs/<digest> (distribution-spec v1.1,
// "Checking if content exists").
func (s *Server) headBlob(w *response, r *http.Request, q Request) error {
	info, err := within(s, w, r, func(ctx context.Context) (oci.BlobInfo, error) {
		return s.reg.Stat(ctx, q.Repo, q.Digest)
	}, nothing)
	if err != nil {
		return err
	}
	s.blobHeaders(w, info)
	if httpx.IfNoneMatch(r, etag(info.Digest)) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(info.Size, 10))
	w.WriteHeader(http.StatusOK)
	return nil
}

// getBlob serves GET of the same ("Pulling blobs"), with Range. There is never
// a Content-Encoding: digests and ranges are of the bytes as they are stored.
//
// A blob that can be fetched elsewhere is answered with 307 ("Pulling blobs"
// allows that), and Range means there what it means here. That answer is for
// this client and this moment: nobody may store it.
func (s *Server) getBlob(w *response, r *http.Request, q Request) error {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	b, err := within(s, w, r, func(context.Context) (*openBlob, error) { return s.open(ctx, r, q) }, (*openBlob).Close)
	if err != nil {
		return err
	}
	defer b.Close()
	s.blobHeaders(w, b.BlobInfo)
	h := w.Header()
	switch {
	case b.notModified:
		w.WriteHeader(http.StatusNotModified)
		return nil
	case b.elsewhere != "":
		h.Set("Location", b.elsewhere)
		h.Set("Cache-Control", "no-store")
		h.Del("ETag") // of the bytes, not of this
		h.Del("Accept-Ranges")
		h.Del("Age")
		return w.writeEmpty(http.StatusTemporaryRedirect)
	case b.part.kind == httpx.RangeUnsatisfiable:
		w.unsatisfied = fmt.Sprintf("bytes */%d", b.Size)
		return &oci.Error{Code: oci.RangeInvalid}
	}
	status := http.StatusOK
	if b.part.kind == httpx.RangePartial {
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", b.part.off, b.part.off+b.part.n-1, b.Size))
	}
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.FormatInt(b.part.n, 10))
	w.WriteHeader(status)
	if b.section == nil {
		return nil
	}
	return s.sendSection(ctx, cancel, w, b.section, b.part.n)
}

// blobHeaders sets what GET and HEAD share.
func (s *Server) blobHeaders(w *response, info oci.BlobInfo) {
	w.about = about{info.Descriptor, info.Source, info.Stale}
	h := w.Header()
	h.Set("Accept-Ranges", "bytes")
	h.Set("Docker-Content-Digest", info.Digest.String())
	h.Set("ETag", etag(info.Digest))
	setAnswer(h, info.Answer)
	if h.Get("Cache-Control") == "" && info.Visibility == oci.Public {
		h.Set("Cache-Control", "max-age=31536000, immutable") // a digest's bytes are for ever
	}
}

// openBlob is a blob of which the asked part is about to be sent.
type openBlob struct {
	*oci.Blob
	part        part
	notModified bool
	elsewhere   string        // the URL to GET it from, "" for here
	section     io.ReadCloser // nil when there is nothing to send
}

// open opens a blob and has the first byte of the asked part in hand.
func (s *Server) open(ctx context.Context, r *http.Request, q Request) (*openBlob, error) {
	blob, err := s.reg.Blob(ctx, q.Repo, q.Digest)
	if err != nil {
		return nil, err
	}
	b := &openBlob{Blob: blob, notModified: httpx.IfNoneMatch(r, etag(blob.Digest))}
	if b.notModified {
		return b, nil
	}
	if blob.Redirect != nil {
		if b.elsewhere, err = blob.Redirect(ctx); err != nil {
			blob.Close()
			return nil, err
		}
		if b.elsewhere != "" {
			return b, nil
		}
	}
	b.part = rangeOf(r, blob.Size, blob.Digest)
	if b.part.n > 0 {
		if b.section, err = blob.Section(ctx, b.part.off, b.part.n); err != nil {
			blob.Close()
			return nil, err
		}
	}
	return b, nil
}

// Close closes section and blob. Both are only read: an error says nothing.
func (b *openBlob) Close() {
	if b.section != nil {
		b.section.Close()
	}
	b.Blob.Close()
}

// deleteBlob serves DELETE /v2/<name>/blobs/<digest> ("Deleting Blobs").
func (s *Server) deleteBlob(w *response, r *http.Request, q Request) error {
	if err := s.reg.DeleteBlob(r.Context(), q.Repo, q.Digest); err != nil {
		return err
	}
	w.about.desc.Digest = q.Digest
	return w.writeEmpty(http.StatusAccepted)
}
