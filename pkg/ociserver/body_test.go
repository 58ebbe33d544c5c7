package ociserver_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// blobs is a registry of one blob, said to have so many bytes and opened as
// the test says.
type blobs struct {
	oci.RefuseAll
	size    int64
	section func(c ctx, off, n int64) (io.ReadCloser, error)
	closed  atomic.Int32
}

func (b *blobs) Blob(ctx, string, oci.Digest) (*oci.Blob, error) {
	info := oci.BlobInfo{Descriptor: oci.Descriptor{Digest: d256, Size: b.size}, Answer: oci.Answer{Source: oci.FromFill}}
	return &oci.Blob{BlobInfo: info, Content: b}, nil
}

func (b *blobs) Section(c ctx, off, n int64) (io.ReadCloser, error) { return b.section(c, off, n) }
func (b *blobs) Close() error                                       { b.closed.Add(1); return nil }

// reading makes sections of one reader.
func reading(size int64, r func(c ctx) io.Reader) *blobs {
	return &blobs{size: size, section: func(c ctx, _, _ int64) (io.ReadCloser, error) { return io.NopCloser(r(c)), nil }}
}

// stalled gives no byte until its context ends.
func stalled(c ctx) io.Reader { return waiting{c} }

type waiting struct{ c ctx }

func (w waiting) Read([]byte) (int, error) {
	<-w.c.Done()
	return 0, w.c.Err()
}

// byWriteTo is a section that writes itself, as a growing file does.
type byWriteTo struct {
	io.Reader
	writeTo func(w io.Writer) (int64, error)
}

func (b byWriteTo) WriteTo(w io.Writer) (int64, error) { return b.writeTo(w) }

const blobPath = "/v2/app/blobs/" + "sha256:" + hex64

// Whatever ends a body short, the connection ends by FIN, after all bytes that
// were there: containerd resumes after io.EOF and gives up after a reset.
func TestShortBodyEndsByFIN(t *testing.T) {
	prefix := strings.Repeat("x", 100_000)
	for name, tt := range map[string]struct {
		content func(c ctx) io.Reader
		cause   string
	}{
		"an error":      {func(ctx) io.Reader { return io.MultiReader(strings.NewReader(prefix), errReader{errors.New("disk")}) }, "disk"},
		"too few bytes": {func(ctx) io.Reader { return strings.NewReader(prefix) }, "unexpected EOF"},
		"a stall":       {func(c ctx) io.Reader { return io.MultiReader(strings.NewReader(prefix), stalled(c)) }, "stalled"},
		"an error by write": {func(ctx) io.Reader {
			return byWriteTo{nil, func(w io.Writer) (int64, error) {
				n, _ := io.WriteString(w, prefix)
				return int64(n), errors.New("disk")
			}}
		}, "disk"},
	} {
		t.Run(name, func(t *testing.T) {
			var log recorder
			reg := reading(1<<20, tt.content)
			srv := serve(t, reg, ociserver.Options{StallTimeout: 50 * time.Millisecond, Log: log.logger()})
			c := dial(t, srv)
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: hub\r\n\r\n", blobPath)
			resp := readResponse(t, c, "GET")
			if resp.StatusCode != 200 || resp.ContentLength != 1<<20 {
				t.Fatalf("%s, %d bytes", resp.Status, resp.ContentLength)
			}
			var got bytes.Buffer
			n, err := io.Copy(&got, c.r) // to the end of the connection
			if err != nil || got.String() != prefix {
				t.Errorf("%d bytes, then %v; want %d and io.EOF", n, err, len(prefix))
			}
			srv.Close()
			if !log.has("WARN") || !strings.Contains(log.String(), tt.cause) {
				t.Errorf("the log does not say %q:\n%s", tt.cause, log.String())
			}
			if reg.closed.Load() != 1 {
				t.Errorf("the blob was closed %d times", reg.closed.Load())
			}
		})
	}
}

