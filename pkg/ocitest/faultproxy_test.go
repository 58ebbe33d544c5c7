package ocitest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// proxied is a fault proxy before a registry that holds one image as library/app:1.
type proxied struct {
	*FaultProxy
	url   string
	layer string // path of the image's only layer
	body  []byte // the layer
	image v1.Image
}

func newProxied(t *testing.T) *proxied {
	t.Helper()
	upstream := httptest.NewServer(registry.New(registry.Logger(discard())))
	t.Cleanup(upstream.Close)
	image, err := random.Image(100_000, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref(t, upstream.URL, "library/app:1"), image); err != nil {
		t.Fatal(err)
	}
	p := &proxied{FaultProxy: NewFaultProxy(Forward(upstream.URL)), image: image}
	srv := httptest.NewServer(p)
	t.Cleanup(func() { p.Clear(); srv.Close() })
	p.url = srv.URL
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	p.layer = "/v2/library/app/blobs/" + digest.String()
	status, body, err := p.get(t, http.MethodGet, p.layer, nil)
	if err != nil || status != http.StatusOK || len(body) < 100_000 {
		t.Fatalf("GET of the layer through an idle proxy = %d, %d bytes, %v", status, len(body), err)
	}
	p.body = body
	p.ResetLog()
	return p
}

// get makes one request on a connection of its own; err is of the transport or of reading the body.
func (p *proxied) get(t *testing.T, method, path string, header http.Header) (status int, body []byte, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, p.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err = io.ReadAll(res.Body)
	return res.StatusCode, body, err
}

