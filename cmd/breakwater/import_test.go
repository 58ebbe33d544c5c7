package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/hub"
	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/test/need"
)

// TestMain lets a test run the program itself, to be killed.
func TestMain(m *testing.M) {
	if os.Getenv("BREAKWATER_TEST_PROGRAM") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// move is a source registry, a hub, and what counts between them.
type move struct {
	t      *testing.T
	direct string              // the source's own URL
	faults *ocitest.FaultProxy // in front of it
	src    string              // its URL
	hub    *hubFront
}

const importPassword = "correct-horse"

func newMove(t *testing.T) *move {
	t.Helper()
	dir := t.TempDir()
	for _, v := range []string{"XDG_CONFIG_HOME", "XDG_STATE_HOME", "DOCKER_CONFIG", "HOME"} {
		t.Setenv(v, dir)
	}
	m := &move{t: t, direct: distribution(t), hub: newHubFront(t)}
	m.faults = ocitest.NewFaultProxy(ocitest.Forward(m.direct))
	srv := httptest.NewServer(m.faults)
	t.Cleanup(srv.Close)
	t.Cleanup(m.faults.Clear)
	m.src = srv.URL
	must(t, os.MkdirAll(filepath.Join(dir, "breakwater"), 0o700))
	m.login()
	return m
}

// login makes the hub the one that is imported into.
func (m *move) login() {
	m.t.Helper()
	b, err := json.Marshal(login{Hub: m.hub.url, Username: "admin", Password: importPassword})
	must(m.t, err)
	must(m.t, os.WriteFile(filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "breakwater", "login.json"), b, 0o600))
}

// dockerLogin is what docker login to the source would write.
func (m *move) dockerLogin(username, password string) {
	m.t.Helper()
	must(m.t, os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), fmt.Appendf(nil,
		`{"auths":{%q:{"username":%q,"password":%q}}}`, strings.TrimPrefix(m.src, "http://"), username, password), 0o600))
}

// distribution starts the CNCF registry, empty.
func distribution(t *testing.T) string {
	t.Helper()
	bin := need.Program(t, "registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := l.Addr().String()
	must(t, l.Close())
	dir := t.TempDir()
	conf := filepath.Join(dir, "config.yml")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, `version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %s/data}, delete: {enabled: true}}
http: {addr: %s}
`, dir, addr), 0o600))
	cmd := exec.Command(bin, "serve", conf)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for end := time.Now().Add(20 * time.Second); ; {
		res, err := client.Get("http://" + addr + "/v2/")
		if err == nil {
			res.Body.Close()
			return "http://" + addr
		}
		if time.Now().After(end) {
			t.Fatalf("the registry does not start: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

var client = &http.Client{Timeout: 30 * time.Second}

// hubFront is a hub, behind a server that counts the bytes of uploads.
type hubFront struct {
	url    string
	reg    *ociclient.Client
	faulty *ocitest.FaultProxy
	bytes  atomic.Int64                // of the bodies of PATCH and PUT of uploads
	seen   atomic.Pointer[func(int64)] // hears the sum
	mu     sync.Mutex
	asked  []string                 // method and path
	ranges []string                 // Content-Range of pieces
	busy   sync.RWMutex             // is read-locked by each request of an upload
	lose   func(*http.Request) bool // which answers never arrive; set before the first request
}

func newHubFront(t *testing.T) *hubFront {
	t.Helper()
	dir := t.TempDir()
	passwordFile := filepath.Join(dir, "password")
	must(t, os.WriteFile(passwordFile, []byte(importPassword), 0o600))
	cfg := hub.DefaultConfig(dir)
	cfg.Listen, cfg.Metrics.Listen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Auth.Admin.PasswordFile = passwordFile
	cfg.Proxies = nil
	cfg.DrainFor = config.Duration(time.Second)
	h, err := hub.New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })

	f := &hubFront{faulty: ocitest.NewFaultProxy(ocitest.Forward("http://" + h.Addr()))}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.asked = append(f.asked, r.Method+" "+r.URL.RequestURI())
		if v := r.Header.Get("Content-Range"); v > "0-1" { // no config of two bytes
			f.ranges = append(f.ranges, v)
		}
		f.mu.Unlock()
		if strings.Contains(r.URL.Path, "/blobs/uploads/") {
			f.busy.RLock()
			defer f.busy.RUnlock()
			r.Body = &countedBody{r.Body, f}
		}
		if f.lose != nil && f.lose(r) {
			f.faulty.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		f.faulty.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(f.faulty.Clear)
	f.url = srv.URL
	f.reg, err = ociclient.New(ociclient.Options{URL: "http://" + h.Addr(), Username: "admin", Password: func() (string, error) { return importPassword, nil }})
	must(t, err)
	return f
}

type countedBody struct {
	io.ReadCloser
	f *hubFront
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	sum := b.f.bytes.Add(int64(n))
	if fn := b.f.seen.Load(); fn != nil {
		(*fn)(sum)
	}
	return n, err
}

// count is how many requests were like a pattern.
func (f *hubFront) count(pattern string) (n int) {
	re := regexp.MustCompile(pattern)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.asked {
		if re.MatchString(a) {
			n++
		}
	}
	return n
}

// rangeOf is where the i-th piece began.
func (f *hubFront) rangeOf(i int) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i >= len(f.ranges) {
		return -1
	}
	first, _, _ := strings.Cut(f.ranges[i], "-")
	n, _ := strconv.ParseInt(first, 10, 64)
	return n
}

// reset counts from here on, when no request of an upload is under way.
func (f *hubFront) reset() {
	f.busy.Lock()
	defer f.busy.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked, f.ranges = nil, nil
	f.bytes.Store(0)
}

// push puts a tree into the source, as any client would.
func (m *move) push(repo, tag string, tree ocitest.Tree) {
	m.t.Helper()
	for x := range tree.Walk() {
		for _, b := range x.Blobs {
			m.pushBlob(repo, b)
		}
		m.putManifest(repo, x.Digest.String(), x.MediaType, x.Bytes)
	}
	if tag != "" {
		m.putManifest(repo, tag, tree.MediaType, tree.Bytes)
	}
}

func (m *move) pushBlob(repo string, b []byte) {
	m.t.Helper()
	res, err := client.Post(m.direct+"/v2/"+repo+"/blobs/uploads/", "", nil)
	must(m.t, err)
	res.Body.Close()
	u, err := res.Location()
	must(m.t, err)
	q := u.Query()
	q.Set("digest", oci.FromBytes(b).String())
	u.RawQuery = q.Encode()
	m.send("PUT", u.String(), "application/octet-stream", b)
}

func (m *move) putManifest(repo, ref, mediaType string, b []byte) {
	m.t.Helper()
	m.send("PUT", m.direct+"/v2/"+repo+"/manifests/"+ref, mediaType, b)
}

func (m *move) send(method, url, mediaType string, b []byte) {
	m.t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(string(b)))
	must(m.t, err)
	req.Header.Set("Content-Type", mediaType)
	res, err := client.Do(req)
	must(m.t, err)
	text, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		m.t.Fatalf("%s %s: %s %s", method, url, res.Status, text)
	}
}

