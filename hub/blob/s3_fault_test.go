package blob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/blob/blobtest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// fault is what happens to a request instead of, or after, its being served.
type fault func(w http.ResponseWriter, r *http.Request, serve http.Handler)

// answer is a fault of the server.
func answer(status int, code string) fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>as the test wants</Message></Error>", code)
		}
	}
}

// drop cuts the connection before the request is read.
func drop(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }

// lose serves the request, and drops the answer.
func lose(_ http.ResponseWriter, r *http.Request, serve http.Handler) {
	serve.ServeHTTP(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

// hang says nothing for as long as the client stays.
func hang(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.Copy(io.Discard, r.Body) // net/http sees only then that a client goes
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// cut sends the first n bytes of the body and then drops the connection, or is
// silent.
func cut(n int, silent bool) fault {
	return func(w http.ResponseWriter, r *http.Request, serve http.Handler) {
		rec := httptest.NewRecorder()
		serve.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes()[:min(n, rec.Body.Len())])
		_ = http.NewResponseController(w).Flush()
		if silent {
			<-r.Context().Done()
		}
		panic(http.ErrAbortHandler)
	}
}

// proxy stands before a server and makes the faults of a test.
type proxy struct {
	*httptest.Server
	mu     sync.Mutex
	choose func(op string, nth int) fault // nil: none
	count  map[string]int
}

// op names a request of S3.
func op(r *http.Request) string {
	q, object := r.URL.Query(), strings.Count(strings.Trim(r.URL.Path, "/"), "/") > 0
	switch {
	case r.Method == http.MethodPut && q.Has("partNumber"):
		return "part"
	case r.Method == http.MethodPut:
		return "put"
	case r.Method == http.MethodPost && q.Has("uploads"):
		return "begin"
	case r.Method == http.MethodPost && q.Has("delete"):
		return "multidelete"
	case r.Method == http.MethodPost:
		return "complete"
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		return "abort"
	case r.Method == http.MethodDelete:
		return "delete"
	case r.Method == http.MethodHead:
		return "stat"
	case q.Has("uploads"):
		return "listuploads"
	case object:
		return "get"
	}
	return "list"
}

func newProxy(t *testing.T, cfg *blob.S3Config) *proxy {
	t.Helper()
	target, err := url.Parse(cfg.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	rp := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p := &proxy{count: make(map[string]int)}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var f fault
		p.mu.Lock()
		name := op(r)
		nth := p.count[name]
		p.count[name]++
		if p.choose != nil {
			f = p.choose(name, nth)
		}
		p.mu.Unlock()
		if f == nil {
			rp.ServeHTTP(w, r)
			return
		}
		f(w, r, rp)
	}))
	t.Cleanup(p.Close)
	cfg.Endpoint = p.URL
	return p
}

// set begins to make faults.
func (p *proxy) set(choose func(op string, nth int) fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.count)
	p.choose = choose
}

func (p *proxy) seen(op string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count[op]
}

func openS3(t *testing.T, change func(*blob.S3Config)) (*blob.S3, *proxy) {
	t.Helper()
	cfg := blobtest.S3(t)
	cfg.PartBytes = blobtest.PartBytes
	p := newProxy(t, &cfg)
	if change != nil {
		change(&cfg)
	}
	s, err := blob.NewS3(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if n := s.Stats().BufferBytes; n != 0 {
			t.Errorf("%d bytes of memory were not given back", n)
		}
		s.Close()
	})
	return s, p
}

