package httpx

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// netWriter stands for net/http's response: it notes what ReadFrom is given.
type netWriter struct {
	*httptest.ResponseRecorder
	from []string
}

func (w *netWriter) ReadFrom(src io.Reader) (int64, error) {
	name := fmt.Sprintf("%T", src)
	if lr, ok := src.(*io.LimitedReader); ok {
		name += fmt.Sprintf("{%T}", lr.R)
	}
	w.from = append(w.from, name)
	return io.Copy(w.ResponseRecorder, src)
}

func (w *netWriter) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

func get(method string) *http.Request { return httptest.NewRequest(method, "/", nil) }

// net.TCPConn uses sendfile for a file or a limited one, and knows the file
// only when nothing is around it.
func TestRecordReadFrom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	section, err := oci.FileContent(f).Section(t.Context(), 2, 5)
	if err != nil {
		t.Fatal(err)
	}
	rewind := func() { f.Seek(0, io.SeekStart) }

	under := &netWriter{ResponseRecorder: httptest.NewRecorder()}
	rec := newRecord(under, get("GET"))
	var w http.ResponseWriter = rec // as a handler sees it
	if n, err := io.Copy(w, section); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	rewind()
	if n, err := io.CopyN(w, f, 4); n != 4 || err != nil {
		t.Fatal(n, err)
	}
	rewind()
	if n, err := w.(io.ReaderFrom).ReadFrom(f); n != 10 || err != nil {
		t.Fatal(n, err)
	}
	want := "*io.LimitedReader{*os.File} *io.LimitedReader{*os.File} *os.File"
	if got := strings.Join(under.from, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if body := under.Body.String(); body != "2345601230123456789" || rec.bytes != 19 || rec.status != 200 {
		t.Errorf("body %q, %d bytes, status %d", body, rec.bytes, rec.status)
	}
}

// Below a writer that has no ReadFrom bytes are written.
func TestRecordReadFromPlainWriter(t *testing.T) {
	under := httptest.NewRecorder()
	rec := newRecord(struct{ http.ResponseWriter }{under}, get("GET"))
	n, err := io.Copy(rec, io.LimitReader(strings.NewReader("0123456789"), 7))
	if n != 7 || err != nil || under.Body.String() != "0123456" || rec.bytes != 7 {
		t.Errorf("%d %v %q, %d bytes", n, err, under.Body, rec.bytes)
	}
}

func TestRecordNotes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		method string
		do     func(w http.ResponseWriter)
		status int
		bytes  int64
	}{
		{"nothing", "GET", func(http.ResponseWriter) {}, 0, 0},
		{"a write", "GET", func(w http.ResponseWriter) { io.WriteString(w, "abc") }, 200, 3},
		{"a status", "GET", func(w http.ResponseWriter) { w.WriteHeader(404) }, 404, 0},
		{"the first status counts", "GET", func(w http.ResponseWriter) { w.WriteHeader(206); w.WriteHeader(500) }, 206, 0},
		{"informational", "GET", func(w http.ResponseWriter) { w.WriteHeader(103) }, 0, 0},
		{"a flush sends the header", "GET", func(w http.ResponseWriter) { http.NewResponseController(w).Flush() }, 200, 0},
		{"an old flush", "GET", func(w http.ResponseWriter) { w.(http.Flusher).Flush() }, 200, 0},
		{"HEAD", "HEAD", func(w http.ResponseWriter) { io.WriteString(w, "abc"); io.Copy(w, strings.NewReader("def")) }, 200, 0},
	} {
		under := httptest.NewRecorder()
		rec := newRecord(under, get(tt.method))
		tt.do(struct {
			http.ResponseWriter
			http.Flusher
		}{rec, rec})
		if rec.status != tt.status || rec.bytes != tt.bytes {
			t.Errorf("%s: %d, %d bytes, want %d, %d", tt.name, rec.status, rec.bytes, tt.status, tt.bytes)
		}
	}
}

type outer struct{ http.ResponseWriter }

func (o outer) Unwrap() http.ResponseWriter { return o.ResponseWriter }

func TestRecordIsFound(t *testing.T) {
	under := &netWriter{ResponseRecorder: httptest.NewRecorder()}
	rec := newRecord(under, get("GET"))
	if SetRoute(outer{outer{rec}}, "blob"); rec.route != "blob" {
		t.Errorf("route %q", rec.route)
	}
	SetRoute(httptest.NewRecorder(), "blob") // without a record: nothing to do
	if err := http.NewResponseController(rec).SetWriteDeadline(time.Time{}); !errors.Is(err, errors.ErrUnsupported) || strings.Contains(err.Error(), "feature not supported") {
		t.Errorf("the writer below is not asked: %v", err)
	}
}