// run runs `breakwater import registry` and returns its report.
func (m *move) run(args ...string) (r *importReport, err error) {
	m.t.Helper()
	return m.runCtx(m.t.Context(), args...)
}

func (m *move) runCtx(ctx context.Context, args ...string) (r *importReport, err error) {
	m.t.Helper()
	r = &importReport{}
	c := root()
	var out, told strings.Builder
	c.SetOut(&out)
	c.SetErr(&told)
	c.SetArgs(append([]string{"import", "registry", m.src, "-o", "json"}, args...))
	err = c.ExecuteContext(ctx)
	if out.Len() > 0 {
		if err := json.Unmarshal([]byte(out.String()), r); err != nil {
			m.t.Fatalf("%v: %s", err, &out)
		}
	}
	if m.t.Failed() || err != nil {
		m.t.Logf("%v: %s%s", args, &told, &out)
	}
	return r, err
}

// has says whether the hub has a tree whole, byte for byte.
func (m *move) has(repo, tag string, want ocitest.Tree) {
	m.t.Helper()
	ctx := m.t.Context()
	ref := oci.Tagged(tag)
	if tag == "" {
		ref = oci.Digested(want.Digest)
	}
	head, err := m.hub.reg.Resolve(ctx, repo, ref)
	if err != nil || head.Digest != want.Digest {
		m.t.Errorf("%s:%s is %s, %v; want %s", repo, tag, head.Digest, err, want.Digest)
		return
	}
	for x := range want.Walk() {
		got, err := m.hub.reg.Manifest(ctx, repo, oci.Digested(x.Digest))
		if err != nil || string(got.Bytes) != string(x.Bytes) || got.MediaType != x.MediaType {
			m.t.Errorf("manifest %s@%s: %v", repo, x.Digest, err)
		}
		for _, b := range x.Blobs {
			if got, err := ocitest.ReadBlob(ctx, m.hub.reg, repo, oci.FromBytes(b)); err != nil || string(got) != string(b) {
				m.t.Errorf("blob %s@%s: %v", repo, oci.FromBytes(b), err)
			}
		}
	}
}

// hasNot says that the hub has no such tag.
func (m *move) hasNot(repo, tag string) {
	m.t.Helper()
	if _, err := m.hub.reg.Resolve(m.t.Context(), repo, oci.Tagged(tag)); !oci.IsAbsent(err) {
		m.t.Errorf("%s:%s is there: %v", repo, tag, err)
	}
}

func (r *importReport) statuses() map[string]string {
	all := make(map[string]string)
	for _, o := range r.Images {
		all[o.Source] = o.Status
	}
	return all
}