// Over HTTP/2 a short body is one too: neither complete nor a reset.
func TestShortBodyHTTP2(t *testing.T) {
	reg := reading(1<<20, func(ctx) io.Reader { return strings.NewReader("short") })
	srv := httptest.NewUnstartedServer(ociserver.New(reg, ociserver.Options{}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL + blobPath)
	if err != nil || resp.ProtoMajor != 2 {
		t.Fatal(resp, err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); string(got) != "short" || err != io.ErrUnexpectedEOF {
		t.Errorf("%q, %v, want what was there and io.ErrUnexpectedEOF", got, err)
	}
}

// More bytes than promised would be read as the next answer.
func TestLongBody(t *testing.T) {
	content := ocitest.RandomBytes(1, 20_000)
	one, two := tempFile(t, content), tempFile(t, content)
	for name, content := range map[string]func(ctx) io.Reader{
		"read":    func(ctx) io.Reader { return struct{ io.Reader }{bytes.NewReader(content)} },
		"written": func(ctx) io.Reader { return bytes.NewReader(content) },
		"file": func(ctx) io.Reader {
			return byWriteTo{nil, func(w io.Writer) (int64, error) { return io.CopyN(w, one, 20_000) }}
		},
		"files": func(ctx) io.Reader {
			return byWriteTo{nil, func(w io.Writer) (n int64, err error) {
				for err == nil { // 7000 do fit, then 14000 do not
					var m int64
					m, err = io.CopyN(w, two, 7_000)
					n += m
				}
				return n, err
			}}
		},
	} {
		srv := serve(t, reading(10_000, content), ociserver.Options{})
		c := dial(t, srv)
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n", blobPath)
		readResponse(t, c, "GET")
		if rest, err := io.ReadAll(c.r); len(rest) > 10_000 || err != nil {
			t.Errorf("%s: %d bytes, %v", name, len(rest), err)
		}
	}
}

// What a growing blob gives leaves at once, each piece, in whichever way it is
// given.
func TestPiecesAreFlushed(t *testing.T) {
	file := tempFile(t, []byte(strings.Repeat("abcd", 4)))
	for name, give := range map[string]func(pieces <-chan string) io.Reader{
		"Read": func(pieces <-chan string) io.Reader { return struct{ io.Reader }{&pieceReader{pieces}} },
		"WriteTo by Write": func(pieces <-chan string) io.Reader {
			return byWriteTo{nil, func(w io.Writer) (n int64, err error) {
				for p := range pieces {
					m, err := io.WriteString(w, p)
					n += int64(m)
					if err != nil {
						return n, err
					}
				}
				return n, nil
			}}
		},
		"WriteTo by ReadFrom of a file": func(pieces <-chan string) io.Reader {
			return byWriteTo{nil, func(w io.Writer) (n int64, err error) {
				if _, err := file.Seek(0, io.SeekStart); err != nil {
					return 0, err
				}
				for p := range pieces {
					m, err := io.CopyN(w, file, int64(len(p)))
					n += m
					if err != nil {
						return n, err
					}
				}
				return n, nil
			}}
		},
	} {
		for _, proto := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s HTTP%d", name, proto), func(t *testing.T) {
				pieces := make(chan string, 1)
				pieces <- "abcd" // in hand before the status goes out
				srv := httptest.NewUnstartedServer(ociserver.New(reading(12, func(ctx) io.Reader { return give(pieces) }), ociserver.Options{}))
				srv.EnableHTTP2 = proto == 2
				srv.StartTLS()
				defer srv.Close()
				resp, err := srv.Client().Get(srv.URL + blobPath)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if resp.ProtoMajor != proto {
					t.Fatalf("HTTP/%d", resp.ProtoMajor)
				}
				buf := make([]byte, 4)
				for i := range 3 {
					if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != "abcd" {
						t.Fatalf("%q, %v", buf, err)
					}
					if i < 2 {
						pieces <- "abcd" // only now that the one before is here
					}
				}
				close(pieces)
				if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
					t.Errorf("%q, %v after the end", rest, err)
				}
			})
		}
	}
}

type pieceReader struct{ pieces <-chan string }

