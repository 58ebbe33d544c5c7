package ociserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// failing answers each read with an error.
type failing struct {
	oci.RefuseAll
	err error
}

func (f failing) Manifest(ctx, string, oci.Reference) (oci.Manifest, error) {
	return oci.Manifest{}, f.err
}
func (f failing) Resolve(ctx, string, oci.Reference) (oci.Manifest, error) {
	return oci.Manifest{}, f.err
}

// What each error is to most clients, and what to containerd: there it must
// not be 429, which is asked again at once, nor a 5xx other than 503.
func TestErrors(t *testing.T) {
	secret := errors.New("dial tcp 10.0.0.1:5432: refused")
	for _, tt := range []struct {
		err        error
		status     int
		containerd int
		body       string // as most clients are told
		retryAfter string
		log        string // level, "" for none
	}{
		{&oci.Error{Code: oci.ManifestUnknown}, 404, 404, `{"code":"MANIFEST_UNKNOWN","message":"manifest unknown to registry"}`, "", ""},
		{&oci.Error{Code: oci.Denied, Message: "breakwater: 3 critical", Detail: map[string]any{"rule": "a", "decision": 1}}, 403, 403,
			`{"code":"DENIED","message":"breakwater: 3 critical","detail":{"decision":1,"rule":"a"}}`, "", ""},
		{&oci.Error{Code: oci.Denied, Detail: func() {}}, 403, 403, `{"code":"DENIED","message":"requested access to the resource is denied"}`, "", ""},
		{fmt.Errorf("manifest of app: %w", &oci.Error{Code: oci.NameUnknown, Err: secret}), 404, 404, `{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}`, "", ""},
		{&oci.Error{Code: oci.TooManyRequests, RetryAfter: 1100 * time.Millisecond}, 429, 503, `{"code":"TOOMANYREQUESTS","message":"too many requests"}`, "2", ""},
		{&oci.Error{Code: oci.Unavailable, Err: secret}, 503, 503, `{"code":"UNAVAILABLE","message":"cannot answer at the moment"}`, "", "WARN"},
		{&oci.Error{Code: oci.NoSpace, Err: secret}, 507, 503, `{"code":"UNAVAILABLE","message":"no space left in the registry's storage"}`, "", "ERROR"},
		{&oci.Error{Code: oci.Unknown, Err: secret}, 500, 503, `{"code":"UNKNOWN","message":"internal error"}`, "", "ERROR"},
		{secret, 500, 503, `{"code":"UNKNOWN","message":"internal error"}`, "", "ERROR"},
		{fmt.Errorf("asking: %w", context.DeadlineExceeded), 503, 503, `{"code":"UNAVAILABLE","message":"cannot answer at the moment"}`, "", "WARN"},
		{context.Canceled, 503, 503, `{"code":"UNAVAILABLE","message":"cannot answer at the moment"}`, "", "WARN"}, // not by this client
		{&oci.Error{Code: oci.Unsupported}, 405, 405, `{"code":"UNSUPPORTED","message":"the operation is unsupported"}`, "", ""},
		{&oci.Error{Code: oci.Unauthorized}, 401, 401, `{"code":"UNAUTHORIZED","message":"authentication required"}`, "", ""},
	} {
		for _, containerd := range []bool{false, true} {
			want := tt.status
			if containerd {
				want = tt.containerd
			}
			var log recorder
			srv := serve(t, failing{err: tt.err}, ociserver.Options{Containerd: containerd, Log: log.logger()})
			resp, body := raw(t, srv, "GET", "/v2/app/manifests/v1", nil, nil)
			if resp.StatusCode != want || resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("Retry-After") != tt.retryAfter {
				t.Errorf("%v, containerd %v: %s %v, want %d", tt.err, containerd, resp.Status, resp.Header, want)
			}
			full := `{"errors":[` + tt.body + `]}`
			if containerd && want != tt.status {
				full = regexp.MustCompile(`"code":"[A-Z]+"`).ReplaceAllString(full, `"code":"UNAVAILABLE"`)
			}
			if body != full {
				t.Errorf("%v, containerd %v: %s, want %s", tt.err, containerd, body, full)
			}
			if strings.Contains(body, "10.0.0.1") {
				t.Errorf("%v: the cause is sent: %s", tt.err, body)
			}
			if _, again := raw(t, srv, "GET", "/v2/app/manifests/v1", nil, nil); again != body {
				t.Errorf("%v: %s, then %s: not the same bytes", tt.err, body, again)
			}
			head, body := raw(t, srv, "HEAD", "/v2/app/manifests/v1", nil, nil)
			if head.StatusCode != want || body != "" {
				t.Errorf("HEAD: %v, containerd %v: %s %q, want %d", tt.err, containerd, head.Status, body, want)
			}
			if !containerd && (log.has("ERROR") != (tt.log == "ERROR") || log.has("WARN") != (tt.log == "WARN")) {
				t.Errorf("%v is logged so, want level %q:\n%s", tt.err, tt.log, log.String())
			}
			if tt.log != "" && !strings.Contains(log.String(), tt.err.Error()) {
				t.Errorf("%v: its cause is not logged:\n%s", tt.err, log.String())
			}
		}
	}
}