func TestImportAll(t *testing.T) {
	m := newMove(t)
	index, docker := ocitest.Index(1, 2, 3000), ocitest.DockerImage(2, 2, 3000)
	shared := ocitest.Image(3, 2, 400_000)
	m.push("team/app", "multi", index)
	m.push("team/app", "docker", docker)
	m.push("team/app", "list", ocitest.DockerList(4, 1, 2000))
	m.push("a/b/c", "v1", shared)
	m.push("other", "v1", shared)
	// What refers to images: by subject and the tag of the distribution-spec,
	// since this registry has no API for it, and as cosign names it.
	sig := ocitest.Artifact("application/vnd.test.signature", []byte("signature"), &index.Descriptor)
	sbom := ocitest.Artifact("application/vnd.test.sbom", []byte("sbom of a child"), &index.Children[0].Descriptor)
	fallback := func(of ocitest.Tree) string { return "sha256-" + of.Digest.Encoded() }
	m.push("team/app", fallback(index), ocitest.IndexOf(sig))
	m.push("team/app", fallback(index.Children[0]), ocitest.IndexOf(sbom))
	cosign := ocitest.Image(5, 1, 100)
	m.push("team/app", fallback(docker)+".sig", cosign)

	dry, err := m.run("--dry-run")
	must(t, err)
	if dry.Copied < 8 || dry.Present != 0 || dry.Bytes == 0 || m.hub.bytes.Load() != 0 || m.hub.count("^(POST|PUT|PATCH)") != 0 {
		t.Errorf("dry run: %+v; %d bytes were sent", dry, m.hub.bytes.Load())
	}
	m.hasNot("team/app", "multi")

	r, err := m.run()
	must(t, err)
	if r.Failed+r.Differs+r.Present != 0 || r.Repositories != 3 {
		t.Errorf("report: %+v", r)
	}
	if r.Bytes != dry.Bytes || r.BlobsMounted != dry.BlobsMounted || r.Copied != dry.Copied {
		t.Errorf("the dry run promised %d images, %d bytes and %d mounts, it were %d, %d and %d",
			dry.Copied, dry.Bytes, dry.BlobsMounted, r.Copied, r.Bytes, r.BlobsMounted)
	}
	if r.BlobsMounted < 2 || m.hub.bytes.Load() != r.Bytes {
		t.Errorf("%d blobs mounted; %d bytes sent, the report says %d", r.BlobsMounted, m.hub.bytes.Load(), r.Bytes)
	}
	m.has("team/app", "multi", index)
	m.has("team/app", "docker", docker)
	m.has("a/b/c", "v1", shared)
	m.has("other", "v1", shared)
	m.has("team/app", fallback(docker)+".sig", cosign)
	for _, subject := range []ocitest.Tree{index, index.Children[0]} {
		all, err := m.hub.reg.Referrers(t.Context(), "team/app", subject.Digest, "")
		if err != nil || len(all) != 1 {
			t.Errorf("referrers of %s: %v, %v", subject.Digest, all, err)
		}
	}

	m.hub.reset()
	again, err := m.run()
	must(t, err)
	if again.Copied != 0 || again.Present != r.Copied || m.hub.bytes.Load() != 0 || m.hub.count("^(POST|PUT|PATCH)") != 0 {
		t.Errorf("the second run: %+v; %d bytes were sent", again, m.hub.bytes.Load())
	}
}

// From one hub into another: a source with a list of repositories, tokens for
// each and the API for referrers.
func TestImportFromAHub(t *testing.T) {
	m := newMove(t)
	index := ocitest.Index(1, 2, 3000)
	sig := ocitest.Artifact("application/vnd.test.signature", []byte("signature"), &index.Descriptor)
	ofSig := ocitest.Artifact("application/vnd.test.stamp", []byte("of the signature"), &sig.Descriptor)
	sbom := ocitest.Artifact("application/vnd.test.sbom", []byte("sbom of a child"), &index.Children[1].Descriptor)
	m.push("team/app", "v1", index)
	for _, of := range [][2]ocitest.Tree{{index, sig}, {sig, ofSig}, {index.Children[1], sbom}} {
		m.push("team/app", "sha256-"+of[0].Digest.Encoded(), ocitest.IndexOf(of[1]))
	}
	docker := ocitest.DockerList(2, 1, 3000)
	m.push("team/old", "v1", docker)
	_, err := m.run()
	must(t, err)

	m.src, m.hub = m.hub.url, newHubFront(t)
	m.login()
	m.dockerLogin("admin", importPassword)
	r, err := m.run("--tag", "v1", "--strip-prefix", "team", "--project", "moved")
	must(t, err)
	m.has("moved/app", "v1", index)
	m.has("moved/old", "v1", docker)
	for _, of := range [][2]ocitest.Tree{{index, sig}, {sig, ofSig}, {index.Children[1], sbom}} {
		all, err := m.hub.reg.Referrers(t.Context(), "moved/app", of[0].Digest, "")
		if err != nil || len(all) != 1 || all[0].Digest != of[1].Digest {
			t.Errorf("referrers of %s: %v, %v", of[0].Digest, all, err)
		}
		m.has("moved/app", "", of[1])
	}
	if r.Repositories != 2 || r.Failed+r.Differs != 0 {
		t.Errorf("report: %+v", r)
	}
}

