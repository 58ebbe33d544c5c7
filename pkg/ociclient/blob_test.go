package ociclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

var noTime time.Time

// TestOpenAnswers is what a registry may answer to a GET of ten bytes, from an
// offset.
func TestOpenAnswers(t *testing.T) {
	const blob = "0123456789"
	for _, tt := range []struct {
		name   string
		off    int64
		status int
		header map[string]string
		body   string
		size   int64
		read   string
		end    error    // of the body; nil is io.EOF
		want   oci.Code // of Open
	}{
		{name: "whole", status: 200, body: blob, size: 10, read: blob},
		{name: "whole, of unknown length", status: 200, header: map[string]string{"Content-Length": ""}, body: blob, size: -1, read: blob},
		{name: "part", off: 4, status: 206, header: map[string]string{"Content-Range": "bytes 4-9/10"}, body: blob[4:], size: 10, read: blob[4:]},
		{name: "part of unknown size", off: 4, status: 206, header: map[string]string{"Content-Range": "bytes 4-9/*"}, body: blob[4:], size: -1, read: blob[4:]},
		{name: "part nobody asked for", status: 206, header: map[string]string{"Content-Range": "bytes 0-9/10"}, body: blob, size: 10, read: blob},
		{name: "part with more than it said", off: 4, status: 206, header: map[string]string{"Content-Range": "bytes 4-9/10"}, body: blob[4:] + "more", size: 10, read: blob[4:]},
		{name: "part that ends before the end", off: 4, status: 206, header: map[string]string{"Content-Range": "bytes 4-6/10"}, body: blob[4:7], size: 10, read: blob[4:7], end: io.ErrUnexpectedEOF},
		{name: "part that begins elsewhere", off: 4, status: 206, header: map[string]string{"Content-Range": "bytes 5-9/10"}, body: blob[5:], want: oci.Unavailable},
		{name: "part that does not say", off: 4, status: 206, body: blob[4:], want: oci.Unavailable},
		{name: "several parts", off: 4, status: 206, header: map[string]string{"Content-Type": "multipart/byteranges; boundary=x"}, body: "--x", want: oci.Unavailable},
		{name: "part beyond the size", off: 4, status: 206, header: map[string]string{"Content-Range": "bytes 4-9/8"}, body: blob[4:], want: oci.Unavailable},
		{name: "part backwards", off: 4, status: 206, header: map[string]string{"Content-Range": "bytes 4-3/10"}, want: oci.Unavailable},
		{name: "part with a sign", off: 4, status: 206, header: map[string]string{"Content-Range": "bytes 4-+9/10"}, want: oci.Unavailable},
		{name: "range ignored", off: 4, status: 200, body: blob, size: 10, read: blob[4:]},
		{name: "range ignored, of unknown length", off: 4, status: 200, header: map[string]string{"Content-Length": ""}, body: blob, size: -1, read: blob[4:]},
		{name: "range ignored, at the end", off: 10, status: 200, body: blob, size: 10},
		{name: "range ignored, too far", off: 11, status: 200, body: blob, want: oci.RangeInvalid},
		{name: "range ignored, too far, of unknown length", off: 11, status: 200, header: map[string]string{"Content-Length": ""}, body: blob, want: oci.RangeInvalid},
		{name: "range refused", off: 10, status: 416, header: map[string]string{"Content-Range": "bytes */10"}, want: oci.RangeInvalid},
		{name: "no ranges known", off: 4, status: 416, want: oci.RangeInvalid},
		{name: "web page", status: 200, header: map[string]string{"Content-Type": "text/html"}, body: "<html>", want: oci.Unavailable},
		{name: "part of a web page", off: 4, status: 206, header: map[string]string{"Content-Type": "text/html", "Content-Range": "bytes 4-9/10"}, body: "<html>", want: oci.Unavailable},
		{name: "encoded", status: 200, header: map[string]string{"Content-Encoding": "gzip"}, body: blob, want: oci.Unavailable},
		{name: "encoded as it is", status: 200, header: map[string]string{"Content-Encoding": "identity"}, body: blob, size: 10, read: blob},
		{name: "missing", status: 404, want: oci.BlobUnknown},
		{name: "short", status: 200, header: map[string]string{"Content-Length": "20"}, body: blob, size: 20, read: blob, end: io.ErrUnexpectedEOF},
		{name: "short, from an offset", off: 4, status: 206, header: map[string]string{"Content-Length": "16", "Content-Range": "bytes 4-19/20"}, body: blob[4:], size: 20, read: blob[4:], end: io.ErrUnexpectedEOF},
		{name: "short before the offset", off: 15, status: 200, header: map[string]string{"Content-Length": "20"}, body: blob, want: oci.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var ranges []string
			c := ask(t, func(w http.ResponseWriter, r *http.Request) {
				ranges = append(ranges, r.Header.Get("Range"))
				w.Header().Set("Content-Length", fmt.Sprint(len(tt.body)))
				for k, v := range tt.header {
					w.Header()[k] = []string{v}
					if v == "" {
						w.Header().Del(k)
					}
				}
				w.WriteHeader(tt.status)
				http.NewResponseController(w).Flush() // or net/http finds out the length itself
				io.WriteString(w, tt.body)
			})
			s, err := c.Open(t.Context(), "library/nginx", oci.FromBytes([]byte(blob)), tt.off)
			wantCode(t, "Open", err, tt.want)
			want := ""
			if tt.off > 0 {
				want = fmt.Sprintf("bytes=%d-", tt.off)
			}
			if ranges[0] != want {
				t.Errorf("asked for range %q, want %q", ranges[0], want)
			}
			if err != nil {
				return
			}
			got, err := readAll(t, s.Body)
			if string(got) != tt.read || err != tt.end || s.SizeBytes != tt.size {
				t.Errorf("read %q of %d, %v, want %q of %d, %v", got, s.SizeBytes, err, tt.read, tt.size, tt.end)
			}
		})
	}
}

