package ociserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// maxTags is how many tags one push may set: the spec wants ten or more,
// and 414 for too many.
const maxTags = 50

// getManifest serves GET /v2/<name>/manifests/<reference> (distribution-spec
// v1.1, "Pulling manifests"). The body is the stored bytes, never re-encoded
// and whatever the client accepts, so the digest still holds there.
func (s *Server) getManifest(w *response, r *http.Request, q Request) error {
	m, err := within(s, w, r, func(ctx context.Context) (oci.Manifest, error) {
		return s.reg.Manifest(ctx, q.Repo, q.Ref)
	}, nothing)
	if err != nil {
		return err
	}
	m.Size = int64(len(m.Bytes))
	if s.manifestHeaders(w, r, m) {
		return nil
	}
	w.WriteHeader(http.StatusOK)
	_, err = w.Write(m.Bytes)
	return err
}

// headManifest serves HEAD of the same ("Checking if content exists"). It is a
// registry's Resolve: where a GET costs quota upstream, this does not.
func (s *Server) headManifest(w *response, r *http.Request, q Request) error {
	m, err := within(s, w, r, func(ctx context.Context) (oci.Manifest, error) {
		return s.reg.Resolve(ctx, q.Repo, q.Ref)
	}, nothing)
	if err != nil {
		return err
	}
	if !s.manifestHeaders(w, r, m) {
		w.WriteHeader(http.StatusOK)
	}
	return nil
}

// manifestHeaders sets the headers of GET and HEAD, and answers 304 where that
// is the answer. Of a refusal's HEAD there is only the type: without a digest
// and a length containerd comes back with a GET and reads the reason.
func (s *Server) manifestHeaders(w *response, r *http.Request, m oci.Manifest) (answered bool) {
	w.about = about{m.Descriptor, m.Source, m.Stale}
	h := w.Header()
	setAnswer(h, m.Answer)
	if m.Digest != "" {
		h.Set("Docker-Content-Digest", m.Digest.String())
		h.Set("ETag", etag(m.Digest))
		if httpx.IfNoneMatch(r, etag(m.Digest)) {
			w.WriteHeader(http.StatusNotModified)
			return true
		}
		h.Set("Content-Length", strconv.FormatInt(m.Size, 10))
	}
	h.Set("Content-Type", m.MediaType)
	return false
}

// putManifest serves PUT /v2/<name>/manifests/<reference> ("Pushing
// Manifests"), and ?tag= besides a digest.
func (s *Server) putManifest(w *response, r *http.Request, q Request) error {
	tags, err := pushTags(q)
	if err != nil {
		return err
	}
	body, err := s.readManifest(w, r)
	if err != nil {
		return err
	}
	mediaType, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";") // the spec: ignore parameters
	mediaType = strings.TrimSpace(mediaType)
	d, err := s.reg.PutManifest(r.Context(), q.Repo, q.Ref, mediaType, body)
	if err != nil {
		return err
	}
	h := w.Header()
	for _, tag := range tags {
		if _, err := s.reg.PutManifest(r.Context(), q.Repo, oci.Reference{Tag: tag, Digest: d.Digest}, mediaType, body); err != nil {
			return fmt.Errorf("tag %s: %w", tag, err)
		}
		h.Add("OCI-Tag", tag)
	}
	w.about.desc = d
	if l, err := oci.ParseManifest(mediaType, body); err == nil && l.Subject != nil {
		h.Set("OCI-Subject", l.Subject.Digest.String()) // our referrers list it: no tag schema needed
	}
	h.Set("Location", s.location(r, q, "/manifests/"+d.Digest.String()))
	h.Set("Docker-Content-Digest", d.Digest.String())
	return w.writeEmpty(http.StatusCreated)
}

// pushTags are the tags of a push by digest.
func pushTags(q Request) ([]string, error) {
	tags := q.Query["tag"]
	switch {
	case len(tags) > 0 && !q.Ref.IsDigest():
		return nil, oci.Errorf(oci.TagInvalid, "more tags can be given when a manifest is pushed by digest")
	case len(tags) > maxTags:
		return nil, oci.Errorf(oci.TooManyTags, "%d tags are given, at most %d are allowed", len(tags), maxTags)
	}
	for _, tag := range tags {
		if err := oci.CheckTag(tag); err != nil {
			return nil, err
		}
	}
	return tags, nil
}

// readManifest reads a body of bounded size.
func (s *Server) readManifest(w *response, r *http.Request) ([]byte, error) {
	tooLarge := oci.Errorf(oci.ManifestTooLarge, "a manifest may have at most %d bytes", s.o.MaxManifestBytes)
	if r.ContentLength > s.o.MaxManifestBytes {
		return nil, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.o.MaxManifestBytes))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge
	}
	if err != nil {
		return nil, &oci.Error{Code: oci.ManifestInvalid, Message: "the manifest did not arrive whole", Err: err}
	}
	return body, nil
}

// deleteManifest serves DELETE /v2/<name>/manifests/<reference> ("Deleting
// tags", "Deleting Manifests").
func (s *Server) deleteManifest(w *response, r *http.Request, q Request) error {
	if err := s.reg.DeleteManifest(r.Context(), q.Repo, q.Ref); err != nil {
		return err
	}
	w.about.desc.Digest = q.Ref.Digest
	return w.writeEmpty(http.StatusAccepted)
}