func TestImportChooses(t *testing.T) {
	m := newMove(t)
	img := func(seed uint64) ocitest.Tree { return ocitest.Image(seed, 1, 500) }
	for i, name := range []string{"team/app:v1", "team/app:v2-rc1", "team/app:latest", "team/deep/er:v1", "lone:v1", "lib/x:v1"} {
		repo, tag, _ := strings.Cut(name, ":")
		m.push(repo, tag, img(uint64(i)))
	}
	sig := "sha256-" + img(0).Digest.Encoded() + ".sig"
	m.push("team/app", sig, ocitest.Image(20, 1, 100))
	for _, tt := range []struct {
		args    string
		want    []string // in the hub
		skipped int
	}{
		{"--project p1", []string{"p1/lib/x:v1", "p1/lone:v1", "p1/team/app:latest", "p1/team/app:" + sig, "p1/team/app:v1", "p1/team/app:v2-rc1", "p1/team/deep/er:v1"}, 0},
		{"--project p2 --repo team/*", []string{"p2/team/app:latest", "p2/team/app:" + sig, "p2/team/app:v1", "p2/team/app:v2-rc1"}, 0},
		{"--project p3 --repo team/** --tag v*", []string{"p3/team/app:" + sig, "p3/team/app:v1", "p3/team/app:v2-rc1", "p3/team/deep/er:v1"}, 1},
		{"--project p4 --tag v* --exclude **:*-rc* --exclude team/deep/**", []string{"p4/lib/x:v1", "p4/lone:v1", "p4/team/app:" + sig, "p4/team/app:v1"}, 2},
		{"--project p5 --referrers=false --repo team/app", []string{"p5/team/app:latest", "p5/team/app:v1", "p5/team/app:v2-rc1"}, 1},
		{"--prefix p6/sub lone team/app:v1", []string{"p6/sub/lone:v1", "p6/sub/team/app:" + sig, "p6/sub/team/app:v1"}, 0},
		{"--project p7 --strip-prefix team --repo team/**", []string{"p7/app:latest", "p7/app:" + sig, "p7/app:v1", "p7/app:v2-rc1", "p7/deep/er:v1"}, 0},
	} {
		r, err := m.run(strings.Fields(tt.args)...)
		must(t, err)
		var got []string
		for _, o := range r.Images {
			got = append(got, o.Target)
			if o.Status != statusCopied {
				t.Errorf("%s: %s is %s", tt.args, o.Target, o.Status)
			}
			repo, tag, _ := strings.Cut(o.Target, ":")
			if _, err := m.hub.reg.Resolve(t.Context(), repo, oci.Tagged(tag)); err != nil {
				t.Errorf("%s: %v", tt.args, err)
			}
		}
		slices.Sort(got)
		slices.Sort(tt.want)
		if diff := cmp.Diff(tt.want, got); diff != "" || r.Skipped != tt.skipped {
			t.Errorf("%s: %d skipped, want %d (-want +got):\n%s", tt.args, r.Skipped, tt.skipped, diff)
		}
	}
	for _, args := range []string{"--repo [", "--project a --prefix b", "--project a/b", "--jobs 0", "--semver 1..x", "--newest -1", "--newest-by size", "UPPER", "team/app:.bad", "--src-username me", "--strip-prefix other team/app", "--repo nothing/like/this"} {
		if _, err := m.run(strings.Fields(args)...); err == nil {
			t.Errorf("%s was accepted", args)
		}
	}
}

// Killed in the middle of a large blob, the next run sends what the hub has not.
func TestImportKilledGoesOn(t *testing.T) {
	m := newMove(t)
	const size = 24 << 20
	big := ocitest.Artifact("application/vnd.test.big", ocitest.RandomBytes(7, size), nil)
	m.push("team/big", "v1", big)
	layer := oci.FromBytes(big.Blobs[1])
	state := filepath.Join(t.TempDir(), "state.jsonl")

	cmd := exec.Command(os.Args[0], "import", "registry", m.src, "--state", state, "--chunk-mib", "2")
	cmd.Env = append(os.Environ(), "BREAKWATER_TEST_PROGRAM=1")
	enough, killed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	seen := func(sum int64) {
		if sum > size/2+1_000_000 {
			once.Do(func() { close(enough) })
			<-killed
		}
	}
	m.hub.seen.Store(&seen)
	must(t, cmd.Start())
	select {
	case <-enough:
	case <-time.After(30 * time.Second):
		t.Error("the program did not come so far")
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	m.hub.seen.Store(nil)
	close(killed)
	// What stood in the sockets is of the first run still.
	m.hub.busy.Lock()
	first := m.hub.bytes.Load()
	m.hub.busy.Unlock()
	must(t, m.faults.Idle(t.Context()))
	m.hub.reset()
	m.faults.ResetLog()
	r, err := m.run("--state", state, "--chunk-mib", "2")
	must(t, err)
	m.has("team/big", "v1", big)
	// What the hub had acknowledged, or took of what was on its way, is not sent
	// again, nor read.
	at := m.hub.rangeOf(0)
	if at < size/2 || at >= size {
		t.Fatalf("it went on at %d of %d bytes", at, size)
	}
	sent := m.hub.bytes.Load()
	if want := size - at; sent != want && sent != want+2 { // the config is {}
		t.Errorf("%d bytes were sent, want %d", sent, want)
	}
	if first+sent > size+2<<20+2 {
		t.Errorf("%d and %d bytes were sent of %d: more than one piece twice", first, sent, size)
	}
	if read := m.faults.Sent("GET", "/blobs/"+layer.String()); read != size-at {
		t.Errorf("%d bytes were read from the source, want %d", read, size-at)
	}
	if r.Copied != 1 {
		t.Errorf("report: %+v", r)
	}
	if _, err := os.Stat(state); !os.IsNotExist(err) {
		t.Errorf("the state file is there after all was done: %v", err)
	}
}

// The hub is still taking in what an earlier run sent: the next one waits, and
// neither reads nor sends any of it again.
func TestImportWaitsForWhatIsOnItsWay(t *testing.T) {
	m := newMove(t)
	const size, acked, coming = 6 << 20, 2 << 20, 1 << 20
	big := ocitest.Artifact("application/vnd.test.big", ocitest.RandomBytes(7, size), nil)
	m.push("team/big", "v1", big)
	layer := oci.FromBytes(big.Blobs[1])

	do := func(method, url, span string, body io.Reader, n int64) *http.Response {
		t.Helper()
		req, err := http.NewRequest(method, url, body)
		must(t, err)
		req.SetBasicAuth("admin", importPassword)
		req.ContentLength = n
		if span != "" {
			req.Header.Set("Content-Range", span)
		}
		res, err := client.Do(req)
		if err != nil {
			return nil // it broke off
		}
		res.Body.Close()
		return res
	}
	begun := do("POST", m.hub.url+"/v2/team/big/blobs/uploads/", "", nil, 0)
	at, err := begun.Location()
	must(t, err)
	if res := do("PATCH", at.String(), fmt.Sprintf("0-%d", acked-1), strings.NewReader(string(big.Blobs[1][:acked])), acked); res == nil || res.StatusCode != http.StatusAccepted {
		t.Fatalf("the first piece: %+v", res)
	}
	state := filepath.Join(t.TempDir(), "state.jsonl")
	s, err := openState(state, false)
	must(t, err)
	must(t, s.begun("team/big", layer, at.String()))
	must(t, s.close(false))

	// A piece that comes and does not end.
	body, feed := io.Pipe()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		do("PATCH", at.String(), fmt.Sprintf("%d-%d", acked, size-1), body, size-acked)
	}()
	_, err = feed.Write(big.Blobs[1][acked : acked+coming])
	must(t, err)
	must(t, m.hub.faulty.Wait(t.Context(), 2, "PATCH", "/blobs/uploads/"))
	for m.hub.bytes.Load() < acked+coming {
		time.Sleep(time.Millisecond)
	}
	before := m.hub.bytes.Load()
	m.hub.mu.Lock()
	m.hub.ranges = nil
	m.hub.mu.Unlock()

	done := make(chan error, 1)
	go func() {
		_, err := m.run("--state", state, "--chunk-mib", "1")
		done <- err
	}()
	// It has asked twice where to go on.
	must(t, m.hub.faulty.Wait(t.Context(), 4, "PATCH", "/blobs/uploads/"))
	if sent := m.hub.bytes.Load() - before; sent > 2 { // the config is {}
		t.Errorf("%d bytes were sent to an upload that is at work", sent)
	}
	feed.CloseWithError(io.ErrUnexpectedEOF)
	<-gone
	must(t, <-done)
	m.has("team/big", "v1", big)
	if first := m.hub.rangeOf(0); first != acked+coming {
		t.Errorf("it went on at %d, want %d", first, acked+coming)
	}
	want := int64(size - acked - coming)
	if sent := m.hub.bytes.Load() - before; sent != want+2 {
		t.Errorf("%d bytes were sent, want %d", sent, want+2)
	}
	if read := m.faults.Sent("GET", "/blobs/"+layer.String()); read != want {
		t.Errorf("%d bytes were read from the source, want %d", read, want)
	}
}

