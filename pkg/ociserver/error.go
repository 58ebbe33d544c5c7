package ociserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// fail makes err the answer, or when one has begun, says in the log that it
// ends short: net/http then closes the connection, since less came than the
// Content-Length promised.
func (s *Server) fail(w *response, r *http.Request, q Request, err error) {
	left := clientLeft(w, r)
	switch {
	case left && w.status != 0:
		s.log.Debug("the client left", "kind", q.Kind, "repo", q.Repo, "err", err)
		return
	case w.status != 0:
		s.log.Warn("the answer ended short", "kind", q.Kind, "repo", q.Repo, "digest", w.about.desc.Digest,
			"bytes", w.sent, "dur", time.Since(w.start), "err", err)
		return
	}
	// Who seems to have left is answered too: should the context have ended for
	// another reason, an empty 200 is what net/http would send.
	w.unheard = left
	e := told(err)
	status := e.Code.Status()
	if q.Kind == Referrers && e.Code == oci.Unsupported {
		status = http.StatusNotFound // who reads this falls back on the referrers tag schema
	}
	if s.forContainerd(q) {
		e, status = toContainerd(e, status, r)
	}
	h := w.Header()
	if status == http.StatusUnauthorized && s.o.Challenge != nil && !s.foreign(q) {
		if c := s.o.Challenge(r, q); c != "" {
			h.Set("WWW-Authenticate", c)
		}
	}
	if status == http.StatusMethodNotAllowed && h.Get("Allow") == "" {
		h.Set("Allow", "GET, HEAD") // the registry refuses to write
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatFloat(math.Ceil(e.RetryAfter.Seconds()), 'f', 0, 64))
	}
	if !left {
		s.logRefusal(q, status, err)
	}
	if err := writeError(w, r, status, e); err != nil {
		s.log.Debug("the client left", "kind", q.Kind, "repo", q.Repo, "err", err)
	}
}

// told is what a client may be told of err.
func told(err error) *oci.Error {
	var e *oci.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &oci.Error{Code: oci.Unavailable, Err: err} // given up here, not by the client
	}
	return &oci.Error{Code: oci.Unknown, Err: err}
}

// forContainerd says that an error has to suit containerd as the client of a
// mirror: what it does with a status is not what the status means.
func (s *Server) forContainerd(q Request) bool { return s.o.Containerd || s.foreign(q) }

// toContainerd turns an error into one on which containerd goes to its next
// host at once.
func toContainerd(e *oci.Error, status int, r *http.Request) (*oci.Error, int) {
	switch {
	case status == http.StatusTooManyRequests:
		// It would ask five times more within milliseconds.
		return &oci.Error{Code: oci.Unavailable, Message: e.Text(), Detail: e.Detail, RetryAfter: e.RetryAfter}, http.StatusServiceUnavailable
	case status >= http.StatusInternalServerError:
		return e, http.StatusServiceUnavailable
	case status == http.StatusUnauthorized && r.Header.Get("Authorization") != "":
		// It would send the same credentials again, for each object.
		return &oci.Error{Code: oci.Denied, Message: e.Text(), Detail: e.Detail}, http.StatusForbidden
	}
	return e, status
}

// logRefusal logs what is our fault or our upstream's; a client's is not news.
func (s *Server) logRefusal(q Request, status int, err error) {
	level := slog.LevelDebug
	var e *oci.Error
	switch {
	case !errors.As(err, &e):
		level = slog.LevelError
	case status >= http.StatusInternalServerError:
		level = slog.LevelWarn
	}
	s.log.Log(context.Background(), level, "refused", "kind", q.Kind, "method", q.Method, "repo", q.Repo,
		"tag", q.Ref.Tag, "digest", q.Ref.Digest+q.Digest, "status", status, "err", err)
}

// errorBody is distribution-spec v1.1, "Error Codes".
type errorBody struct {
	Errors [1]errorEntry `json:"errors"`
}

type errorEntry struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Detail  any    `json:"detail,omitempty"`
}

// writeError sends the same bytes for the same error, always: containerd may
// ask for what it got by its digest.
func writeError(w *response, r *http.Request, status int, e *oci.Error) error {
	body := errorBody{[1]errorEntry{{e.Code.Wire(), e.Text(), e.Detail}}}
	err := w.writeJSON(r, status, "application/json", body)
	if err != nil && w.status == 0 { // the detail cannot be encoded
		body.Errors[0].Detail = nil
		return errors.Join(fmt.Errorf("encode the detail of %s: %w", e.Code, err), w.writeJSON(r, status, "application/json", body))
	}
	return err
}
