package httpx

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestRenderError(t *testing.T) {
	for _, tt := range []struct {
		err        error
		status     int
		body       string
		retryAfter string
	}{
		{&oci.Error{Code: oci.BlobUnknown, Detail: map[string]string{"digest": "sha256:a"}}, 404,
			`{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry","detail":{"digest":"sha256:a"}}]}`, ""},
		{fmt.Errorf("read: %w", oci.Errorf(oci.Denied, "rule no-root: runs as root")), 403,
			`{"errors":[{"code":"DENIED","message":"rule no-root: runs as root"}]}`, ""},
		{&oci.Error{Code: oci.Unavailable, RetryAfter: 1500 * time.Millisecond, Err: errors.New("dial 10.0.0.1")}, 503,
			`{"errors":[{"code":"UNAVAILABLE","message":"cannot answer at the moment"}]}`, "2"},
		{&oci.Error{Code: oci.NoSpace}, 507, `{"errors":[{"code":"UNAVAILABLE","message":"no space left in the registry's storage"}]}`, ""},
		{errors.New("open /secret/path: permission denied"), 500, `{"errors":[{"code":"UNKNOWN","message":"internal error"}]}`, ""},
		{fmt.Errorf("ask upstream: %w", context.DeadlineExceeded), 503, `{"errors":[{"code":"UNAVAILABLE","message":"cannot answer at the moment"}]}`, ""},
		{&oci.Error{Code: oci.Denied, Detail: func() {}}, 403, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`, ""},
	} {
		w := httptest.NewRecorder()
		RenderError(w, get("GET"), tt.err)
		if w.Code != tt.status || w.Body.String() != tt.body || w.Header().Get("Retry-After") != tt.retryAfter ||
			w.Header().Get("Content-Length") != fmt.Sprint(len(tt.body)) || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%v: %d %v\n%s", tt.err, w.Code, w.Header(), w.Body)
		}
	}
}

// What described the content is gone when an error takes its place; the rest
// of the header stays.
func TestHandleErrorBeforeTheHeader(t *testing.T) {
	srv := httptest.NewServer(Handle(func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Content-Length", "100")
		w.Header().Set("Docker-Content-Digest", "sha256:abc")
		w.Header().Set("ETag", `"sha256:abc"`)
		w.Header().Set("WWW-Authenticate", "Bearer")
		return &oci.Error{Code: oci.Unauthorized}
	}, nil))
	defer srv.Close()
	for _, method := range []string{"GET", "HEAD"} {
		req, _ := http.NewRequestWithContext(t.Context(), method, srv.URL, nil)
		res, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		h := res.Header
		if res.StatusCode != 401 || h.Get("Etag")+h.Get("Docker-Content-Digest") != "" || h.Get("WWW-Authenticate") != "Bearer" ||
			method == "GET" && !strings.Contains(string(body), `"UNAUTHORIZED"`) || res.ContentLength < 50 || res.ContentLength == 100 {
			t.Errorf("%s: %d %v %s", method, res.StatusCode, h, body)
		}
	}
}

func TestHandleOwnRenderer(t *testing.T) {
	h := Handle(func(http.ResponseWriter, *http.Request) error { return io.EOF }, func(w http.ResponseWriter, _ *http.Request, err error) {
		http.Error(w, "page: "+err.Error(), http.StatusTeapot)
	})
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, get("GET")); w.Code != 418 || w.Body.String() != "page: EOF\n" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// rawGet sends one request over TCP and reads until the server closes. The
// error is nil for a FIN.
func rawGet(t *testing.T, addr, path string) (string, error) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	all, err := io.ReadAll(conn)
	_, body, _ := strings.Cut(string(all), "\r\n\r\n")
	return body, err
}

var errBroken = errors.New("wrong digest")

// cutting serves a body that breaks after part of it.
func cutting(w http.ResponseWriter, r *http.Request) error {
	if r.URL.Path == "/length" {
		w.Header().Set("Content-Length", "100000")
	}
	for range 50 { // in parts, so that the last lies in net/http's buffer
		io.WriteString(w, strings.Repeat("x", 1000))
	}
	if r.URL.Path == "/panic" {
		panic("a bug")
	}
	return errBroken
}

// A body that breaks must look broken: short of its length, or without its
// last chunk. And it ends with FIN; a reset fails a containerd pull at once.
func TestCutHTTP1(t *testing.T) {
	srv := httptest.NewServer(Middleware{}.Wrap(Handle(cutting, nil)))
	defer srv.Close()
	for _, path := range []string{"/length", "/chunked", "/panic"} {
		body, err := rawGet(t, srv.Listener.Addr().String(), path)
		if err != nil || strings.Count(body, "x") != 50_000 || strings.HasSuffix(body, "0\r\n\r\n") {
			t.Errorf("%s: %v after %d bytes, ending %q", path, err, strings.Count(body, "x"), body[max(0, len(body)-10):])
		}

		res, err := srv.Client().Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, res.Body); n != 50_000 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %d bytes, %v", path, n, err)
		}
		res.Body.Close()
	}
}

// containerd goes on at the offset after io.ErrUnexpectedEOF only. On HTTP/2
// that is a stream that ends short of its length, not one that is reset.
func TestCutHTTP2(t *testing.T) {
	srv := httptest.NewUnstartedServer(Middleware{}.Wrap(Handle(cutting, nil)))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	for path, eof := range map[string]bool{"/length": true, "/chunked": false} {
		res, err := srv.Client().Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, res.Body)
		if res.ProtoMajor != 2 || n > 50_000 || err == nil || errors.Is(err, io.ErrUnexpectedEOF) != eof {
			t.Errorf("%s: HTTP/%d, %d bytes, %v", path, res.ProtoMajor, n, err)
		}
		res.Body.Close()
	}
}

// A handler that ends because its client left, or the server closes, must not
// become an empty 200.
func TestHandleClientGone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	h := Handle(func(_ http.ResponseWriter, r *http.Request) error {
		cancel()
		return r.Context().Err()
	}, nil)
	rec := newRecord(httptest.NewRecorder(), get("GET"))
	defer func() {
		if p := recover(); p != http.ErrAbortHandler || rec.status != statusClientGone || rec.cut {
			t.Errorf("panic %v, status %d, cut %v", p, rec.status, rec.cut)
		}
	}()
	h.ServeHTTP(rec, get("GET").WithContext(ctx))
}

// After a cut the connection is of no use; after an error before the header
// it is.
func TestConnectionIsKeptAfterAnError(t *testing.T) {
	srv := httptest.NewServer(Middleware{}.Wrap(Handle(func(http.ResponseWriter, *http.Request) error {
		return &oci.Error{Code: oci.NameUnknown}
	}, nil)))
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for range 3 {
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != 404 {
			t.Fatal(res.StatusCode, err)
		}
	}
}