// The blob is finished, and who finished it never hears of it.
func TestImportAnswerIsLost(t *testing.T) {
	m := newMove(t)
	const size = 3 << 20
	big := ocitest.Artifact("application/vnd.test.big", ocitest.RandomBytes(7, size), nil)
	m.push("team/big", "v1", big)
	var lost atomic.Int32
	m.hub.lose = func(r *http.Request) bool {
		return r.Method == "PUT" && r.Header.Get("Content-Range") > "0-1" && lost.Add(1) == 1
	}
	r, err := m.run("--chunk-mib", "1")
	must(t, err)
	m.has("team/big", "v1", big)
	if sent := m.hub.bytes.Load(); sent != size+2 || r.Copied != 1 || lost.Load() != 1 {
		t.Errorf("%d bytes were sent, want %d; %d answers were lost", sent, size+2, lost.Load())
	}
}

// A state file that was made for another address of the hub is of no use, and no
// harm.
func TestImportStateOfAnotherHub(t *testing.T) {
	m := newMove(t)
	img := ocitest.Image(1, 1, 500)
	m.push("team/app", "v1", img)
	state := filepath.Join(t.TempDir(), "state.jsonl")
	s, err := openState(state, false)
	must(t, err)
	for _, b := range img.Blobs {
		must(t, s.begun("team/app", oci.FromBytes(b), "https://elsewhere.example/v2/team/app/blobs/uploads/1"))
	}
	must(t, s.close(false))
	if r, err := m.run("--state", state); err != nil || r.Copied != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	m.has("team/app", "v1", img)
}

// Docker Hub's way: so many manifests, then 429 and when to come back.
func TestImportRateLimit(t *testing.T) {
	m := newMove(t)
	const tags = 10
	for i := range tags {
		m.push("team/app", fmt.Sprintf("v%d", i), ocitest.Image(uint64(i), 1, 100))
	}
	m.faults.RateLimit(4, time.Second)
	r, err := m.run("--jobs", "8")
	must(t, err)
	if r.Copied != tags || r.Failed != 0 {
		t.Errorf("report: %+v", r)
	}
	if n := m.faults.Count("GET", "/manifests/"); n > 6*tags {
		t.Errorf("the source was asked for %d manifests, with %d tags", n, tags)
	}
}