// To containerd 429 reads as what it stands for, with the registry's words.
func TestTooManyToContainerd(t *testing.T) {
	srv := serve(t, failing{err: &oci.Error{Code: oci.TooManyRequests, Message: "docker.io has had enough"}}, ociserver.Options{
		Name: func(_, repo string) (string, error) { return repo, nil },
	})
	for query, want := range map[string]string{
		"":              `429 {"errors":[{"code":"TOOMANYREQUESTS","message":"docker.io has had enough"}]}`,
		"?ns=docker.io": `503 {"errors":[{"code":"UNAVAILABLE","message":"docker.io has had enough"}]}`,
	} {
		resp, body := raw(t, srv, "GET", "/v2/app/manifests/v1"+query, nil, nil)
		if got := fmt.Sprint(resp.StatusCode, " ", body); got != want {
			t.Errorf("%q: %s, want %s", query, got, want)
		}
	}
}

// Who names another registry is never challenged: containerd would send us the
// Pod's password for that one. And who sent credentials is not asked again.
func TestChallenge(t *testing.T) {
	unauthorized := &oci.Error{Code: oci.Unauthorized}
	var asked []string
	o := ociserver.Options{
		Name:  func(ns, repo string) (string, error) { return strings.TrimPrefix(ns+"/"+repo, "/"), nil },
		Local: func(ns string) bool { return ns == "hub.test" },
		Authenticate: func(r *http.Request) (context.Context, error) {
			if r.Header.Get("Authorization") == "Basic wrong" {
				return nil, unauthorized
			}
			return r.Context(), nil
		},
		Ping: func(r *http.Request) error { return unauthorized },
		Challenge: func(_ *http.Request, q ociserver.Request) string {
			asked = append(asked, q.Namespace)
			if q.Kind == ociserver.Ping {
				return `Bearer realm="https://hub.test/token"`
			}
			return fmt.Sprintf(`Bearer realm="https://hub.test/token",scope="repository:%s:pull"`, q.Repo)
		},
	}
	reg := failing{err: unauthorized}
	scoped := func(repo string) string {
		return `Bearer realm="https://hub.test/token",scope="repository:` + repo + `:pull"`
	}
	for _, tt := range []struct {
		path, authorization string
		containerd          bool
		status              int
		challenge           string
	}{
		{"/v2/", "", false, 401, `Bearer realm="https://hub.test/token"`},
		{"/v2/app/manifests/v1", "", false, 401, scoped("app")},
		{"/v2/app/manifests/v1", "Basic wrong", false, 401, scoped("app")},
		{"/v2/app/manifests/v1?ns=hub.test", "", false, 401, scoped("hub.test/app")},
		{"/v2/app/manifests/v1?ns=docker.io", "", false, 401, ""},
		{"/v2/?ns=docker.io", "", false, 401, ""},
		{"/v2/app/manifests/v1?ns=docker.io", "Basic wrong", false, 403, ""},
		{"/v2/app/manifests/v1?ns=docker.io", "Basic right", false, 403, ""},
		{"/v2/app/manifests/v1", "", true, 401, scoped("app")},
		{"/v2/app/manifests/v1", "Basic wrong", true, 403, ""},
	} {
		asked = nil
		o.Containerd = tt.containerd
		srv := serve(t, reg, o)
		header := map[string]string{}
		if tt.authorization != "" {
			header["Authorization"] = tt.authorization
		}
		resp, _ := raw(t, srv, "GET", tt.path, header, nil)
		if resp.StatusCode != tt.status || resp.Header.Get("WWW-Authenticate") != tt.challenge {
			t.Errorf("%s %q: %s %q, want %d %q", tt.path, tt.authorization, resp.Status, resp.Header.Get("WWW-Authenticate"), tt.status, tt.challenge)
		}
		for _, ns := range asked {
			if ns == "docker.io" {
				t.Errorf("%s: a challenge was made for another registry", tt.path)
			}
		}
	}
}

