package httpx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// through serves r by h within m, and gives the answer and the log's lines. A
// panic with http.ErrAbortHandler is net/http's to take, and taken here.
func through(t *testing.T, m Middleware, h http.Handler, r *http.Request) (w *httptest.ResponseRecorder, lines []map[string]any, aborted bool) {
	t.Helper()
	var out bytes.Buffer
	m.Log = slog.New(slog.NewJSONHandler(&out, nil))
	w = httptest.NewRecorder()
	func() {
		defer func() {
			if p := recover(); p != nil {
				if p != http.ErrAbortHandler {
					t.Errorf("panic %v", p)
				}
				aborted = true
			}
		}()
		m.Wrap(h).ServeHTTP(w, r)
	}()
	for line := range strings.Lines(out.String()) {
		var got map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		delete(got, "time")
		lines = append(lines, got)
	}
	return w, lines, aborted
}

func TestAccessLog(t *testing.T) {
	r := httptest.NewRequest("GET", "/v2/library/alpine/manifests/3?ns=docker.io&token=hunter2", nil)
	r.Header.Set("Authorization", "Bearer hunter2")
	r.Header.Set("X-Request-Id", "abc-123")
	r.Header.Set("X-Forwarded-For", "192.0.2.7")
	r.RemoteAddr = "10.0.0.1:4711"
	m := Middleware{Forwarded: NewForwarded([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})}
	w, lines, _ := through(t, m, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello")
	}), r)

	if len(lines) != 1 {
		t.Fatalf("%d lines: %v", len(lines), lines)
	}
	if dur, ok := lines[0]["dur"].(float64); !ok || dur < 0 {
		t.Errorf("dur is %v", lines[0]["dur"])
	}
	delete(lines[0], "dur")
	want := map[string]any{"level": "INFO", "msg": "request", "method": "GET", "path": "/v2/library/alpine/manifests/3", "ns": "docker.io",
		"status": 200.0, "bytes": 5.0, "remote": "192.0.2.7", "id": "abc-123"}
	if diff := cmp.Diff(want, lines[0]); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if id := w.Header().Get("X-Request-Id"); id != "abc-123" {
		t.Errorf("the id is %q in the answer", id)
	}
}

func TestRequestID(t *testing.T) {
	for id, taken := range map[string]bool{
		"abc-123": true, "0af7651916cd43dd8448eb211c80319c": true, "a/b+c=d@e:f._": true, strings.Repeat("x", 64): true,
		"": false, strings.Repeat("x", 65): false, "a b": false, "a\tb": false, `a"b`: false, "ä": false, "a\x00": false,
	} {
		r := get("GET")
		r.Header["X-Request-Id"] = []string{id}
		got := requestID(r)
		if (got == id) != taken || !taken && (len(got) < 20 || got == requestID(r)) {
			t.Errorf("the client's id %q becomes %q", id, got)
		}
	}
}

// What an ending is logged and counted as, and what the client sees of it.
func TestEndings(t *testing.T) {
	fails := func(before string, err error) http.Handler {
		return Handle(func(w http.ResponseWriter, _ *http.Request) error { io.WriteString(w, before); return err }, nil)
	}
	panics := func(before string, p any) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if before != "" {
				io.WriteString(w, before)
			}
			panic(p)
		})
	}
	denied := Handle(func(http.ResponseWriter, *http.Request) error { return oci.Errorf(oci.Denied, "no") }, nil)
	full := Handle(func(http.ResponseWriter, *http.Request) error { return &oci.Error{Code: oci.NoSpace} }, nil)
	away := Handle(func(http.ResponseWriter, *http.Request) error {
		return &oci.Error{Code: oci.Unavailable, Err: errors.New("dial")}
	}, nil)
	for _, tt := range []struct {
		name    string
		h       http.Handler
		status  int // sent
		aborted bool
		log     string // levels and messages
		err     any
		label   string
	}{
		{"nothing written", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), 200, false, "INFO request", nil, "2xx"},
		{"refused", denied, 403, false, "INFO request", "DENIED: no", "4xx"},
		{"away", away, 503, false, "WARN request", "UNAVAILABLE: cannot answer at the moment: dial", "5xx"},
		{"full", full, 507, false, "ERROR request", "NO_SPACE: no space left in the registry's storage", "5xx"},
		{"broken", Handle(func(http.ResponseWriter, *http.Request) error { return io.ErrNoProgress }, nil), 500, false, "ERROR request", io.ErrNoProgress.Error(), "5xx"},
		{"broken midway", fails("half", errBroken), 200, true, "WARN request", "wrong digest", "cut"},
		{"panic", panics("", "a bug"), 500, false, "ERROR panic, ERROR request", "the handler panicked", "5xx"},
		{"panic midway", panics("half", errBroken), 200, true, "ERROR panic, ERROR request", "the handler panicked", "cut"},
		{"abort midway", panics("half", http.ErrAbortHandler), 200, true, "WARN request", http.ErrAbortHandler.Error(), "cut"},
		{"abort at once", panics("", http.ErrAbortHandler), 200, true, "WARN request", http.ErrAbortHandler.Error(), "cut"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			m := Middleware{Metrics: NewMetrics(reg, "blob")}
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				SetRoute(w, "blob")
				tt.h.ServeHTTP(w, r)
			})
			w, lines, aborted := through(t, m, h, get("GET"))
			var log []string
			for _, l := range lines {
				log = append(log, l["level"].(string)+" "+l["msg"].(string))
			}
			last := lines[len(lines)-1]
			if w.Code != tt.status || aborted != tt.aborted || strings.Join(log, ", ") != tt.log || last["err"] != tt.err {
				t.Errorf("status %d, aborted %v, log %v", w.Code, aborted, lines)
			}
			if log[0] == "ERROR panic" && !strings.Contains(lines[0]["stack"].(string), "middleware_test.go") {
				t.Errorf("the stack does not show where: %v", lines[0]["stack"])
			}
			if n := testutil.CollectAndCount(m.Metrics.seconds); n != 1 || !counted(t, reg, "GET", "blob", tt.label) {
				t.Errorf("not counted as GET blob %s (%d series)", tt.label, n)
			}
		})
	}
}