// A registry that says when to come back is given time, one that does not, ten
// chances.
func TestImportPatience(t *testing.T) {
	busy := func(wait time.Duration) error { return &oci.Error{Code: oci.TooManyRequests, RetryAfter: wait} }
	for _, tt := range []struct {
		name  string
		wait  time.Duration
		fails int // before it is given
		calls int
		ok    bool
		told  bool
	}{
		{"told, often", time.Minute, 50, 51, true, true},
		{"told shortly", time.Second, 50, 51, true, false},
		{"told for ever", time.Minute, 1000, asks + tries, false, true},
		{"untold", 0, 9, 10, true, false},
		{"untold, too often", 0, 10, 10, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPatience("registry.example")
				told := 0
				p.told = func(string, time.Duration) { told++ }
				calls, began := 0, time.Now()
				err := p.again(t.Context(), func() error {
					if calls++; calls <= tt.fails {
						return busy(tt.wait)
					}
					return nil
				})
				if (err == nil) != tt.ok || calls != tt.calls || (told > 0) != tt.told {
					t.Errorf("%d calls, want %d; told %d times; %v", calls, tt.calls, told, err)
				}
				if took := time.Since(began); took < time.Duration(tt.calls-1)*tt.wait {
					t.Errorf("it waited for %s alone", took)
				}
			})
		})
	}
}

func TestImportNewest(t *testing.T) {
	m := newMove(t)
	dated := func(day string) ocitest.Tree {
		img := ocitest.Image(uint64(len(day)), 1, 100)
		config := fmt.Appendf(nil, `{"created":%q,"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"x":%q}`, day+"T10:00:00Z", day)
		layer := oci.FromBytes(img.Blobs[1])
		img.MediaType = oci.MediaTypeImage
		img.Bytes = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":%q,"size":%d}]}`,
			oci.MediaTypeImage, oci.FromBytes(config), len(config), layer, len(img.Blobs[1]))
		img.Blobs = [][]byte{config, img.Blobs[1]}
		img.Digest = oci.FromBytes(img.Bytes)
		return img
	}
	for tag, day := range map[string]string{
		"v1.9.0": "2026-01-01", "v1.10.0": "2026-01-02", "v2.0.0-rc1": "2026-01-03", "v2.0.0": "2026-01-04", "1.2": "2026-01-05", "latest": "2026-01-06", "9f3ab1c": "2026-01-07",
	} {
		m.push("team/app", tag, dated(day))
	}
	m.push("team/app", "multi", ocitest.IndexOf(dated("2026-01-08")))
	m.push("team/app", "v0-artifact", ocitest.Artifact("application/vnd.test.chart", []byte("no date"), nil))
	sig := "sha256-" + dated("2026-01-04").Digest.Encoded() + ".sig"
	m.push("team/app", sig, ocitest.Image(20, 1, 100))
	for i, tt := range []struct {
		args    []string
		want    []string
		skipped int
	}{
		{[]string{"--semver", ">=1.9"}, []string{sig, "v1.10.0", "v1.9.0", "v2.0.0"}, 6},
		{[]string{"--semver", ">=1.9-0 <3"}, []string{sig, "v1.10.0", "v1.9.0", "v2.0.0", "v2.0.0-rc1"}, 5},
		{[]string{"--semver", "~1.2"}, []string{"1.2"}, 8},
		{[]string{"--newest", "2"}, []string{sig, "v2.0.0", "v2.0.0-rc1"}, 7},
		{[]string{"--newest", "2", "--tag", "v1*"}, []string{"v1.10.0", "v1.9.0"}, 7},
		{[]string{"--newest", "3", "--newest-by", "date"}, []string{"9f3ab1c", "latest", "multi"}, 6},
		{[]string{"--newest", "2", "--newest-by", "date", "--semver", "*"}, []string{"1.2", sig, "v2.0.0"}, 7},
		{[]string{"--newest", "100", "--referrers=false"}, []string{"1.2", "v1.10.0", "v1.9.0", "v2.0.0", "v2.0.0-rc1", "v0-artifact"}, 4},
	} {
		r, err := m.run(append(tt.args, "--project", fmt.Sprintf("p%d", i))...)
		must(t, err)
		var got []string
		for _, o := range r.Images {
			_, tag, _ := strings.Cut(o.Source, ":")
			got = append(got, tag)
		}
		slices.Sort(got)
		slices.Sort(tt.want)
		if diff := cmp.Diff(tt.want, got); diff != "" || r.Skipped != tt.skipped {
			t.Errorf("%v: %d skipped, want %d (-want +got):\n%s", tt.args, r.Skipped, tt.skipped, diff)
		}
	}
}

// A repository whose name the hub does not take is one failure, not the end.
func TestImportNameTooLong(t *testing.T) {
	m := newMove(t)
	long := strings.Repeat("long/", 30) + "name"
	m.push(long, "v1", ocitest.Image(1, 1, 100))
	m.push("team/app", "v1", ocitest.Image(2, 1, 100))
	r, err := m.run("--prefix", strings.Repeat("deep/", 30)+"er")
	if err == nil || r.Copied != 1 || r.Failed != 1 || r.statuses()[long] != statusFailed {
		t.Errorf("%+v, %v", r.statuses(), err)
	}
}

func TestImportOfDockerHub(t *testing.T) {
	newMove(t)
	for _, url := range []string{"docker.io", "https://index.docker.io", "registry-1.docker.io/"} {
		s, err := openSource(sourceOptions{url: url})
		must(t, err)
		c := choice{named: []string{"nginx:1", "acme/app"}}
		got, err := c.repositories(t.Context(), s, placement{})
		must(t, err)
		if s.url != "https://registry-1.docker.io" || len(got) != 2 || got[0].name != "acme/app" || got[1].name != "library/nginx" {
			t.Errorf("%s: %s, %+v", url, s.url, got)
		}
	}
	if _, err := openSource(sourceOptions{url: "https://me:secret@registry.example"}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a URL with a password: %v", err)
	}
}

