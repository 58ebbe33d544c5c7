package scenario

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/test/need"
)

// token asks the hub for one, as docker login's user does.
func token(t *testing.T, base, user, password string, scopes ...string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", base+"/service/token?"+url.Values{"scope": scopes, "service": {"breakwater"}}.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var a struct{ Token string }
	if err := json.NewDecoder(res.Body).Decode(&a); err != nil || res.StatusCode != 200 {
		t.Fatalf("token for %v: %d, %v", scopes, res.StatusCode, err)
	}
	return a.Token
}

// A robot does what its rights say, by Basic and by a token alike, until it is
// disabled.
func TestRobotPushes(t *testing.T) {
	h := newHouse(t)
	api := hubapi.NewClient(h.hub.url, "admin", adminPassword, nil)
	ci, err := api.CreateRobot(t.Context(), hubapi.RobotSpec{Name: "team+ci", Rights: []oci.Right{
		{Repository: "team/**", Actions: []string{"pull", "push"}}, {Repository: "base/*", Actions: []string{"pull"}},
		{Repository: "docker.io/library/*", Actions: []string{"pull"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	request := func(method, path string) int {
		t.Helper()
		return ask(t, method, h.hub.url, path, "Authorization", basicAuth(ci.Login, ci.Secret)).status
	}
	bearer := func(method, path string, scopes ...string) int {
		t.Helper()
		return ask(t, method, h.hub.url, path, "Authorization", "Bearer "+token(t, h.hub.url, ci.Login, ci.Secret, scopes...)).status
	}
	img := ocitest.Image(1, 1, 100)
	h.push("library/nginx", "v1", img)
	d := oci.FromBytes(img.Blobs[0]).String()

	for _, tt := range []struct {
		method, path string
		scopes       []string
		basic        int // with Basic
		bearer       int // with a token for scopes
	}{
		{"POST", "team/app/blobs/uploads/", []string{"repository:team/app:pull,push"}, 202, 202}, // makes the project
		{"POST", "team/app/blobs/uploads/", []string{"repository:team/app:pull"}, 202, 401},      // another token would do
		{"POST", "team/app/blobs/uploads/", []string{"repository:team/other:pull,push"}, 202, 401},
		{"POST", "team/app/blobs/uploads/", nil, 202, 401},
		{"POST", "base/app/blobs/uploads/", []string{"repository:base/app:pull,push"}, 403, 403}, // no token would
		{"POST", "new/app/blobs/uploads/", []string{"repository:new/app:pull,push"}, 403, 403},
		{"POST", "team/app/blobs/uploads/?mount=" + d + "&from=base/app", []string{"repository:team/app:pull,push repository:base/app:pull"}, 202, 202},
		{"DELETE", "team/app/manifests/v1", []string{"repository:team/app:delete"}, 403, 403},
		{"GET", "base/app/manifests/v1", []string{"repository:base/app:pull"}, 404, 404},
		{"GET", "other/app/manifests/v1", []string{"repository:other/app:pull"}, 404, 404},
		{"GET", "docker.io/nginx/manifests/v1", []string{"repository:docker.io/nginx:pull"}, 200, 200},
		{"GET", "docker.io/library/nginx/manifests/v1", []string{"repository:docker.io/nginx:pull"}, 200, 200},
	} {
		if got := request(tt.method, tt.path); got != tt.basic {
			t.Errorf("%s %s = %d, want %d", tt.method, tt.path, got, tt.basic)
		}
		if got := bearer(tt.method, tt.path, tt.scopes...); got != tt.bearer {
			t.Errorf("%s %s with a token for %v = %d, want %d", tt.method, tt.path, tt.scopes, got, tt.bearer)
		}
	}
	// What a mount needs is asked for at once: both of it.
	a := ask(t, "POST", h.hub.url, "team/app/blobs/uploads/?mount="+d+"&from=base/app")
	if c := a.header.Get("WWW-Authenticate"); a.status != 401 || !strings.Contains(c, `scope="repository:team/app:pull,push repository:base/app:pull"`) {
		t.Errorf("the challenge of a mount: %v %s", a, c)
	}

	kept := token(t, h.hub.url, ci.Login, ci.Secret, "repository:team/app:pull,push")
	off := true
	if _, err := api.PatchRobot(t.Context(), "team+ci", hubapi.RobotPatch{Disabled: &off}); err != nil {
		t.Fatal(err)
	}
	if got := request("POST", "team/app/blobs/uploads/"); got != 401 {
		t.Errorf("a disabled robot pushes: %d", got)
	}
	if got := ask(t, "POST", h.hub.url, "team/app/blobs/uploads/", "Authorization", "Bearer "+kept); got.status != 401 {
		t.Errorf("a disabled robot pushes with its token: %v", got)
	}
}

func basicAuth(user, password string) string {
	r := http.Request{Header: make(http.Header)}
	r.SetBasicAuth(user, password)
	return r.Header.Get("Authorization")
}

// slow is a body that says when it is wanted, and waits half way.
type slow struct {
	begun         func()
	first, second io.Reader
	wait          <-chan struct{}
}

func (s *slow) Read(p []byte) (int, error) {
	s.begun()
	if n, err := s.first.Read(p); err != io.EOF {
		return n, err
	}
	<-s.wait
	return s.second.Read(p)
}

// A credential is looked at when a push begins: what ends during the body ends
// the next request, not this one.
func TestPushOutlivesItsCredential(t *testing.T) {
	h := newHouse(t)
	api := hubapi.NewClient(h.hub.url, "admin", adminPassword, nil)
	ci, err := api.CreateRobot(t.Context(), hubapi.RobotSpec{Name: "ci", Rights: []oci.Right{{Repository: "team/**", Actions: []string{"pull", "push"}}}})
	if err != nil {
		t.Fatal(err)
	}
	auth := "Bearer " + token(t, h.hub.url, ci.Login, ci.Secret, "repository:team/app:pull,push")
	start := ask(t, "POST", h.hub.url, "team/app/blobs/uploads/", "Authorization", auth)
	at, err := url.Parse(start.header.Get("Location"))
	if err != nil || start.status != 202 {
		t.Fatal(start, err)
	}
	content := bytes.Repeat([]byte("x"), 1<<20)
	begun, gone := make(chan struct{}), make(chan struct{})
	body := &slow{sync.OnceFunc(func() { close(begun) }), bytes.NewReader(content[:1<<19]), bytes.NewReader(content[1<<19:]), gone}
	req, err := http.NewRequestWithContext(t.Context(), "PATCH", h.hub.url+at.Path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = int64(len(content))
	req.Header.Set("Authorization", auth)
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Expect", "100-continue") // the hub wants the body when it has let the request in
	patient := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}}
	done := make(chan int, 1)
	go func() {
		res, err := patient.Do(req)
		if err != nil {
			t.Error(err)
			done <- 0
			return
		}
		res.Body.Close()
		done <- res.StatusCode
	}()
	select {
	case <-begun:
	case status := <-done:
		t.Fatalf("the push ended with %d before it began", status)
	}
	if err := api.DeleteRobot(t.Context(), "ci"); err != nil {
		t.Error(err)
	}
	close(gone)
	if status := <-done; status != 202 {
		t.Errorf("the push ended with %d", status)
	}
	if got := ask(t, "GET", h.hub.url, strings.TrimPrefix(at.Path, "/v2/"), "Authorization", auth); got.status != 401 {
		t.Errorf("the next request: %v, want 401", got)
	}
}

// crane logs in as a robot, pushes, pulls and lists, as in a CI job.
func TestCraneAsRobot(t *testing.T) {
	crane := need.Program(t, "crane")
	h := newHouse(t)
	api := hubapi.NewClient(h.hub.url, "admin", adminPassword, nil)
	ci, err := api.CreateRobot(t.Context(), hubapi.RobotSpec{Name: "ci", Rights: []oci.Right{{Repository: "team/**", Actions: []string{"pull", "push"}}}})
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(h.hub.url, "http://")
	h.push("library/app", "v1", ocitest.Image(1, 2, 1000))
	docker := t.TempDir()
	run := func(stdin string, args ...string) (string, error) {
		c := exec.CommandContext(t.Context(), crane, args...)
		c.Env = append(os.Environ(), "DOCKER_CONFIG="+docker)
		c.Stdin = strings.NewReader(stdin)
		out, err := c.CombinedOutput()
		return string(out), err
	}
	upstream := strings.TrimPrefix(h.up.URL, "http://")
	for _, tt := range []struct {
		stdin string
		args  []string
		ok    bool
		says  string
	}{
		{"", []string{"copy", "--insecure", upstream + "/library/app:v1", host + "/team/app:v0"}, false, "401 Unauthorized"},
		{"bwr_wrong", []string{"auth", "login", host, "-u", ci.Login, "--password-stdin"}, true, "logged in"}, // crane tries nothing
		{"", []string{"copy", "--insecure", upstream + "/library/app:v1", host + "/team/app:v0"}, false, "UNAUTHORIZED"},
		{ci.Secret, []string{"auth", "login", host, "-u", ci.Login, "--password-stdin"}, true, "logged in"},
		{"", []string{"copy", "--insecure", upstream + "/library/app:v1", host + "/team/app:v1"}, true, ""},
		{"", []string{"copy", "--insecure", host + "/team/app:v1", host + "/team/deep/er:v1"}, true, ""}, // by mounts
		{"", []string{"copy", "--insecure", host + "/team/app:v1", host + "/other/app:v1"}, false, "DENIED"},
		{"", []string{"ls", "--insecure", host + "/team/app"}, true, "v1"},
		{"", []string{"catalog", "--insecure", host}, true, "team/deep/er"},
		{"", []string{"pull", "--insecure", host + "/team/app:v1", filepath.Join(docker, "app.tar")}, true, ""},
		{"", []string{"delete", "--insecure", host + "/team/app:v1"}, false, "DENIED"},
	} {
		out, err := run(tt.stdin, tt.args...)
		if (err == nil) != tt.ok || !strings.Contains(out, tt.says) {
			t.Errorf("crane %v: %v, %s", tt.args, err, out)
		}
	}
}