func (p *pieceReader) Read(b []byte) (int, error) {
	s, ok := <-p.pieces
	if !ok {
		return 0, io.EOF
	}
	return copy(b, s), nil
}

// fileWriter is a ResponseWriter that notes what its ReadFrom is given.
type fileWriter struct {
	*httptest.ResponseRecorder
	files int
}

func (w *fileWriter) ReadFrom(src io.Reader) (int64, error) {
	if l, ok := src.(*io.LimitedReader); ok {
		if _, ok := l.R.(*os.File); ok {
			w.files++
		}
	}
	return io.Copy(w.ResponseRecorder, src)
}

// A file reaches net/http as a file, so that it can be sent by sendfile.
func TestFileStaysAFile(t *testing.T) {
	content := ocitest.RandomBytes(1, 100_000)
	whole := oci.FileContent(tempFile(t, content)).Section
	srv := ociserver.New(&blobs{size: int64(len(content)), section: whole}, ociserver.Options{StallTimeout: time.Second})
	for header, want := range map[string][]byte{"": content, "bytes=5-1004": content[5:1005]} {
		w := &fileWriter{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequest("GET", blobPath, nil)
		r.Header.Set("Range", header)
		srv.ServeHTTP(w, r)
		if w.files != 1 || !bytes.Equal(w.Body.Bytes(), want) {
			t.Errorf("%q: %d files, %d bytes, want one file of %d bytes", header, w.files, w.Body.Len(), len(want))
		}
	}
}

// slow is a client that takes an hour for each write.
type slow struct{ *httptest.ResponseRecorder }

func (s slow) Write(p []byte) (int, error) {
	time.Sleep(time.Hour)
	return s.ResponseRecorder.Write(p)
}

// The time in which the content gives nothing counts, from the start and from
// each byte on; the time that the client takes does not.
func TestStallTimeout(t *testing.T) {
	every := func(d time.Duration) func(ctx) io.Reader {
		return func(c ctx) io.Reader { return struct{ io.Reader }{&pacedReader{c, d}} }
	}
	for name, tt := range map[string]struct {
		content func(ctx) io.Reader
		slow    bool
		bytes   int
		took    time.Duration
	}{
		"steady":      {every(9 * time.Second), false, 10, 90 * time.Second},
		"too slow":    {every(11 * time.Second), false, 0, 10 * time.Second},
		"slow client": {every(9 * time.Second), true, 10, 10*time.Hour + 90*time.Second},
		"stall":       {func(c ctx) io.Reader { return io.MultiReader(strings.NewReader("01234"), stalled(c)) }, false, 5, 10 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			var event ociserver.Event
			srv := ociserver.New(reading(10, tt.content), ociserver.Options{
				StallTimeout: 10 * time.Second, Observe: func(e ociserver.Event) { event = e },
			})
			rec := httptest.NewRecorder()
			var w http.ResponseWriter = rec
			if tt.slow {
				w = slow{rec}
			}
			srv.ServeHTTP(w, httptest.NewRequest("GET", blobPath, nil))
			if rec.Body.Len() != tt.bytes || event.Dur != tt.took {
				t.Errorf("%s: %d bytes in %s, want %d in %s", name, rec.Body.Len(), event.Dur, tt.bytes, tt.took)
			}
			if stalled := errors.Is(event.Err, oci.ErrStalled); stalled != (tt.bytes < 10) || (event.Err != nil) != stalled {
				t.Errorf("%s: %v", name, event.Err)
			}
		})
	}
}

// pacedReader gives one byte every so often, as long as its context lasts.
type pacedReader struct {
	c     ctx
	every time.Duration
}

func (p *pacedReader) Read(b []byte) (int, error) {
	select {
	case <-time.After(p.every):
		return copy(b, "x"), nil
	case <-p.c.Done():
		return 0, p.c.Err()
	}
}