// counted says that reg has a request with these labels.
func counted(t *testing.T, reg *prometheus.Registry, method, route, status string) bool {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := ""
			for _, l := range m.GetLabel() {
				labels += l.GetName() + "=" + l.GetValue() + " "
			}
			if f.GetName() == "breakwater_http_request_duration_seconds" && m.GetHistogram().GetSampleCount() > 0 &&
				labels == "method="+method+" route="+route+" status="+status+" " {
				return true
			}
		}
	}
	return false
}

// Clients cannot make new series.
func TestMetricsLabelsAreClosed(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := Middleware{Metrics: NewMetrics(reg, "blob", "manifest")}
	through(t, m, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { SetRoute(w, "library/alpine") }), get("BREW"))
	through(t, m, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), get("PROPFIND"))
	if n := testutil.CollectAndCount(m.Metrics.seconds); n != 1 || !counted(t, reg, "other", "other", "2xx") {
		t.Errorf("%d series", n)
	}
}

func TestMiddlewareZeroValue(t *testing.T) {
	w := httptest.NewRecorder()
	Middleware{}.Wrap(http.NotFoundHandler()).ServeHTTP(w, get("GET"))
	if w.Code != 404 || w.Header().Get("X-Request-Id") == "" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

func BenchmarkMiddleware(b *testing.B) {
	m := Middleware{Log: slog.New(slog.NewJSONHandler(io.Discard, nil)), Metrics: NewMetrics(prometheus.NewRegistry(), "blob")}
	h := m.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { SetRoute(w, "blob"); w.WriteHeader(304) }))
	r, w := get("GET"), httptest.NewRecorder()
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}

// failingWriter is a client that left: net/http's writer fails from then on.
type failingWriter struct{ *httptest.ResponseRecorder }

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// Clients that leave midway are everyday (containerd closes each body of a
// parallel fetch); only what we cut is a warning.
func TestClientLeavesMidway(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, tt := range []struct {
		name  string
		r     *http.Request
		w     http.ResponseWriter
		label string
	}{
		{"context ended", get("GET").WithContext(canceled), httptest.NewRecorder(), "2xx"},
		{"write failed", get("GET"), failingWriter{httptest.NewRecorder()}, "2xx"},
		{"HEAD has no body to cut", get("HEAD"), httptest.NewRecorder(), "2xx"},
		{"we cut", get("GET"), httptest.NewRecorder(), "cut"},
	} {
		rec := newRecord(tt.w, tt.r)
		func() {
			defer func() { recover() }() // http.ErrAbortHandler or none; TestEndings tells them apart
			Handle(func(w http.ResponseWriter, r *http.Request) error {
				io.WriteString(w, "half")
				if r.Context() == canceled {
					cancel()
				}
				return errBroken
			}, nil).ServeHTTP(rec, tt.r)
		}()
		if got := statusLabel(rec); got != tt.label || rec.err != errBroken {
			t.Errorf("%s: counted as %s with %v, want %s", tt.name, got, rec.err, tt.label)
		}
	}
}