// push writes b under key, in pieces.
func push(ctx context.Context, s blob.Store, key string, b []byte) (err error) {
	w, err := s.Create(ctx, key)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	for len(b) > 0 {
		n, err := w.Write(b[:min(len(b), 300_000)])
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return w.Commit(ctx)
}

func pull(ctx context.Context, s blob.Store, key string, sizeBytes int64) (_ []byte, err error) {
	c, err := s.Open(ctx, key, sizeBytes)
	if err != nil {
		return nil, err
	}
	r, err := c.Section(ctx, 0, sizeBytes)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return io.ReadAll(r)
}

// begun lists multipart uploads that are left.
func begun(t *testing.T, s blob.Store) (keys []string) {
	t.Helper()
	err := s.Walk(t.Context(), "", func(o blob.Object) error {
		if o.Begun {
			keys = append(keys, o.Key)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

var (
	internal = answer(http.StatusInternalServerError, "InternalError")
	slowDown = answer(http.StatusServiceUnavailable, "SlowDown")
)

// What passes is not noticed, whichever request it hits.
func TestS3PassingFaults(t *testing.T) {
	s, p := openS3(t, nil)
	for name, f := range map[string]fault{"500": internal, "503": slowDown, "dropped": drop, "answer lost": lose} {
		t.Run(name, func(t *testing.T) {
			// Each kind of request fails at first, and again a little later.
			p.set(func(_ string, nth int) fault {
				if nth == 0 || nth == 2 {
					return f
				}
				return nil
			})
			defer p.set(nil)
			small, large := blob.NewKey(), blob.NewKey()
			for key, size := range map[string]int64{small: 1000, large: 3*blobtest.PartBytes + 1} {
				if err := push(t.Context(), s, key, blobtest.Bytes(size)); err != nil {
					t.Fatal(err)
				}
				if got, err := pull(t.Context(), s, key, size); err != nil || !bytes.Equal(got, blobtest.Bytes(size)) {
					t.Fatalf("%d bytes became %d others, %v", size, len(got), err)
				}
			}
			if keys := begun(t, s); len(keys) > 0 {
				t.Errorf("after commits, %v are still begun", keys)
			}
			part := blob.NewKey()
			w, err := s.Create(t.Context(), part)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(blobtest.Bytes(2*blobtest.PartBytes + 1)); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if err := s.Delete(t.Context(), small, large, part); err != nil {
				t.Fatal(err)
			}
			if err := s.Walk(t.Context(), "", func(o blob.Object) error { return fmt.Errorf("%s is still there", o.Key) }); err != nil {
				t.Error(err)
			}
		})
	}
	if s.Stats().Retries == 0 {
		t.Error("no fault was met")
	}
}

// What does not pass is told as what it is, and nothing is taken for stored.
func TestS3LastingFaults(t *testing.T) {
	const retryFor, wait = 600 * time.Millisecond, 100 * time.Millisecond // and how long it waits at most before the second try
	s, p := openS3(t, func(c *blob.S3Config) { c.RetryFor, c.Stall = retryFor, 5*time.Second })
	for _, tt := range []struct {
		name  string
		fault fault
		code  oci.Code
		text  string
		again bool // is tried again
	}{
		{"500", internal, oci.Unavailable, "as the test wants", true},
		{"503", slowDown, oci.Unavailable, "as the test wants", true},
		{"dropped", drop, oci.Unavailable, "", true},
		{"hangs", hang, oci.Unavailable, "stalled", true},
		{"507", answer(http.StatusInsufficientStorage, "XMinioStorageFull"), oci.NoSpace, "XMinioStorageFull", false},
		{"quota", answer(http.StatusForbidden, "QuotaExceeded"), oci.NoSpace, "QuotaExceeded", false},
		{"too large", answer(http.StatusBadRequest, "EntityTooLarge"), oci.NoSpace, "EntityTooLarge", false},
		{"denied", answer(http.StatusForbidden, "AccessDenied"), oci.Unknown, "may not do this", false},
	} {
		for _, on := range []string{"put", "begin", "part", "complete"} {
			t.Run(tt.name+" on "+on, func(t *testing.T) {
				if on == "complete" && tt.name == "hangs" {
					t.Skip("it may take ten times as long")
				}
				size := int64(2*blobtest.PartBytes + 1)
				if on == "put" {
					size = 10
				}
				p.set(func(op string, _ int) fault {
					if op == on {
						return tt.fault
					}
					return nil
				})
				defer p.set(nil)
				key := blob.NewKey()
				start := time.Now()
				err := push(t.Context(), s, key, blobtest.Bytes(size))
				var e *oci.Error
				if oci.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.text) {
					t.Fatalf("push: %v, want %s with %q", err, tt.code, tt.text)
				}
				if errors.As(err, &e) && e.Code == oci.Unavailable && e.RetryAfter <= 0 {
					t.Errorf("%v does not say when to come back", err)
				}
				took := time.Since(start)
				late := took > retryFor-wait                                                                                 // with a first try so slow, there is no time for another
				if again := p.seen(on) > 1; tt.name != "hangs" && on != "part" && tt.again != again && !(tt.again && late) { // of parts there are several
					t.Errorf("%s was asked for %d times in %v", on, p.seen(on), took)
				}
				if took > 10*time.Second {
					t.Errorf("it took %v", took)
				}
				p.set(nil)
				if _, err := pull(t.Context(), s, key, size); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("after a push that failed: %v", err)
				}
				if err := s.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				if keys := begun(t, s); len(keys) > 0 {
					t.Errorf("%v are still begun", keys)
				}
			})
		}
	}
}

// A part that fails for good does not take with it those that arrived.
func TestS3ResumeAfterFault(t *testing.T) {
	s, p := openS3(t, func(c *blob.S3Config) { c.RetryFor = 100 * time.Millisecond })
	all := blobtest.Bytes(5*blobtest.PartBytes + 77)
	p.set(func(op string, nth int) fault {
		if op == "part" && nth >= 2 {
			return internal
		}
		return nil
	})
	key := blob.NewKey()
	w, err := s.Create(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	var offset int64
	var state []byte
	w.OnSaved(func(o int64, s []byte) error { offset, state = o, s; return nil })
	_, err = w.Write(all)
	if err == nil {
		_, err = w.Save(t.Context())
	}
	if oci.CodeOf(err) != oci.Unavailable {
		t.Fatalf("Save: %v, want %s", err, oci.Unavailable)
	}
	if err := w.Commit(t.Context()); oci.CodeOf(err) != oci.Unavailable {
		t.Fatalf("Commit: %v, want %s", err, oci.Unavailable)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	p.set(nil)
	// Which two came first is up to the network; when they are not the first of
	// the blob, it begins anew.
	w, err = s.Resume(t.Context(), key, offset, state)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = w.Write(all[offset:]); err == nil {
		err = w.Commit(t.Context())
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	if got, err := pull(t.Context(), s, key, int64(len(all))); err != nil || !bytes.Equal(got, all) {
		t.Errorf("%d other bytes, %v", len(got), err)
	}
	if keys := begun(t, s); len(keys) > 0 {
		t.Errorf("%v are still begun", keys)
	}
}

func TestS3Hang(t *testing.T) {
	s, p := openS3(t, func(c *blob.S3Config) { c.Stall = 200 * time.Millisecond })
	p.set(func(_ string, nth int) fault {
		if nth == 0 {
			return hang
		}
		return nil
	})
	key, size := blob.NewKey(), int64(100)
	if err := push(t.Context(), s, key, blobtest.Bytes(size)); err != nil {
		t.Fatal(err)
	}
	if got, err := pull(t.Context(), s, key, size); err != nil || !bytes.Equal(got, blobtest.Bytes(size)) {
		t.Errorf("%d other bytes, %v", len(got), err)
	}
	if s.Stats().Retries < 2 {
		t.Errorf("nothing hung: %+v", s.Stats())
	}
}

// A download goes on where it broke off.
func TestS3ReadBreaksOff(t *testing.T) {
	s, p := openS3(t, func(c *blob.S3Config) { c.Stall, c.RetryFor = 200*time.Millisecond, 300*time.Millisecond })
	const size = 400_000
	key := blob.NewKey()
	if err := push(t.Context(), s, key, blobtest.Bytes(size)); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]fault{"in the middle": cut(100_000, false), "before the first byte": cut(0, false), "goes silent": cut(70_000, true)} {
		p.set(func(_ string, nth int) fault {
			if nth < 3 {
				return f
			}
			return nil
		})
		if got, err := pull(t.Context(), s, key, size); err != nil || !bytes.Equal(got, blobtest.Bytes(size)) {
			t.Errorf("%s: %d other bytes, %v", name, len(got), err)
		}
		if p.seen("get") != 4 {
			t.Errorf("%s: asked %d times, want 4", name, p.seen("get"))
		}
	}
	p.set(func(string, int) fault { return cut(10, false) })
	if _, err := pull(t.Context(), s, key, size); oci.CodeOf(err) != oci.Unavailable {
		t.Errorf("when it breaks off each time: %v, want %s", err, oci.Unavailable)
	}
	if n := p.seen("get"); n < 2 || n > 20 {
		t.Errorf("asked %d times", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	p.set(func(string, int) fault { cancel(); return cut(10, true) })
	if _, err := pull(ctx, s, key, size); !errors.Is(err, context.Canceled) {
		t.Errorf("when its reader has gone: %v", err)
	}
}

// A reader may be slow for longer than a request may stand still.
func TestS3SlowReader(t *testing.T) {
	s, _ := openS3(t, func(c *blob.S3Config) { c.Stall = 100 * time.Millisecond })
	const size = 8 << 20 // more than lies in buffers on the way
	key := blob.NewKey()
	if err := push(t.Context(), s, key, blobtest.Bytes(size)); err != nil {
		t.Fatal(err)
	}
	c, err := s.Open(t.Context(), key, size)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Section(t.Context(), 0, size)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	before := s.Stats().Retries
	time.Sleep(300 * time.Millisecond) // what it is about
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, blobtest.Bytes(size)) {
		t.Errorf("%d other bytes, %v", len(got), err)
	}
	if n := s.Stats().Retries - before; n > 0 {
		t.Errorf("the request was cut %d times", n)
	}
}

// What is wrong with a bucket is said at the start, without its secret.
func TestNewS3Errors(t *testing.T) {
	good := blobtest.S3(t)
	for name, tt := range map[string]struct {
		change func(*blob.S3Config)
		want   string
	}{
		"bucket":      {func(c *blob.S3Config) { c.Bucket = "nosuchbucket" }, "bucket does not exist"},
		"access key":  {func(c *blob.S3Config) { c.AccessKey = "nobody" }, "does not know the access key"},
		"secret key":  {func(c *blob.S3Config) { c.SecretKey = "wrong-secret" }, "secret key is not that of the access key"},
		"region":      {func(c *blob.S3Config) { c.Region = "eu-west-7" }, "region"},
		"spool dir":   {func(c *blob.S3Config) { c.SpoolDir = "/nonexistent" }, "spool folder"},
		"part size":   {func(c *blob.S3Config) { c.Endpoint = "ftp://x" }, "want host:port"},
		"path":        {func(c *blob.S3Config) { c.Endpoint += "/prefix" }, "want host:port"},
		"unreachable": {func(c *blob.S3Config) { c.Endpoint = "http://127.0.0.1:1" }, "refused"},
		"not TLS":     {func(c *blob.S3Config) { c.Endpoint = strings.TrimPrefix(c.Endpoint, "http://") }, "HTTP response to HTTPS client"},
		"clock": {func(c *blob.S3Config) {
			newProxy(t, c).set(func(string, int) fault { return answer(http.StatusForbidden, "RequestTimeTooSkewed") })
		}, "clocks"},
		"read only": {func(c *blob.S3Config) {
			newProxy(t, c).set(func(op string, _ int) fault {
				if op == "put" {
					return answer(http.StatusForbidden, "AccessDenied")
				}
				return nil
			})
		}, "may not do this"},
	} {
		if name == "region" && blobtest.Given() {
			continue // MinIO takes any
		}
		cfg := good
		cfg.RetryFor = 100 * time.Millisecond
		tt.change(&cfg)
		_, err := blob.NewS3(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
			continue
		}
		if strings.Contains(err.Error(), cfg.SecretKey) {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
}

func TestS3URL(t *testing.T) {
	s, p := openS3(t, nil)
	key := blob.NewKey()
	if err := push(t.Context(), s, key, blobtest.Bytes(1000)); err != nil {
		t.Fatal(err)
	}
	link, err := s.URL(t.Context(), key, time.Minute)
	if err != nil || !strings.HasPrefix(link, p.URL+"/") {
		t.Fatalf("URL = %s, %v", link, err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Range", "bytes=10-19")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusPartialContent || !bytes.Equal(got, blobtest.Bytes(1000)[10:20]) {
		t.Errorf("GET = %s, %q, %v", resp.Status, got, err)
	}
}
