package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// ask gives the status and body of /readyz.
func ask(t *testing.T, h *Health) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.Ready(w, httptest.NewRequest("GET", "/readyz", nil))
	return w.Code, strings.TrimSpace(w.Body.String())
}

func after(d time.Duration, err error) Check {
	return func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestReady(t *testing.T) {
	for _, tt := range []struct {
		name     string
		database Check // required
		upstream Check // optional
		took     time.Duration
		status   int
		body     string
	}{
		{"all well", after(time.Millisecond, nil), after(0, nil), time.Millisecond, 200,
			`{"ready":true,"checks":{"database":{"ok":true,"ms":1},"upstream":{"ok":true,"ms":0,"optional":true}}}`},
		{"required fails", after(0, errors.New("refused")), after(0, nil), 0, 503,
			`{"ready":false,"checks":{"database":{"ok":false,"ms":0,"error":"refused"},"upstream":{"ok":true,"ms":0,"optional":true}}}`},
		{"optional fails", after(0, nil), after(0, errors.New("refused")), 0, 200,
			`{"ready":true,"checks":{"database":{"ok":true,"ms":0},"upstream":{"ok":false,"ms":0,"optional":true,"error":"refused"}}}`},
		{"both slow, at the same time", after(time.Second, nil), after(time.Second, nil), time.Second, 200,
			`{"ready":true,"checks":{"database":{"ok":true,"ms":1000},"upstream":{"ok":true,"ms":1000,"optional":true}}}`},
		{"too slow", after(time.Minute, nil), after(0, nil), 2 * time.Second, 503,
			`{"ready":false,"checks":{"database":{"ok":false,"ms":2000,"error":"no answer within 2s"},"upstream":{"ok":true,"ms":0,"optional":true}}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var h Health
				h.Add("database", tt.database)
				h.AddOptional("upstream", tt.upstream)
				began := time.Now()
				status, body := ask(t, &h)
				if status != tt.status || body != tt.body || time.Since(began) != tt.took {
					t.Errorf("%d %s after %v, want %d %s after %v", status, body, time.Since(began), tt.status, tt.body, tt.took)
				}
			})
		})
	}
}

// Results are shared by those who ask at once and for a second after.
func TestReadyCaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Health
		var runs atomic.Int64
		h.Add("database", func(context.Context) error {
			runs.Add(1)
			time.Sleep(100 * time.Millisecond)
			return nil
		})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { ask(t, &h) })
		}
		wg.Wait()
		time.Sleep(checkMaxAge - time.Millisecond)
		ask(t, &h)
		if runs.Load() != 1 {
			t.Errorf("%d runs within a second, want 1", runs.Load())
		}
		time.Sleep(time.Millisecond)
		if ask(t, &h); runs.Load() != 2 {
			t.Errorf("%d runs after a second, want 2", runs.Load())
		}
	})
}

// The one who asked first may hang up; the others still get an answer.
func TestReadyOutlivesItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Health
		h.Add("database", after(time.Second, nil))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w := httptest.NewRecorder()
		h.Ready(w, httptest.NewRequestWithContext(ctx, "GET", "/readyz", nil))
		if w.Code != 200 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

// A check that ignores its context neither blocks the answer nor piles up.
func TestReadyWithHungCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Health
		free := make(chan struct{})
		var runs atomic.Int64
		h.Add("disk", func(context.Context) error {
			runs.Add(1)
			<-free
			return nil
		})
		for range 3 {
			began := time.Now()
			if status, body := ask(t, &h); status != 503 || time.Since(began) != checkTimeout {
				t.Errorf("%d %s after %v", status, body, time.Since(began))
			}
			time.Sleep(checkMaxAge)
		}
		if runs.Load() != 1 {
			t.Errorf("%d runs, want 1", runs.Load())
		}
		close(free)
		synctest.Wait()
		time.Sleep(time.Hour) // what the hung run found is old by now: a new one runs
		if status, body := ask(t, &h); status != 200 || runs.Load() != 2 {
			t.Errorf("%d %s, %d runs", status, body, runs.Load())
		}
	})
}

func TestAddReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Health
		h.Add("database", after(0, errors.New("old")))
		ask(t, &h)
		h.Add("database", after(0, nil))
		time.Sleep(checkMaxAge)
		if status, body := ask(t, &h); status != 200 {
			t.Errorf("%d %s", status, body)
		}
	})
}

func TestDrain(t *testing.T) {
	var h Health
	if status, body := ask(t, &h); status != 200 || body != `{"ready":true,"checks":{}}` {
		t.Errorf("before: %d %s", status, body)
	}
	h.round = nil
	h.Add("database", func(context.Context) error { t.Error("checked while draining"); return nil })
	h.Drain()
	if status, body := ask(t, &h); status != 503 || body != `{"ready":false,"reason":"draining","checks":{}}` {
		t.Errorf("draining: %d %s", status, body)
	}
}

func TestHandler(t *testing.T) {
	var h Health
	h.Add("database", after(0, errors.New("refused")))
	srv := httptest.NewServer(Handler(NewRegistry(), &h))
	defer srv.Close()
	for _, tt := range []struct {
		method, path string
		status       int
		contentType  string
		body         []string
	}{
		{"GET", "/healthz", 200, "text/plain; charset=utf-8", []string{"ok\n"}},
		{"HEAD", "/healthz", 200, "text/plain; charset=utf-8", nil},
		{"GET", "/readyz", 503, "application/json", []string{`"error":"refused"`}},
		{"GET", "/metrics", 200, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
			[]string{"go_goroutines ", "process_open_fds ", "go_build_info{", "promhttp_metric_handler_errors_total"}},
		{"POST", "/readyz", 405, "text/plain; charset=utf-8", nil},
		{"GET", "/", 404, "text/plain; charset=utf-8", nil},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, srv.URL+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := res.Write(&b); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != tt.status || res.Header.Get("Content-Type") != tt.contentType {
			t.Errorf("%s %s = %d %s, want %d %s", tt.method, tt.path, res.StatusCode, res.Header.Get("Content-Type"), tt.status, tt.contentType)
		}
		for _, want := range tt.body {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s lacks %q:\n%s", tt.path, want, &b)
			}
		}
	}
}

// late is a value that becomes a group when it is logged.
type late []slog.Attr

func (l late) LogValue() slog.Value { return slog.GroupValue(l...) }

func TestLogger(t *testing.T) {
	var b strings.Builder
	log, err := NewLogger(&b, "json", nil)
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("not at this level")
	log.With("Authorization", "hunter2").WithGroup("auth").Info("login", "user", "ann", "password", "hunter2",
		"hubToken", []string{"hunter2"}, "client_secret", "hunter2", "tokens", 3)
	log.WithGroup("secret").Info("m", "inside", "hunter2")
	log.WithGroup("secret").With("inside", "hunter2").Info("m")
	log.With("k", "v").Info("m", "TOKEN", "hunter2")
	log.Info("m", "k", "v", slog.Group("in", "password", "hunter2"))
	log.Info("m", "late", late{slog.String("password", "hunter2")})
	log.With(slog.Group("secret", "inside", "hunter2")).Info("m")

	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 7 || strings.Contains(b.String(), "hunter2") {
		t.Fatalf("got\n%s", &b)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil {
		t.Fatal(err)
	}
	delete(got, "time")
	want := map[string]any{"level": "INFO", "msg": "login", "Authorization": "***", "auth": map[string]any{
		"user": "ann", "password": "***", "hubToken": "***", "client_secret": "***", "tokens": 3.0}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}

	b.Reset()
	if log, err = NewLogger(&b, "text", nil); err != nil {
		t.Fatal(err)
	}
	if log.Info("m", "k", "v"); !strings.HasSuffix(b.String(), " level=INFO msg=m k=v\n") {
		t.Errorf("text: %q", b.String())
	}
	if _, err := NewLogger(&b, "xml", nil); err == nil || err.Error() != `log format "xml", want text or json` {
		t.Errorf("xml: %v", err)
	}
}