// Either side breaks off, is busy or answers 5xx: the copy is whole all the
// same, and little is sent twice.
func TestImportThroughFaults(t *testing.T) {
	m := newMove(t)
	const size = 8 << 20
	big := ocitest.Artifact("application/vnd.test.big", ocitest.RandomBytes(8, size), nil)
	m.push("team/big", "v1", big)
	m.push("team/app", "v1", ocitest.Index(9, 2, 3000))
	blobs, uploads := regexp.MustCompile("/blobs/sha256"), regexp.MustCompile("/blobs/uploads/.")
	busy := http.Header{"Retry-After": {"1"}}
	m.faults.Set(
		ocitest.Fault{Path: regexp.MustCompile("/tags/list"), Status: 429, Header: busy, Times: 1},
		ocitest.Fault{Path: regexp.MustCompile("/manifests/v1"), Status: 503, Times: 2},
		ocitest.Fault{Method: "GET", Path: blobs, CutAt: 3 << 20, Times: 1},
		ocitest.Fault{Method: "GET", Path: blobs, Status: 502, Times: 1},
		ocitest.Fault{Method: "GET", Path: blobs, CutAt: 1 << 20, Reset: true, Times: 1},
	)
	m.hub.faulty.Set(
		ocitest.Fault{Method: "POST", Path: regexp.MustCompile("/blobs/uploads/"), Status: 503, Times: 1},
		ocitest.Fault{Method: "PATCH", Path: uploads, After: 2, Times: 1, Reset: true},
		ocitest.Fault{Method: "PATCH", Path: uploads, Status: 429, Header: busy, Times: 1},
		ocitest.Fault{Method: "PUT", Path: regexp.MustCompile("/manifests/"), Status: 500, Times: 2},
	)
	began := time.Now()
	r, err := m.run("--chunk-mib", "1", "--jobs", "2")
	must(t, err)
	m.has("team/big", "v1", big)
	if r.Copied != 2 || r.Failed != 0 {
		t.Errorf("report: %+v", r)
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("it took %s, and was twice asked to wait for a second", took)
	}
	if over := m.hub.bytes.Load() - r.Bytes; over > 4<<20 {
		t.Errorf("%d bytes were sent more than once", over)
	}
}

func TestImportTellsWhatIsWrong(t *testing.T) {
	m := newMove(t)
	good, other := ocitest.Image(1, 1, 500), ocitest.Image(2, 1, 500)
	m.push("team/app", "good", good)
	m.push("team/app", "bad", ocitest.Image(3, 1, 500))
	m.push("team/app", "old", ocitest.Image(4, 1, 500))
	m.push("team/app", "moving", good)
	m.faults.Set(
		ocitest.Fault{Path: regexp.MustCompile("/manifests/bad$"), Status: 404, Body: `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"gone"}]}`},
		ocitest.Fault{Path: regexp.MustCompile("/manifests/old$"), Status: 200, Body: `{"schemaVersion":1,"name":"x","tag":"old"}`,
			Header: http.Header{"Content-Type": {"application/vnd.docker.distribution.manifest.v1+prettyjws"}}},
	)
	// A tag that is changed between its copy and the comparison.
	moved := make(chan struct{})
	var once sync.Once
	m.hub.faulty.Set(ocitest.Fault{Method: "PUT", Path: regexp.MustCompile("/manifests/moving$"), Delay: 300 * time.Millisecond})
	go func() {
		if m.hub.faulty.Wait(t.Context(), 1, "PUT", "/manifests/moving$") == nil {
			once.Do(func() { m.push("team/app", "moving", other); close(moved) })
		}
	}()
	r, err := m.run()
	select {
	case <-moved:
	case <-time.After(10 * time.Second):
		t.Fatal("the tag was never written")
	}
	if err == nil || !strings.Contains(err.Error(), "2 failed and 1 differ") {
		t.Errorf("the command says %v", err)
	}
	want := map[string]string{"team/app:good": statusCopied, "team/app:bad": statusFailed, "team/app:old": statusFailed, "team/app:moving": statusDiffers}
	if diff := cmp.Diff(want, r.statuses()); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
	for _, o := range r.Images {
		switch o.Source {
		case "team/app:old":
			if !strings.Contains(o.Reason, "schema 1") {
				t.Errorf("of a schema 1 image it says %q", o.Reason)
			}
		case "team/app:moving":
			if o.Digest != other.Digest || o.Found != good.Digest {
				t.Errorf("of the tag that moved: %+v", o)
			}
		}
	}
	m.faults.Clear()
	m.hub.faulty.Clear()

	// The next run brings what moved, unless it is told not to.
	if r, err = m.run("--keep-existing"); err == nil || r.statuses()["team/app:moving"] != statusDiffers || r.statuses()["team/app:bad"] != statusCopied {
		t.Errorf("with --keep-existing: %v, %v", r.statuses(), err)
	}
	m.has("team/app", "moving", good)
	if r, err = m.run(); err != nil || r.Moved != 1 || r.Copied != 1 {
		t.Errorf("the next run: %+v, %v", r, err)
	}
	m.has("team/app", "moving", other)
}