// TestRangesNotUnderstood: a 416 that does not say that the blob is too short
// is asked again for the whole.
func TestRangesNotUnderstood(t *testing.T) {
	blob := random(100 << 10)
	c := ask(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		w.Write(blob)
	})
	s, err := c.Open(t.Context(), "library/nginx", oci.FromBytes(blob), 70_000)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(t, s.Body); err != nil || !bytes.Equal(got, blob[70_000:]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestBrokenBodies breaks bodies on the wire.
func TestBrokenBodies(t *testing.T) {
	blob := random(256 << 10)
	d := oci.FromBytes(blob)
	p := ocitest.NewFaultProxy(newRegistry(t, blob))
	c := client(t, ociclient.Options{URL: serve(t, p).URL, StallTimeout: 300 * time.Millisecond})
	read := func() (int, error) {
		t.Helper()
		s, err := c.Open(t.Context(), "library/nginx", d, 0)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readAll(t, s.Body)
		if !bytes.Equal(got, blob[:len(got)]) {
			t.Error("bytes differ")
		}
		return len(got), err
	}

	p.Set(ocitest.Fault{CutAt: 100_000})
	if n, err := read(); n != 100_000 || err != io.ErrUnexpectedEOF {
		t.Errorf("cut: %d bytes, %v", n, err)
	}
	p.Set(ocitest.Fault{CutAt: 100_000, Reset: true})
	if n, err := read(); oci.CodeOf(err) != oci.Unavailable || !strings.Contains(text(err), "broke") {
		t.Errorf("reset: %d bytes, %v", n, err)
	}
	p.Set(ocitest.Fault{StallAt: 100_000})
	n, err := read()
	wantCode(t, "stalled", err, oci.Unavailable)
	if n != 100_000 || !errors.Is(err, oci.ErrStalled) || !strings.Contains(text(err), "less than 16 KiB in 300ms") {
		t.Errorf("stalled: %d bytes, %v", n, err)
	}
	if c.Tripped() {
		t.Error("a stall is not for the breaker")
	}
	p.Set(ocitest.Fault{BytesPerSec: 20_000}) // 6 KB in the window
	if n, err := read(); !errors.Is(err, oci.ErrStalled) {
		t.Errorf("trickling: %d bytes, %v", n, err)
	}
	p.Clear()
	if n, err := read(); n != len(blob) || err != nil {
		t.Errorf("whole: %d bytes, %v", n, err)
	}
}

// TestStall measures the window with a pipe for a body.
func TestStall(t *testing.T) {
	open := func(t *testing.T) (io.ReadCloser, *io.PipeWriter) {
		pr, pw := io.Pipe()
		c := client(t, ociclient.Options{URL: "https://registry.test", Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			context.AfterFunc(r.Context(), func() { pr.CloseWithError(r.Context().Err()) })
			return respond(r, 200, nil, pr, 1<<30), nil
		})})
		s, err := c.Open(t.Context(), "library/nginx", manifestDigest, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Body.Close() })
		return s.Body, pw
	}
	buf := make([]byte, 64<<10)

	t.Run("nothing comes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, _ := open(t)
			began := time.Now()
			_, err := r.Read(buf)
			if took := time.Since(began); took != 10*time.Second || !errors.Is(err, oci.ErrStalled) {
				t.Errorf("after %s: %v", took, err)
			}
		})
	})
	t.Run("too little comes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, w := open(t)
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				for { // 15 KiB in 10 s
					time.Sleep(time.Second)
					if _, err := w.Write(buf[:1536]); err != nil {
						return
					}
				}
			})
			began := time.Now()
			_, err := io.Copy(io.Discard, r)
			if took := time.Since(began); took != 10*time.Second || !errors.Is(err, oci.ErrStalled) {
				t.Errorf("after %s: %v", took, err)
			}
		})
	})
	t.Run("just enough comes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, w := open(t)
			go func() {
				for range 100 {
					time.Sleep(9 * time.Second)
					w.Write(buf[:16<<10])
				}
				w.Close()
			}()
			if n, err := io.Copy(io.Discard, r); n != 100*16<<10 || err != io.ErrUnexpectedEOF {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	})
	t.Run("a slow reader", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, w := open(t)
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				for {
					if _, err := w.Write(buf); err != nil {
						return
					}
				}
			})
			for range 5 {
				time.Sleep(time.Hour)
				if _, err := io.ReadFull(r, buf[:100]); err != nil {
					t.Fatal(err)
				}
			}
			r.Close()
		})
	})
	t.Run("the reader leaves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, _ := open(t)
			time.AfterFunc(time.Second, func() { r.Close() })
			if _, err := r.Read(buf); err == nil || errors.Is(err, oci.ErrStalled) {
				t.Errorf("Read = %v", err)
			}
		})
	})
}

