package httpx

import (
	"io"
	"net/http"
	"strconv"
)

// A record is the one wrapper around a ResponseWriter: it notes what is sent,
// for the log, the metrics, and to know whether an error can still be told.
//
// It keeps Unwrap, so that http.ResponseController finds deadlines, and
// ReadFrom, so that a file goes out by sendfile.
type record struct {
	http.ResponseWriter
	head        bool   // nothing of the body is sent
	status      int    // 0 until the header is sent
	bytes       int64  // of the body
	route       string // "" until SetRoute
	err         error  // what the handler returned
	cut         bool   // we ended the body short, not the client
	writeFailed bool   // so the client left
}

func newRecord(w http.ResponseWriter, r *http.Request) *record {
	return &record{ResponseWriter: w, head: r.Method == http.MethodHead}
}

// recordOf finds the record around which others may have wrapped more.
func recordOf(w http.ResponseWriter) *record {
	for {
		switch v := w.(type) {
		case *record:
			return v
		case interface{ Unwrap() http.ResponseWriter }:
			w = v.Unwrap()
		default:
			return nil
		}
	}
}

// SetRoute gives the response the route label it is counted under. A label
// that [NewMetrics] was not told of counts as "other".
func SetRoute(w http.ResponseWriter, route string) {
	if rec := recordOf(w); rec != nil {
		rec.route = route
	}
}

// Unwrap is for http.ResponseController.
func (rec *record) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

func (rec *record) WriteHeader(status int) {
	if rec.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		rec.status = status
	}
	rec.ResponseWriter.WriteHeader(status)
}

func (rec *record) Write(p []byte) (int, error) {
	rec.sent()
	n, err := rec.ResponseWriter.Write(p)
	rec.count(int64(n))
	rec.writeFailed = rec.writeFailed || err != nil
	return n, err
}

// ReadFrom hands src itself to the writer below: only a bare *os.File, or an
// *io.LimitedReader of one, goes out by sendfile.
func (rec *record) ReadFrom(src io.Reader) (n int64, err error) {
	rec.sent()
	if rf, ok := rec.ResponseWriter.(io.ReaderFrom); ok {
		n, err = rf.ReadFrom(src)
	} else {
		n, err = io.Copy(struct{ io.Writer }{rec.ResponseWriter}, src)
	}
	rec.count(n)
	return n, err
}

// FlushError is what http.ResponseController looks for first. Without it a
// flush would send the header past us.
func (rec *record) FlushError() error {
	rec.sent()
	return http.NewResponseController(rec.ResponseWriter).Flush()
}

// Flush implements http.Flusher.
func (rec *record) Flush() { _ = rec.FlushError() }

// sent notes the status that net/http sends when none was given.
func (rec *record) sent() {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
}

func (rec *record) count(n int64) {
	if !rec.head {
		rec.bytes += n
	}
}

// endsShort says that the header promised more bytes than were written.
func (rec *record) endsShort() bool {
	promised, err := strconv.ParseInt(rec.Header().Get("Content-Length"), 10, 64)
	return err == nil && (rec.bytes < promised || rec.head)
}
