package ociclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// minProgress is how much a body must bring within Options.StallTimeout.
const minProgress = 16 << 10

// body is an answer's body. It ends with io.EOF after exactly as many bytes as
// were declared, with io.ErrUnexpectedEOF when fewer came, and with an error
// that wraps [oci.ErrStalled] when they stopped coming. Close may be called
// while Read runs, and ends it.
type body struct {
	rc     io.ReadCloser
	left   int64 // bytes still declared; -1 when that was not told
	cancel context.CancelCauseFunc
	fail   func(error) error // what the reader is told of a broken read

	// A stall is time spent waiting here: a reader that takes its time
	// between reads is not the registry's fault.
	window time.Duration
	stall  *time.Timer   // ends the request; runs only while Read waits
	waited time.Duration // since the window began
	came   int64         // bytes since then
}

// newBody takes over resp's body and, with cancel, its request. ctx is the
// caller's, rctx the request's.
func newBody(ctx, rctx context.Context, c *Client, cancel context.CancelCauseFunc, resp *http.Response) *body {
	b := &body{rc: resp.Body, left: resp.ContentLength, cancel: cancel, window: c.o.StallTimeout}
	peer := c.peer(resp.Request.URL)
	b.fail = func(err error) error {
		switch {
		case ctx.Err() != nil:
			return c.gone(ctx)
		case context.Cause(rctx) == oci.ErrStalled:
			return &oci.Error{
				Code: oci.Unavailable, Err: oci.ErrStalled,
				Message: fmt.Sprintf("%s stopped sending: less than %d KiB in %s", peer, minProgress>>10, b.window),
			}
		case errors.Is(err, io.ErrUnexpectedEOF):
			return io.ErrUnexpectedEOF
		}
		return &oci.Error{Code: oci.Unavailable, Message: "the connection to " + peer + " broke", Err: err}
	}
	b.stall = time.AfterFunc(b.window, func() { cancel(oci.ErrStalled) })
	b.stall.Stop()
	return b
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if b.left > 0 {
		p = p[:min(int64(len(p)), b.left)]
	}
	began := time.Now()
	b.stall.Reset(b.window - b.waited)
	n, err := b.rc.Read(p)
	b.stall.Stop()
	b.waited += time.Since(began)
	b.came += int64(n)
	if b.came >= minProgress {
		b.waited, b.came = 0, 0
	}
	if b.left > 0 {
		b.left -= int64(n)
	}
	switch {
	case err == nil, err == io.EOF && b.left <= 0:
		return n, err
	case err == io.EOF:
		return n, io.ErrUnexpectedEOF
	}
	return n, b.fail(err)
}

// Close ends the request.
func (b *body) Close() error {
	b.stall.Stop()
	b.cancel(nil)
	return b.rc.Close()
}