// A client that leaves ends its section, and is no warning.
func TestClientLeaves(t *testing.T) {
	ended := make(chan error, 1)
	var log recorder
	counted := prometheus.NewRegistry()
	events := make(chan ociserver.Event, 1)
	reg := reading(1<<20, func(c ctx) io.Reader {
		return struct{ io.Reader }{io.MultiReader(strings.NewReader("x"), errAfter{c, ended})}
	})
	srv := serve(t, reg, ociserver.Options{Log: log.logger(), Metrics: counted, Observe: func(e ociserver.Event) { events <- e }})
	c := dial(t, srv)
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: hub\r\n\r\n", blobPath)
	if _, err := c.r.ReadByte(); err != nil {
		t.Fatal(err)
	}
	c.Close()
	<-ended
	e := <-events
	if e.Status != 200 || e.BytesSent != 1 || e.Err == nil {
		t.Errorf("%+v", e)
	}
	srv.Close()
	if n := gather(t, counted)[`breakwater_registry_bodies_cut_total{cause="client"}`]; log.has("WARN") || log.has("ERROR") || n != 1 {
		t.Errorf("counted %v as the client's, logged:\n%s", n, log.String())
	}
}

type errAfter struct {
	c     ctx
	ended chan<- error
}

func (e errAfter) Read([]byte) (int, error) {
	<-e.c.Done()
	e.ended <- e.c.Err()
	return 0, e.c.Err()
}

// A disk that fails under sendfile is our fault, and a warning, even though
// the error comes out of the connection's ReadFrom.
func TestDiskErrorIsOurs(t *testing.T) {
	var log recorder
	counted := prometheus.NewRegistry()
	file := tempFile(t, []byte("short"))
	content := func(c ctx, off, n int64) (io.ReadCloser, error) { return oci.FileContent(file).Section(c, off, n) }
	srv := httpx.Middleware{Log: log.logger()}.Wrap(ociserver.New(&blobs{size: 100, section: content}, ociserver.Options{Metrics: counted}))
	srv.ServeHTTP(failingWriter{httptest.NewRecorder()}, httptest.NewRequest("GET", blobPath, nil))
	if n := gather(t, counted)[`breakwater_registry_bodies_cut_total{cause="failed"}`]; !log.has("WARN") || !strings.Contains(log.String(), "input/output error") || n != 1 {
		t.Errorf("counted %v as failed, logged:\n%s", n, log.String())
	}
}

type failingWriter struct{ *httptest.ResponseRecorder }

func (failingWriter) ReadFrom(io.Reader) (int64, error) {
	return 0, &os.PathError{Op: "sendfile", Err: syscall.EIO}
}

// A section that fails before its first byte is a status still.
func TestSectionFailsFirst(t *testing.T) {
	reg := &blobs{size: 10, section: func(ctx, int64, int64) (io.ReadCloser, error) {
		return nil, &oci.Error{Code: oci.Unavailable, RetryAfter: 1500 * time.Millisecond}
	}}
	srv := serve(t, reg, ociserver.Options{})
	resp, body := raw(t, srv, "GET", blobPath, nil, nil)
	if resp.StatusCode != 503 || code(body) != "UNAVAILABLE" || resp.Header.Get("Retry-After") != "2" {
		t.Errorf("%s %v %s", resp.Status, resp.Header, body)
	}
	for _, name := range []string{"Accept-Ranges", "Docker-Content-Digest", "ETag", "Content-Range"} {
		if v := resp.Header.Get(name); v != "" {
			t.Errorf("the error has %s: %s", name, v)
		}
	}
	if reg.closed.Load() != 1 {
		t.Errorf("the blob was closed %d times", reg.closed.Load())
	}
}

// An empty blob has no section to open.
func TestEmptyBlob(t *testing.T) {
	reg := &blobs{size: 0}
	srv := serve(t, reg, ociserver.Options{})
	for header, want := range map[string]int{"": 200, "bytes=0-": 200, "bytes=1-": 416} {
		resp, _ := raw(t, srv, "GET", blobPath, map[string]string{"Range": header}, nil)
		if resp.StatusCode != want {
			t.Errorf("%q: %s, want %d", header, resp.Status, want)
		}
	}
}

func tempFile(t *testing.T, content []byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