// A registry without referrers says 404, on which clients fall back on tags;
// one that cannot be written says 405 and what it has.
func TestUnsupported(t *testing.T) {
	srv := serve(t, oci.RefuseAll{}, ociserver.Options{})
	for _, tt := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/v2/app/referrers/" + d256.String(), 404, ""},
		{"PUT", "/v2/app/manifests/v1", 405, "GET, HEAD"},
		{"DELETE", "/v2/app/blobs/" + d256.String(), 405, "GET, HEAD"},
		{"POST", "/v2/app/blobs/uploads/", 405, "GET, HEAD"},
		{"GET", "/v2/_catalog", 405, "GET, HEAD"},
		{"PATCH", "/v2/_catalog", 405, "GET, HEAD"},
	} {
		want := "UNSUPPORTED"
		if tt.status == 404 {
			want = "NAME_UNKNOWN"
		}
		resp, body := raw(t, srv, tt.method, tt.path, nil, []byte("x"))
		if resp.StatusCode != tt.status || code(body) != want || resp.Header.Get("Allow") != tt.allow {
			t.Errorf("%s %s: %s, Allow %q, %s", tt.method, tt.path, resp.Status, resp.Header.Get("Allow"), body)
		}
	}
}

func TestNames(t *testing.T) {
	reg := library(t)
	tree := placed("library/app", "v1")
	if err := tree.Push(t.Context(), reg, "docker.io/library/nginx", "1"); err != nil {
		t.Fatal(err)
	}
	srv := serve(t, reg, ociserver.Options{Name: func(ns, repo string) (string, error) {
		switch ns {
		case "":
			return repo, nil
		case "docker.io":
			return oci.JoinUpstream(ns, repo)
		}
		return "", oci.Errorf(oci.NameUnknown, "no mirror of %s", ns)
	}})
	for _, tt := range []struct {
		path   string
		status int
		ns     string
	}{
		{"/v2/library/app/manifests/v1", 200, ""},
		{"/v2/docker.io/library/nginx/manifests/1", 200, ""},
		{"/v2/library/nginx/manifests/1?ns=docker.io", 200, "docker.io"},
		{"/v2/library/app/manifests/v1?ns=docker.io", 404, "docker.io"}, // the namespace wins
		{"/v2/library/nginx/manifests/1?ns=quay.io", 404, ""},
	} {
		resp, body := raw(t, srv, "GET", tt.path, nil, nil)
		if resp.StatusCode != tt.status || resp.Header.Get("OCI-Namespace") != tt.ns {
			t.Errorf("%s: %s, OCI-Namespace %q, %s", tt.path, resp.Status, resp.Header.Get("OCI-Namespace"), body)
		}
	}
	resp, body := raw(t, srv, "GET", "/v2/library/nginx/tags/list?n=1&ns=docker.io", nil, nil)
	if resp.StatusCode != 200 || body != `{"name":"library/nginx","tags":["1"]}` {
		t.Errorf("the list names the repository otherwise than its client: %s", body)
	}
}

// The caller is who Authenticate says, for the registry and for events.
func TestAuthenticate(t *testing.T) {
	var events []ociserver.Event
	reg := library(t)
	o := ociserver.Options{
		Authenticate: func(r *http.Request) (context.Context, error) {
			return oci.WithCaller(r.Context(), oci.Caller{Name: "ann"}), nil
		},
		Observe: func(e ociserver.Event) { events = append(events, e) },
	}
	var seen string
	srv := serve(t, watching{reg, func(c ctx) { seen = oci.CallerFrom(c).Name }}, o)
	raw(t, srv, "GET", "/v2/library/app/manifests/v1", nil, nil)
	if seen != "ann" || len(events) != 1 || events[0].Caller.Name != "ann" {
		t.Errorf("the registry saw %q, events %+v", seen, events)
	}
}

// watching sees the contexts of what is asked.
type watching struct {
	*ocitest.Memory
	see func(ctx)
}

func (w watching) Manifest(c ctx, repo string, ref oci.Reference) (oci.Manifest, error) {
	w.see(c)
	return w.Memory.Manifest(c, repo, ref)
}

