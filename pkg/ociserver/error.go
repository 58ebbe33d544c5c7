package ociserver

import (
	"context"
	"errors"
	"net/http"

	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// render makes err the answer. The same error makes the same bytes, always:
// containerd may ask for what it got by its digest.
func (s *Server) render(x *exchange, err error) {
	e := told(err)
	if x.q.Kind == Referrers && e.Code == oci.Unsupported {
		// On 404 clients fall back on the referrers tag schema.
		e = &oci.Error{Code: oci.NameUnknown, Message: "referrers cannot be listed here"}
	}
	if s.forContainerd(x.q) {
		e = toContainerd(e, x.r)
	}
	h := x.w.Header()
	if e.Code == oci.Unauthorized && s.o.Challenge != nil && !s.foreign(x.q) {
		if c := s.o.Challenge(x.r, x.q); c != "" {
			h.Set("WWW-Authenticate", c)
		}
	}
	if e.Code == oci.Unsupported && h.Get("Allow") == "" {
		h.Set("Allow", "GET, HEAD") // the registry refuses to write
	}
	if x.w.unsatisfied != "" {
		h.Set("Content-Range", x.w.unsatisfied)
	}
	httpx.RenderError(&x.w, x.r, e)
}

// told is what a client may be told of err.
func told(err error) *oci.Error {
	if e, ok := errors.AsType[*oci.Error](err); ok {
		return e
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return &oci.Error{Code: oci.Unavailable} // given up here: who left is not told anything
	}
	return &oci.Error{Code: oci.Unknown}
}

// forContainerd says that an error has to suit containerd as the client of a
// mirror: what it does with a status is not what the status means.
func (s *Server) forContainerd(q Request) bool { return s.o.Containerd || s.foreign(q) }

// toContainerd turns an error into one on which containerd goes to its next
// host at once.
func toContainerd(e *oci.Error, r *http.Request) *oci.Error {
	status := e.Code.Status()
	var code oci.Code
	switch {
	case status == http.StatusTooManyRequests, status >= http.StatusInternalServerError:
		// After 429 it would ask four times more within milliseconds, after
		// some 5xx once more.
		code = oci.Unavailable
	case status == http.StatusUnauthorized && r.Header.Get("Authorization") != "":
		// It would send the same credentials again, for each object.
		code = oci.Denied
	default:
		return e
	}
	return &oci.Error{Code: code, Message: e.Text(), Detail: e.Detail, RetryAfter: e.RetryAfter}
}
