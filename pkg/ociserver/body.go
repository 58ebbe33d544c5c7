package ociserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// sendSection sends the n bytes of a section, each as soon as it is there.
// ctx is the section's; cancel ends it when the section stalls.
func (s *Server) sendSection(ctx context.Context, cancel context.CancelCauseFunc, w *response, section io.Reader, n int64) error {
	b := &body{w: w, left: n, stall: s.o.StallTimeout}
	if b.stall > 0 {
		b.timer = time.AfterFunc(b.stall, func() { cancel(oci.ErrStalled) })
		defer b.timer.Stop()
	}
	_, err := io.Copy(b, section) // by the section's WriteTo, else by ReadFrom of b
	if err == nil && b.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	switch {
	case err == nil:
		return nil
	case w.broken != nil:
		return w.broken
	case errors.Is(context.Cause(ctx), oci.ErrStalled):
		return fmt.Errorf("%w for %s: %w", oci.ErrStalled, b.stall, err)
	}
	return err
}

// body is where a section's bytes go. It passes files on as such, flushes what
// comes in pieces, refuses bytes beyond those promised, and runs the timer only
// while bytes are waited for: a slow client is no stall.
type body struct {
	w     *response
	left  int64
	stall time.Duration
	timer *time.Timer // nil: no bound
}

var errTooLong = errors.New("the content is longer than it was said to be")

// Write implements io.Writer.
func (b *body) Write(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		return 0, errTooLong
	}
	defer b.sending()()
	n, err := b.w.Write(p)
	b.left -= int64(n)
	return n, err
}

// ReadFrom implements io.ReaderFrom: a file, whole or limited, goes to the
// connection by sendfile; anything else is read in pieces.
func (b *body) ReadFrom(src io.Reader) (int64, error) {
	lim, ok := src.(*io.LimitedReader)
	if !ok {
		lim = &io.LimitedReader{R: src, N: b.left}
	}
	if f, ok := lim.R.(*os.File); ok {
		if lim.N > b.left {
			return 0, errTooLong
		}
		defer b.sending()()
		n, err := b.w.ReadFrom(&io.LimitedReader{R: f, N: lim.N})
		lim.N -= n
		b.left -= n
		return n, err
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	return io.CopyBuffer(writerOnly{b}, readerOnly{lim}, *buf)
}

// sending stops the timer for the time of a write, after which all that was
// written leaves.
func (b *body) sending() (done func()) {
	if b.timer != nil {
		b.timer.Stop()
	}
	return func() {
		_ = http.NewResponseController(b.w.ResponseWriter).Flush() // a failure shows at the next write
		if b.timer != nil {
			b.timer.Reset(b.stall)
		}
	}
}

var buffers = sync.Pool{New: func() any {
	b := make([]byte, 64<<10)
	return &b
}}

type (
	writerOnly struct{ io.Writer } // hides ReadFrom, which would come back here
	readerOnly struct{ io.Reader } // hides WriteTo, likewise
)

const (
	// maxDrain is how much of a body is read that nobody wants. A part of S3's is
	// no longer.
	maxDrain = 32 << 20
	// drainFor is how long.
	drainFor = 5 * time.Second
)

// drain reads what is left of a refused body, where that is little: who is cut
// off in the midst of sending, a proxy above all, does not read the answer. A
// client that waits to be asked for its body (RFC 9110, "100-continue") is not.
func drain(w *response, r *http.Request) {
	if r.ContentLength == 0 || r.ContentLength > maxDrain || r.Context().Err() != nil || strings.EqualFold(r.Header.Get("Expect"), "100-continue") {
		return
	}
	control := http.NewResponseController(w.ResponseWriter)
	if control.SetReadDeadline(time.Now().Add(drainFor)) != nil {
		return
	}
	if _, err := io.CopyN(io.Discard, r.Body, maxDrain); errors.Is(err, io.EOF) {
		_ = control.SetReadDeadline(time.Time{})
	}
}