func ref(t *testing.T, registryURL, image string) name.Reference {
	t.Helper()
	r, err := name.ParseReference(strings.TrimPrefix(registryURL, "http://")+"/"+image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFaultsOfTheBody(t *testing.T) {
	p := newProxied(t)
	n := len(p.body)
	flipped := func(at int) []byte {
		b := bytes.Clone(p.body)
		b[at] ^= 0xff
		return b
	}
	for _, tt := range []struct {
		name  string
		fault Fault
		from  int // the first byte of a range; 0 asks for all
		want  []byte
		err   error // from reading the body
	}{
		{"none", Fault{}, 0, p.body, nil},
		{"none, ranged", Fault{}, 5000, p.body[5000:], nil},
		{"cut", Fault{CutAt: 50_000}, 0, p.body[:50_000], io.ErrUnexpectedEOF},
		{"cut of a range counts from its start", Fault{CutAt: 100}, 5000, p.body[5000:5100], io.ErrUnexpectedEOF},
		{"cut after the headers", Fault{CutAt: -1}, 0, nil, io.ErrUnexpectedEOF},
		{"cut past the end", Fault{CutAt: int64(n)}, 0, p.body, nil},
		{"reset after the headers", Fault{CutAt: -1, Reset: true}, 0, nil, syscall.ECONNRESET},
		{"corrupt first byte", Fault{CorruptAt: 1}, 0, flipped(0), nil},
		{"corrupt in the middle", Fault{CorruptAt: 70_001}, 0, flipped(70_000), nil},
		{"corrupt in a range", Fault{CorruptAt: 70_001}, 69000, flipped(70_000)[69_000:], nil},
		{"corrupt before a range", Fault{CorruptAt: 10}, 69000, p.body[69_000:], nil},
		{"short", Fault{ShortBy: 10}, 0, p.body[:n-10], nil},
		{"longer", Fault{Extra: []byte("tail")}, 0, append(bytes.Clone(p.body), "tail"...), nil},
		{"paced", Fault{BytesPerSec: 10 << 20}, 0, p.body, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.Set(tt.fault)
			p.ResetLog()
			header := http.Header{}
			if tt.from > 0 {
				header.Set("Range", fmt.Sprintf("bytes=%d-%d", tt.from, n-1))
			}
			_, body, err := p.get(t, http.MethodGet, p.layer, header)
			if !errors.Is(err, tt.err) || !bytes.Equal(body, tt.want) {
				t.Errorf("got %d bytes, %v; want %d bytes, %v", len(body), err, len(tt.want), tt.err)
			}
			if err := p.Idle(t.Context()); err != nil {
				t.Error(err)
			}
			if sent := p.Sent("GET", "/blobs/"); sent != int64(len(tt.want)) {
				t.Errorf("the log says %d bytes were sent, not %d", sent, len(tt.want))
			}
		})
	}
}

func TestFaultsBeforeTheBody(t *testing.T) {
	p := newProxied(t)
	for _, tt := range []struct {
		name   string
		fault  Fault
		method string
		status int // 0: no answer
		header string
		body   string
	}{
		{"status", Fault{Status: 503, Body: `{"errors":[]}`}, "GET", 503, "Content-Type: application/json", `{"errors":[]}`},
		{"status on HEAD", Fault{Status: 503, Body: `{"errors":[]}`}, "HEAD", 503, "Content-Length: 13", ""},
		{"with headers", Fault{Status: 429, Header: http.Header{"Retry-After": {"7"}}}, "GET", 429, "Retry-After: 7", ""},
		{"web page", Fault{HTML: true}, "GET", 200, "Content-Type: text/html", "<!DOCTYPE html>"},
		{"header taken away", Fault{Header: http.Header{"Docker-Content-Digest": nil}}, "HEAD", 200, "!Docker-Content-Digest", ""},
		{"header changed", Fault{Header: http.Header{"Content-Length": {"7"}}}, "HEAD", 200, "Content-Length: 7", ""},
		{"short on HEAD", Fault{ShortBy: 1 << 40}, "HEAD", 200, "Content-Length: 0", ""},
		{"reset", Fault{Reset: true}, "GET", 0, "", ""},
		{"other method", Fault{Method: "GET", Status: 500}, "HEAD", 200, "Docker-Content-Digest: sha256:", ""},
		{"other path", Fault{Path: regexp.MustCompile("/manifests/"), Status: 500}, "HEAD", 200, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.Set(tt.fault)
			req, err := http.NewRequestWithContext(t.Context(), tt.method, p.url+p.layer, nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := http.DefaultClient.Do(req)
			if tt.status == 0 {
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("err = %v, want a reset connection", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != tt.status || !strings.HasPrefix(string(body), tt.body) {
				t.Errorf("= %d %.40q, %v; want %d %q", res.StatusCode, body, err, tt.status, tt.body)
			}
			key, value, _ := strings.Cut(tt.header, ": ")
			if absent, ok := strings.CutPrefix(key, "!"); ok {
				if got, there := res.Header[absent]; there {
					t.Errorf("%s: %s should be gone", absent, got)
				}
			} else if got := res.Header.Get(key); !strings.HasPrefix(got, value) {
				t.Errorf("%s: %q, want %q", key, got, value)
			}
		})
	}
}

func TestFaultIsCounted(t *testing.T) {
	p := newProxied(t)
	p.Set(Fault{Method: "GET", After: 1, Times: 2, Status: 500})
	p.Add(Fault{Method: "GET", After: 3, Times: 1, Status: 502})
	var got []int
	for range 7 {
		status, _, err := p.get(t, http.MethodGet, p.layer, nil)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, status)
	}
	// The second rule sees only what the first lets pass: requests 1, 4, 5, 6 and 7.
	if want := "[200 500 500 200 200 502 200]"; fmt.Sprint(got) != want {
		t.Errorf("statuses = %v, want %s", got, want)
	}
	if n := p.Count("GET", "/blobs/sha256:"); n != 7 {
		t.Errorf("Count = %d, want 7", n)
	}
	var faulted int
	for _, r := range p.Requests() {
		if r.Faulted {
			faulted++
		}
	}
	if faulted != 3 {
		t.Errorf("%d requests are marked as faulted, want 3", faulted)
	}
	p.Clear()
	p.ResetLog()
	if status, _, _ := p.get(t, http.MethodGet, p.layer, nil); status != 200 || len(p.Requests()) != 1 {
		t.Errorf("after Clear and ResetLog: %d, %d requests; want 200 and 1", status, len(p.Requests()))
	}
}

// A hanging and a stalled answer last until the rules change; a stalled one has sent its first part.
func TestHangAndStall(t *testing.T) {
	p := newProxied(t)
	for _, f := range []Fault{{Hang: true}, {StallAt: 40_000}, {StallAt: -1}} {
		p.Set(f)
		p.ResetLog()
		type outcome struct {
			body []byte
			err  error
		}
		done := make(chan outcome, 1)
		go func() {
			_, body, err := p.get(t, http.MethodGet, p.layer, nil)
			done <- outcome{body, err}
		}()
		if err := p.Wait(t.Context(), 1, "GET", "/blobs/"); err != nil {
			t.Fatal(err)
		}
		select {
		case o := <-done:
			t.Fatalf("%+v ended by itself: %v", f, o.err)
		case <-time.After(50 * time.Millisecond):
		}
		p.Clear()
		o := <-done
		if want := max(f.StallAt, 0); o.err == nil || int64(len(o.body)) != want {
			t.Errorf("%+v: %d bytes, %v; want %d and an error", f, len(o.body), o.err, want)
		}
	}
}

func TestDown(t *testing.T) {
	p := newProxied(t)
	p.Down(true)
	_, _, err := p.get(t, http.MethodGet, "/v2/", nil)
	if !errors.Is(err, io.EOF) {
		t.Errorf("while down: %v, want EOF", err)
	}
	p.Down(false)
	if status, _, err := p.get(t, http.MethodGet, "/v2/", nil); status != 200 || err != nil {
		t.Errorf("after that: %d, %v", status, err)
	}
	if r := p.Requests()[0]; r.Status != 0 || !r.Done {
		t.Errorf("the log says %+v, want an ended request without a status", r)
	}
}

func TestContentEncodingIsNeverSent(t *testing.T) {
	p := NewFaultProxy(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = io.WriteString(w, "bytes")
	}))
	rec := httptest.NewRecorder()
	p.ServeHTTP(rec, httptest.NewRequest("GET", "/v2/a/blobs/b", nil))
	if v, there := rec.Header()["Content-Encoding"]; there {
		t.Errorf("Content-Encoding: %v", v)
	}
}

