package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// house is a whole Breakwater: containerd, the agent it asks first, the hub behind that, and the registry docker.io.
// Before hub and registry stands a proxy each that counts and fails.
type house struct {
	t        *testing.T
	registry *rig.Registry
	upstream *rig.Front // docker.io, before registry
	hub      *rig.Hub
	door     *rig.Front // before hub: for the agent, and for containerd's second host
	node     *rig.Node
	ctd      *rig.Containerd // nil without
}

// plan says how a house differs from one with everything as it comes.
type plan struct {
	proxy        rig.Proxy // how the hub treats docker.io; Registry and URL are filled in
	node         rig.Keys
	noContainerd bool
	containerd   rig.ContainerdOptions
}

func newHouse(t *testing.T, p plan) *house {
	t.Helper()
	h := &house{t: t, registry: rig.Distribution(t)}
	h.upstream = rig.FaultProxy(t, h.registry.URL)
	p.proxy.Registry, p.proxy.URL = oci.DockerHub, h.upstream.URL
	h.hub = rig.StartHub(t, rig.HubOptions{Proxies: []rig.Proxy{p.proxy}})
	h.door = rig.FaultProxy(t, h.hub.URL)
	if !p.noContainerd {
		h.ctd = rig.StartContainerd(t, p.containerd)
	}
	keys := rig.Keys{"hub.mirrorURL": h.door.URL}
	for k, v := range p.node {
		keys[k] = v
	}
	h.node = rig.StartNode(t, rig.NodeOptions{
		HubURL: h.door.URL, Containerd: h.ctd, Upstreams: map[string]string{oci.DockerHub: h.upstream.URL}, Keys: keys,
	})
	h.door.ResetLog() // of the question whether the hub is there
	return h
}

// push puts an image into docker.io, "library/x:1", and returns its digest.
func (h *house) push(image string, a rig.Artifact) string {
	h.t.Helper()
	return rig.Push(h.t, h.registry.URL, image, a)
}

// fresh puts a small image that nobody has seen into docker.io and returns containerd's name of it and its digest.
func (h *house) fresh(name string) (ref, digest string) {
	h.t.Helper()
	digest = h.push("library/"+name+":1", rig.Random(h.t, name))
	return "docker.io/library/" + name + ":1", digest
}

// pulled is pull that must go well.
func (h *house) pulled(ref, digest string) time.Duration {
	h.t.Helper()
	took, err := h.pull(ref, digest)
	if err != nil {
		h.t.Fatal(err)
	}
	return took
}

// pull pulls by CRI, checks what the name resolved to, and says how long it took.
func (h *house) pull(ref, digest string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	start := time.Now()
	got, err := h.ctd.Pull(ctx, ref)
	took := time.Since(start)
	if err == nil && got != digest {
		err = fmt.Errorf("it is %s, want %s", got, digest)
	}
	if err != nil {
		return took, fmt.Errorf("pull %s, after %v: %w", ref, took, err)
	}
	return took, nil
}

// forget takes an image out of containerd, with its content.
func (h *house) forget(ref string) {
	h.t.Helper()
	if err := h.ctd.Remove(h.t.Context(), ref); err != nil {
		h.t.Fatal(err)
	}
	if left, err := h.ctd.Content(h.t.Context()); err != nil || len(left) > 0 {
		h.t.Fatalf("after Remove containerd holds %v, %v", left, err)
	}
}

// settle waits until the agent keeps what it has fetched: a pull may end a moment before.
func (h *house) settle() {
	h.t.Helper()
	rig.Eventually(h.t, 10*time.Second, func() error {
		if s := h.status(); s.Filling > 0 {
			return fmt.Errorf("the agent still fetches %d blobs", s.Filling)
		}
		return nil
	})
}

// resetLogs makes both proxies forget what they were asked.
func (h *house) resetLogs() {
	h.upstream.ResetLog()
	h.door.ResetLog()
}

// nodeStatus is the part of an agent's status that the tests look at.
type nodeStatus struct {
	Filling int
	Hub     struct{ Away bool }
	Cache   struct {
		Bytes, MaxBytes, FreeBytes int64
		Objects                    int
		Off                        string
	}
	Pulls []struct {
		Image      string
		SentBytes  int64
		DurationMS float64
		BySource   map[string]int64 `json:"bytesBySource"`
		Failed     int
		Objects    []pulledObject
	}
}

// pulledObject is what an agent says of a manifest or blob that it gave.
type pulledObject struct {
	Kind, Method, Reference, Digest, Source string
	SizeBytes, SentBytes                    int64
	Status                                  int
	DurationMS                              float64
}

// status is what the agent says of itself.
func (h *house) status() (s nodeStatus) {
	h.t.Helper()
	a := ask(h.t, "GET", h.node.StatusURL+"/status")
	if a.status != http.StatusOK || json.Unmarshal(a.body, &s) != nil {
		h.t.Fatalf("the agent's status is %v", a)
	}
	return s
}

const (
	byAgent      = "breakwater-node/"
	byHub        = "breakwater-hub/"
	byContainerd = "containerd/"
	byAnyone     = ""
)

// asked counts the requests that a proxy got from one of our programs or containerd, with this method ("" is any) and
// a path in which the regular expression is found.
func asked(f *rig.Front, by, method, path string) int {
	re := regexp.MustCompile(path)
	n := 0
	for _, r := range f.Requests() {
		if strings.HasPrefix(r.Header.Get("User-Agent"), by) && (method == "" || method == r.Method) && re.MatchString(r.Path) {
			n++
		}
	}
	return n
}

// lines are a proxy's requests for a message.
func lines(f *rig.Front) string {
	var b strings.Builder
	for _, r := range f.Requests() {
		fmt.Fprintf(&b, "\n%s %s %s range=%q: %d, %d bytes", r.Header.Get("User-Agent"), r.Method, r.Path, r.Header.Get("Range"), r.Status, r.Bytes)
	}
	return b.String()
}

// answer is what a client got.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error // of the connection, or of a body that ended short
}

func (a answer) String() string {
	return fmt.Sprintf("%d, %d bytes, %v, %.300q", a.status, len(a.body), a.err, a.body)
}

// digest is that of the body.
func (a answer) digest() string { return oci.FromBytes(a.body).String() }

// whole says that the answer claims to be the whole object.
func (a answer) whole() bool { return a.status == http.StatusOK && a.err == nil }

// arch is what images have to be of to run here.
const arch = runtime.GOARCH

var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true, ExpectContinueTimeout: time.Minute}}

// ask sends a request with headers given as pairs, and reads the answer whole.
func ask(t *testing.T, method, url string, header ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return askBody(ctx, t, method, url, nil, header...)
}

func askBody(ctx context.Context, t *testing.T, method, url string, body io.Reader, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return answer{status: res.StatusCode, header: res.Header, body: b, err: err}
}

// run runs a program to its end and returns what it wrote. One that fails ends the test.
func run(t *testing.T, env []string, program string, args ...string) string {
	t.Helper()
	out, err := try(t, env, program, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// try is run for a program that may fail; its error holds what it wrote to standard error.
func try(t *testing.T, env []string, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, exit.Stderr)
	}
	return string(out), err
}