// A tag that is named after the very image it names must not hold anything up.
func TestImportOfACircle(t *testing.T) {
	m := newMove(t)
	img := ocitest.Image(1, 1, 500)
	m.push("team/app", "v1", img)
	m.push("team/app", "sha256-"+img.Digest.Encoded(), ocitest.IndexOf(img))
	m.push("team/app", "sha256-"+img.Digest.Encoded()+".sig", img)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, args := range [][]string{nil, {"team/app:v1"}, {"--tag", "v1"}} {
		if r, err := m.runCtx(ctx, args...); err != nil || r.Failed != 0 {
			t.Errorf("%v: %+v, %v", args, r, err)
		}
	}
}

func TestImportCredentials(t *testing.T) {
	m := newMove(t)
	m.push("team/app", "v1", ocitest.Image(1, 1, 500))
	m.faults.Bearer(ocitest.Auth{Users: map[string]string{"robot": "secret"}})
	if _, err := m.run("team/app"); err == nil {
		t.Error("a registry that wants a password was read without")
	}
	m.dockerLogin("robot", "secret")
	if r, err := m.run("team/app"); err != nil || r.Copied != 1 {
		t.Errorf("with Docker's configuration: %+v, %v", r, err)
	}
	c := root()
	c.SetIn(strings.NewReader("wrong\n"))
	c.SetOut(io.Discard)
	c.SetErr(io.Discard)
	c.SetArgs([]string{"import", "registry", m.src, "team/app", "--src-username", "robot", "--src-password-stdin"})
	if err := c.ExecuteContext(t.Context()); err == nil {
		t.Error("a wrong password on standard input was not used")
	}
	must(t, os.Remove(filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "breakwater", "login.json")))
	if _, err := m.run("team/app", "--to", m.hub.url, "--project", "new"); err == nil {
		t.Error("the hub took images from nobody")
	}
}

func TestImportState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "state.jsonl")
	d := oci.FromBytes([]byte("blob"))
	s, err := openState(path, false)
	must(t, err)
	must(t, s.begun("a/b", d, "http://hub/1"))
	must(t, s.begun("a/b", d, "http://hub/2"))
	s.place("a/b", oci.Descriptor{Digest: d, Size: placedMin})
	must(t, s.begun("c", d, "http://hub/3"))
	s.finished("c", d)
	if _, err := openState(path, false); err == nil {
		t.Error("two imports share one state file")
	}
	must(t, s.close(false))
	// Killed at any byte, what was whole is there.
	whole, err := os.ReadFile(path)
	must(t, err)
	for i := range whole {
		must(t, os.WriteFile(path, whole[:i], 0o600))
		s, err := openState(path, false)
		if first := strings.IndexByte(string(whole), '\n'); err != nil && i > 0 && i < first {
			continue // not a line: taken for another's
		}
		must(t, err)
		if at := s.upload("a/b", d); i > len(whole)/2 && at == "" {
			t.Errorf("after %d of %d bytes the upload is forgotten", i, len(whole))
		}
		must(t, s.close(false))
	}
	must(t, os.WriteFile(path, append(whole, `{"repo":"x`...), 0o600))
	s, err = openState(path, false)
	must(t, err)
	if s.upload("a/b", d) != "http://hub/2" || s.upload("c", d) != "" || s.where(d) != "a/b" {
		t.Errorf("read as %v %v", s.uploads, s.placed)
	}
	must(t, s.close(true))
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file of a finished import is there: %v", err)
	}
	must(t, os.WriteFile(path, []byte("dear diary\n"), 0o600))
	if _, err := openState(path, false); err == nil {
		t.Error("a diary was taken for a state file")
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "dear diary\n" {
		t.Errorf("and overwritten: %q, %v", b, err)
	}
}

func TestImportOnce(t *testing.T) {
	var o once
	calls := 0
	fail := errors.New("failed")
	for _, want := range []error{fail, nil, nil} {
		err := o.do(t.Context(), "k", func() error { calls++; return want })
		if !errors.Is(err, want) {
			t.Errorf("do = %v, want %v", err, want)
		}
	}
	if calls != 2 {
		t.Errorf("%d calls, want 2: none after a success", calls)
	}
	// Who gave up leaves it to who waits.
	running, end := make(chan struct{}), make(chan struct{})
	go func() {
		_ = o.do(t.Context(), "x", func() error { close(running); <-end; return context.Canceled })
	}()
	<-running
	did := make(chan bool, 1)
	go func() {
		mine := false
		_ = o.do(t.Context(), "x", func() error { mine = true; return nil })
		did <- mine
	}()
	close(end)
	if !<-did {
		t.Error("nobody did it")
	}
}

func TestImportProgress(t *testing.T) {
	var b strings.Builder
	p := newProgress(&b) // no terminal: a line each ten seconds
	p.end()
	p.found(4)
	p.allFound()
	p.begin(3 << 20)
	p.sent(1 << 20)
	p.resumed(1 << 20)
	p.finished()
	p.failed("team/app:v1", oci.Errorf(oci.ManifestUnknown, "none"))
	p.began = p.began.Add(-10 * time.Second)
	p.lastAt = p.lastAt.Add(-time.Second)
	p.show()
	want := regexp.MustCompile(`^failed: team/app:v1: .*none\n1 of 4 images, 2\.0 MiB of 3\.0 MiB, [0-9.]+ [KM]iB/s, about 3\ds left, 1 failed\n$`)
	if !want.MatchString(b.String()) {
		t.Errorf("progress says %q", b.String())
	}
}