func TestCallerEndsBody(t *testing.T) {
	blob := random(1 << 20)
	p := ocitest.NewFaultProxy(newRegistry(t, blob))
	p.Set(ocitest.Fault{StallAt: 1000})
	c := client(t, ociclient.Options{URL: serve(t, p).URL})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.Open(ctx, "library/nginx", oci.FromBytes(blob), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Body.Close()
	if _, err := io.ReadFull(s.Body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := s.Body.Read(make([]byte, 1)); err != context.Canceled {
		t.Errorf("Read = %v, want context.Canceled itself", err)
	}
}

// TestStat asks a GET what a HEAD leaves out.
func TestStat(t *testing.T) {
	blob := random(100 << 10)
	d := oci.FromBytes(blob)
	for _, tt := range []struct {
		name string
		head func(w http.ResponseWriter)
		gets int
		want oci.Code
	}{
		{"as it should be", func(w http.ResponseWriter) { w.Header().Set("Content-Length", fmt.Sprint(len(blob))) }, 0, ""},
		{"no length", func(w http.ResponseWriter) { w.WriteHeader(200); http.NewResponseController(w).Flush() }, 1, ""},
		{"no HEAD", func(w http.ResponseWriter) { w.WriteHeader(405) }, 1, ""},
		{"another digest", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1")
			w.Header().Set("Docker-Content-Digest", manifestDigest.String())
		}, 0, oci.Unavailable},
		{"web page", func(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/html") }, 0, oci.Unavailable},
		{"missing", func(w http.ResponseWriter) { w.WriteHeader(404) }, 0, oci.BlobUnknown},
	} {
		gets := 0
		c := ask(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "HEAD" {
				tt.head(w)
				return
			}
			gets++
			w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
			w.Write(blob)
		})
		info, err := c.Stat(t.Context(), "library/nginx", d)
		wantCode(t, tt.name, err, tt.want)
		if gets != tt.gets || err == nil && (info.Size != int64(len(blob)) || info.Digest != d || info.Source != oci.FromUpstream) {
			t.Errorf("%s: %+v after %d GETs", tt.name, info, gets)
		}
	}
	c := ask(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		io.WriteString(w, "?")
	})
	_, err := c.Stat(t.Context(), "library/nginx", d)
	wantCode(t, "a size nobody tells", err, oci.Unavailable)
}

// TestStatOfSignedLink: storage that takes the link for GET only.
func TestStatOfSignedLink(t *testing.T) {
	blob := random(100 << 10)
	storage := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "GET" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		w.Write(blob)
	}))
	c := ask(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, storage.URL, http.StatusTemporaryRedirect)
	})
	if info, err := c.Stat(t.Context(), "library/nginx", oci.FromBytes(blob)); err != nil || info.Size != int64(len(blob)) {
		t.Errorf("Stat = %+v, %v", info, err)
	}
}

func BenchmarkOpen(b *testing.B) {
	blob := random(8 << 20)
	c, err := ociclient.New(ociclient.Options{URL: "https://registry.test", Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		return respond(r, 200, nil, bytes.NewReader(blob), int64(len(blob))), nil
	})})
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 128<<10)
	b.SetBytes(int64(len(blob)))
	b.ReportAllocs()
	for b.Loop() {
		s, err := c.Open(b.Context(), "library/nginx", manifestDigest, 0)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, s.Body, buf); err != nil {
			b.Fatal(err)
		}
		s.Body.Close()
	}
}