// hanging answers when its client has left, or the test lets it.
type hanging struct {
	oci.RefuseAll
	*blobs
	release chan struct{}
}

func (h *hanging) Blob(c ctx, repo string, d oci.Digest) (*oci.Blob, error) {
	<-h.release // deaf to c: as bad as a registry can be
	return h.blobs.Blob(c, repo, d)
}

func (h *hanging) Resolve(c ctx, _ string, _ oci.Reference) (oci.Manifest, error) {
	<-c.Done()
	return oci.Manifest{}, c.Err()
}

func (h *hanging) Manifest(ctx, string, oci.Reference) (oci.Manifest, error) {
	panic("a fault of ours")
}

func TestHeaderTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := &hanging{blobs: reading(5, func(ctx) io.Reader { return strings.NewReader("hello") }), release: make(chan struct{})}
		srv := ociserver.New(reg, ociserver.Options{HeaderTimeout: 3 * time.Second})
		get := func(method, path string) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			srv.ServeHTTP(w, httptest.NewRequest(method, path, nil))
			return w
		}
		for _, tt := range []struct {
			method, path string
		}{{"GET", blobPath}, {"HEAD", "/v2/app/manifests/v1"}} {
			start := time.Now()
			w := get(tt.method, tt.path)
			if took := time.Since(start); w.Code != 503 || took != 3*time.Second {
				t.Errorf("%s %s: %d after %s, want 503 after 3s", tt.method, tt.path, w.Code, took)
			}
			if tt.method == "GET" && code(w.Body.String()) != "UNAVAILABLE" {
				t.Errorf("%s: %s", tt.path, w.Body)
			}
		}
		close(reg.release)
		synctest.Wait()
		if reg.closed.Load() != 1 {
			t.Errorf("the blob that came late was closed %d times", reg.closed.Load())
		}
		if w := get("GET", blobPath); w.Code != 200 || w.Body.String() != "hello" {
			t.Errorf("in time: %d %s", w.Code, w.Body)
		}
		if w := get("GET", "/v2/app/manifests/v1"); w.Code != 500 || code(w.Body.String()) != "UNKNOWN" {
			t.Errorf("a panic: %d %s", w.Code, w.Body)
		}
	})
}

// The bound is for the status alone: a body may take as long as it flows.
func TestHeaderTimeoutSparesBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := ociserver.New(reading(10, func(c ctx) io.Reader { return struct{ io.Reader }{&pacedReader{c, time.Minute}} }), ociserver.Options{HeaderTimeout: time.Second})
		w := httptest.NewRecorder()
		srv.ServeHTTP(w, httptest.NewRequest("GET", blobPath, nil))
		if w.Code != 200 || w.Body.Len() != 10 {
			t.Errorf("%d, %d bytes", w.Code, w.Body.Len())
		}
	})
}

// A client that leaves is not waited for.
func TestClientLeavesEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var event ociserver.Event
		srv := ociserver.New(&hanging{}, ociserver.Options{HeaderTimeout: time.Hour, Observe: func(e ociserver.Event) { event = e }})
		c, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		w := httptest.NewRecorder()
		func() {
			// Should the client be there after all, it must not read the empty
			// 200 that net/http sends for a handler that returns.
			defer func() {
				if p := recover(); p != http.ErrAbortHandler {
					t.Errorf("recovered %v, want the connection aborted", p)
				}
			}()
			srv.ServeHTTP(w, httptest.NewRequest("HEAD", "/v2/app/manifests/v1", nil).WithContext(c))
		}()
		if event.Status != ociserver.StatusClientLeft || event.Dur != time.Second || !errors.Is(event.Err, context.Canceled) {
			t.Errorf("%+v", event)
		}
	})
}

func TestErrorBodyIsOfTheSpec(t *testing.T) {
	srv := serve(t, failing{err: oci.Errorf(oci.Denied, "a <b> & \"c\" \n é")}, ociserver.Options{})
	_, body := raw(t, srv, "GET", "/v2/app/manifests/v1", nil, nil)
	var e struct{ Errors []map[string]any }
	if err := json.Unmarshal([]byte(body), &e); err != nil || len(e.Errors) != 1 || e.Errors[0]["message"] != "a <b> & \"c\" \n é" || len(e.Errors[0]) != 2 {
		t.Errorf("%s: %v", body, err)
	}
}