// FIN, not RST: a reader that is slow still gets every byte before the cut.
func TestCutEndsWithFIN(t *testing.T) {
	p := newProxied(t)
	p.Set(Fault{CutAt: 90_000})
	res, err := http.Get(p.url + p.layer)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := p.Idle(t.Context()); err != nil { // the server is through with it before we read on
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, bufio.NewReaderSize(res.Body, 512))
	if n != 90_000 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read %d bytes, %v; want 90000 and unexpected EOF", n, err)
	}
}

func TestPace(t *testing.T) {
	body := strings.Repeat("x", 100_000)
	upstream := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
	for _, tt := range []struct {
		name    string
		limit   int64 // of the proxy
		fault   Fault
		clients int
		want    time.Duration // for all
	}{
		{"unlimited", 0, Fault{}, 2, 0},
		{"each answer at 10 kB/s", 0, Fault{BytesPerSec: 10_000}, 2, 10 * time.Second},
		{"all answers at 10 kB/s", 10_000, Fault{}, 2, 20 * time.Second},
		{"the slower wins", 100_000, Fault{BytesPerSec: 20_000}, 1, 5 * time.Second},
		{"delay", 0, Fault{Delay: time.Minute}, 2, time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := NewFaultProxy(upstream)
				p.Limit(tt.limit)
				p.Set(tt.fault)
				start := time.Now()
				for range tt.clients {
					go func() {
						rec := httptest.NewRecorder()
						p.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil).WithContext(t.Context()))
						if rec.Body.String() != body {
							t.Errorf("got %d bytes", rec.Body.Len())
						}
					}()
				}
				if err := p.Wait(t.Context(), tt.clients, "", ""); err != nil {
					t.Fatal(err)
				}
				if err := p.Idle(t.Context()); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took < tt.want-catchUp || took > tt.want+100*time.Millisecond {
					t.Errorf("took %v, want %v", took, tt.want)
				}
			})
		})
	}
}

func TestWaitSaysWhatCame(t *testing.T) {
	p := newProxied(t)
	if _, _, err := p.get(t, http.MethodGet, "/v2/", nil); err != nil {
		t.Fatal(err)
	}
	if err := p.Idle(t.Context()); err != nil { // the answer may be here before it is noted
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := p.Wait(ctx, 1, "HEAD", "/blobs/")
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "GET /v2/ 200") {
		t.Errorf("Wait = %v, want the request that came and the reason", err)
	}
}
