package ociserver

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// response is a ResponseWriter that knows what was sent through it. It keeps
// the ways to flush (Unwrap) and to sendfile (ReadFrom).
type response struct {
	http.ResponseWriter
	head        bool // net/http sends no body
	start       time.Time
	status      int           // 0 until it is sent
	firstByte   time.Duration // from start until the status was sent
	sent        int64         // bytes of the body
	broken      error         // the client could not be written to
	about       about
	unsatisfied string // Content-Range of a 416
}

// about is what an answer is about, for events and metrics.
type about struct {
	desc   oci.Descriptor
	source oci.Source
	stale  bool
}

// Unwrap lets http.ResponseController at the writer below.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(status int) {
	if w.status == 0 {
		w.status, w.firstByte = status, time.Since(w.start)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(p)
	if !w.head {
		w.sent += int64(n)
	}
	if err != nil {
		w.broken = err
	}
	return n, err
}

// ReadFrom implements io.ReaderFrom by the writer below, so that net/http sees
// the file that src is.
func (w *response) ReadFrom(src io.Reader) (n int64, err error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if rf, ok := w.ResponseWriter.(io.ReaderFrom); ok {
		n, err = rf.ReadFrom(src)
	} else {
		n, err = io.Copy(w.ResponseWriter, src)
	}
	w.sent += n
	if clientFailed(err) {
		w.broken = err
	}
	return n, err
}

// clientFailed tells a failure to write to a connection from one to read the
// file that was to go there.
func clientFailed(err error) bool {
	for _, e := range []error{syscall.EPIPE, syscall.ECONNRESET, syscall.ETIMEDOUT, net.ErrClosed, os.ErrDeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// writeJSON sends v with status 200; to a HEAD net/http sends its length alone.
func (w *response) writeJSON(contentType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	_, err = w.Write(body)
	return err
}

// writeEmpty sends a status whose answer is in the headers.
func (w *response) writeEmpty(status int) error {
	if status != http.StatusNoContent {
		w.Header().Set("Content-Length", "0")
	}
	w.WriteHeader(status)
	return nil
}
