package httpx

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// A HandlerFunc serves a request, or says why it could not. Before it has
// written anything the error becomes the answer; after that the body ends
// short, so that no client takes it for complete.
type HandlerFunc func(w http.ResponseWriter, r *http.Request) error

// A Renderer writes the answer for an error. Headers of the content that was
// not sent are gone already; others, such as WWW-Authenticate, are kept.
type Renderer func(w http.ResponseWriter, r *http.Request, err error)

// Handle makes h an http.Handler whose errors are written by render; nil means
// [RenderError]. It belongs inside of [Middleware.Wrap], which logs and counts
// what h returns.
func Handle(h HandlerFunc, render Renderer) http.Handler {
	if render == nil {
		render = RenderError
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := recordOf(w)
		if rec == nil {
			rec = newRecord(w, r)
			w = rec
		}
		if err := h(w, r); err != nil {
			rec.err = err
			rec.fail(r, func() { render(w, r, err) })
		}
	})
}

// statusClientGone stands in logs and metrics for requests whose client left
// before the answer; nothing is sent with it.
const statusClientGone = 499

// fail ends a response that cannot be what it was to be: by render when
// nothing was sent, else short.
func (rec *record) fail(r *http.Request, render func()) {
	gone := errors.Is(r.Context().Err(), context.Canceled)
	switch {
	case rec.status == 0 && !gone:
		for _, name := range contentHeaders {
			rec.Header().Del(name)
		}
		render()
		return
	case rec.status == 0:
		// The client left, or the server is being closed. Returning would
		// send an empty 200.
		rec.status = statusClientGone
		panic(http.ErrAbortHandler)
	}
	rec.cut = !gone && !rec.writeFailed && !rec.head
	if rec.endsShort() {
		// Less than Content-Length: net/http ends the stream (HTTP/2), or sends
		// what it holds and closes with FIN (HTTP/1.1). Either way containerd
		// reads io.ErrUnexpectedEOF and goes on at the offset; after a reset
		// it gives up.
		return
	}
	_ = rec.FlushError() // what is whole may as well arrive; its own error adds nothing
	panic(http.ErrAbortHandler)
}

// contentHeaders describe content; with an error in its place they lie.
var contentHeaders = []string{
	"Accept-Ranges", "Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Length", "Content-Range",
	"Content-Type", "Docker-Content-Digest", "Etag", "Last-Modified",
}

// RenderError writes err as distribution-spec v1.1, "Error Codes", says. An
// error without an *oci.Error in it is a 500 of which the client is told
// nothing more, a deadline that passed a 503.
func RenderError(w http.ResponseWriter, _ *http.Request, err error) {
	var e *oci.Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, context.DeadlineExceeded):
		e = &oci.Error{Code: oci.Unavailable}
	default:
		e = &oci.Error{Code: oci.Unknown}
	}
	body := ErrorBody(e)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	w.WriteHeader(e.Code.Status())
	_, _ = w.Write(body) // if this fails the client has left
}

// ErrorBody is what [RenderError] sends of e: the same bytes each time.
func ErrorBody(e *oci.Error) []byte {
	body, err := errorBody(e, e.Detail)
	if err != nil {
		body, _ = errorBody(e, nil) // the rest is strings
	}
	return body
}

func errorBody(e *oci.Error, detail any) ([]byte, error) {
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	return json.Marshal(map[string][]item{"errors": {{e.Code.Wire(), e.Text(), detail}}})
}
