package nodeagent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

// node is an agent with its hub and an upstream, each on a real port.
type node struct {
	testing.TB
	agent     *Agent
	cfg       Config
	base      string
	signer    *verify.Signer
	images    *ocitest.Memory // the hub's and the upstream's
	sealed    atomic.Pointer[[]byte]
	down      atomic.Bool // the hub
	private   atomic.Bool // all that the hub shows is private
	forbidden atomic.Bool // the hub's answer to all is a 403 that is no policy's
	upstream  *ocitest.FaultProxy
	gate      atomic.Pointer[enforce.Gate] // of the hub
	nodeScan  http.HandlerFunc             // answers of the hub about scans; nil: it does not scan
	told      chan []policy.Decision       // what the hub was told of
	stop      func()                       // ends the agent
}

const document = `
apiVersion: breakwater.dev/v1alpha1
kind: PolicyBundle
revision: 9
default: allow
authorities:
- name: release
  key: {pem: %q}
policies:
- name: signed
  mode: enforce
  match: {images: ["docker.io/team/**"]}
  rules:
  - {name: ours, signature: {anyOf: [release]}}
`

// newNode starts one whose policy wants images of docker.io/team signed by
// n.signer; change may change its configuration.
func newNode(t testing.TB, change func(*Config)) *node {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{TB: t, images: ocitest.NewMemory(), told: make(chan []policy.Decision, 100)}
	if n.signer, err = verify.NewSigner(key); err != nil {
		t.Fatal(err)
	}
	n.seal(1, fmt.Sprintf(document, n.signer.PublicKeyPEM()))

	mux := http.NewServeMux()
	mux.HandleFunc("GET "+hubapi.PathNodePolicy, func(w http.ResponseWriter, r *http.Request) {
		sealed := *n.sealed.Load()
		etag := `"` + oci.FromBytes(sealed).Encoded() + `"`
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("ETag", etag)
		_, _ = w.Write(sealed)
	})
	mux.HandleFunc("POST "+hubapi.PathNodeScan, func(w http.ResponseWriter, r *http.Request) {
		if n.nodeScan == nil {
			http.NotFound(w, r)
			return
		}
		n.nodeScan(w, r)
	})
	mux.HandleFunc("POST "+hubapi.PathNodeDecisions, func(w http.ResponseWriter, r *http.Request) {
		var d hubapi.NodeDecisions
		if err := json.NewDecoder(r.Body).Decode(&d); err != nil {
			t.Error(err)
		}
		n.told <- d.Decisions
		w.WriteHeader(http.StatusNoContent)
	})
	registry := ociserver.New(atHub{n, n.images}, ociserver.Options{Authenticate: func(r *http.Request) (context.Context, error) {
		return oci.WithCaller(r.Context(), oci.Caller{Agent: strings.HasPrefix(r.UserAgent(), agentName)}), nil
	}})
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case n.down.Load():
			panic(http.ErrAbortHandler)
		case strings.HasPrefix(r.URL.Path, "/v2"):
			registry.ServeHTTP(w, r)
		default:
			mux.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(hub.Close)
	n.upstream = ocitest.NewFaultProxy(ociserver.New(unprefixed{n.images}, ociserver.Options{}))
	upstream := httptest.NewServer(n.upstream)
	t.Cleanup(upstream.Close)

	dir, err := os.MkdirTemp("", "bw") //nolint:usetesting // its names are long, and a socket's path has 108 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	keys := filepath.Join(dir, "hub.pem")
	if err := os.WriteFile(keys, []byte(n.signer.PublicKeyPEM()), 0o600); err != nil {
		t.Fatal(err)
	}
	n.cfg = DefaultConfig()
	n.cfg.Hub.URL, n.cfg.Listen, n.cfg.Status.Listen = hub.URL, "127.0.0.1:0", "127.0.0.1:0"
	n.cfg.StateDir, n.cfg.Cache.Dir, n.cfg.Cache.MinFreeBytes = dir, filepath.Join(dir, "cache"), 1
	n.cfg.Containerd.Manage, n.cfg.DrainFor = false, config.Duration(time.Second)
	n.cfg.Upstreams = map[string]Upstream{oci.DockerHub: {URL: upstream.URL}}
	n.cfg.Policy.KeysFile, n.cfg.Policy.Every = keys, config.Duration(time.Second)
	if change != nil {
		change(&n.cfg)
	}
	n.stop = n.start()
	return n
}

func (n *node) seal(epoch uint64, doc string) {
	n.Helper()
	b, err := policy.Load("p", []byte(doc))
	if err != nil {
		n.Fatal(err)
	}
	sealed, err := n.signer.SealPolicy(verify.SealedPolicy{Epoch: epoch, IssuedAt: time.Now(), Document: string(b.JSON())})
	if err != nil {
		n.Fatal(err)
	}
	n.sealed.Store(&sealed)
}

// awaitEpoch waits until the agent has taken a policy.
func (n *node) awaitEpoch(epoch uint64) {
	n.Helper()
	for deadline := time.Now().Add(10 * time.Second); n.agent.policyState().Epoch != epoch; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.Fatal("the new policy is not taken")
		}
	}
}

// awaitTold waits until the hub was told of so many decisions.
func (n *node) awaitTold(count int) (all []policy.Decision) {
	n.Helper()
	for len(all) < count {
		select {
		case some := <-n.told:
			all = append(all, some...)
		case <-time.After(30 * time.Second):
			n.Fatalf("the hub was told of %d decisions, want %d", len(all), count)
		}
	}
	return all
}

// scanned is the hub's word that nothing is wrong with a manifest.
func (n *node) scanned(d oci.Digest) []byte {
	n.Helper()
	predicate, err := json.Marshal(policy.ScanStatement{Scan: policy.Scan{Digest: d, State: policy.ScanDone}, Until: time.Now().Add(time.Hour)})
	if err != nil {
		n.Fatal(err)
	}
	b, err := n.signer.Sign(verify.Statement{PredicateType: policy.ScanStatementType, Subjects: []verify.StatementSubject{{Digest: d}}, Predicate: predicate})
	if err != nil {
		n.Fatal(err)
	}
	return b
}

// start runs the agent until the test ends, or stop is called.
func (n *node) start() (stop func()) {
	n.Helper()
	a, err := New(n.Context(), n.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		n.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	n.agent, n.base = a, "http://"+a.Addr()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			n.Error(err)
		}
	}
	n.Cleanup(stop)
	return stop
}

// atHub is the registry at the hub: names as docker.io/team/app.
type atHub struct {
	n *node
	*ocitest.Memory
}

func (h atHub) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	if h.n.forbidden.Load() {
		return oci.Manifest{}, oci.Errorf(oci.Denied, "not on the allow list")
	}
	if g := h.n.gate.Load(); g != nil {
		return g.Resolve(ctx, repo, ref)
	}
	m, err := h.Memory.Resolve(ctx, repo, ref)
	m.Visibility = h.visibility()
	return m, err
}

func (h atHub) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	if h.n.forbidden.Load() {
		return oci.Manifest{}, oci.Errorf(oci.Denied, "not on the allow list")
	}
	if g := h.n.gate.Load(); g != nil {
		return g.Manifest(ctx, repo, ref)
	}
	m, err := h.Memory.Manifest(ctx, repo, ref)
	m.Visibility = h.visibility()
	return m, err
}

func (h atHub) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	b, err := h.Memory.Blob(ctx, repo, d)
	if err == nil {
		b.Visibility = h.visibility()
	}
	return b, err
}

func (h atHub) visibility() oci.Visibility {
	if h.n.private.Load() {
		return oci.Private
	}
	return oci.Public
}

// unprefixed is the registry at the upstream: names as team/app.
type unprefixed struct{ *ocitest.Memory }

func (u unprefixed) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	return u.Memory.Resolve(ctx, "docker.io/"+repo, ref)
}

func (u unprefixed) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	return u.Memory.Manifest(ctx, "docker.io/"+repo, ref)
}

func (u unprefixed) Stat(ctx context.Context, repo string, d oci.Digest) (oci.BlobInfo, error) {
	return u.Memory.Stat(ctx, "docker.io/"+repo, d)
}

func (u unprefixed) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	return u.Memory.Blob(ctx, "docker.io/"+repo, d)
}

func (u unprefixed) Referrers(ctx context.Context, repo string, d oci.Digest, typ string) ([]oci.Descriptor, error) {
	return u.Memory.Referrers(ctx, "docker.io/"+repo, d, typ)
}

func (n *node) push(seed uint64, repo, tag string) ocitest.Tree {
	n.Helper()
	tree := ocitest.Image(seed, 1, 1000)
	if err := tree.Push(n.Context(), n.images, "docker.io/"+repo, tag); err != nil {
		n.Fatal(err)
	}
	return tree
}

func (n *node) sign(repo string, image oci.Descriptor) {
	n.Helper()
	const sign = "https://sigstore.dev/cosign/sign/v1"
	b, err := n.signer.Sign(verify.Statement{PredicateType: sign, Subjects: []verify.StatementSubject{{Digest: image.Digest}}, Predicate: json.RawMessage("{}")})
	if err == nil {
		_, err = verify.Attach(n.Context(), n.images, "docker.io/"+repo, image, b, sign, time.Now())
	}
	if err != nil {
		n.Fatal(err)
	}
}

// ask does as containerd does.
func (n *node) ask(method, path string) (*http.Response, string) {
	n.Helper()
	req, err := http.NewRequestWithContext(n.Context(), method, n.base+"/v2/"+path+"?ns=docker.io", nil)
	if err != nil {
		n.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		n.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		n.Fatal(err)
	}
	return res, string(b)
}

// refused wants containerd to end the pull with a reason, and go nowhere else.
func (n *node) refused(path, part string) {
	n.Helper()
	res, _ := n.ask("HEAD", path)
	if res.StatusCode != 200 || res.Header.Get("Docker-Content-Digest") != "" || res.ContentLength >= 0 || !oci.IsManifestType(res.Header.Get("Content-Type")) {
		n.Errorf("HEAD %s: %s %v", path, res.Status, res.Header)
	}
	res, body := n.ask("GET", path)
	if res.StatusCode != 403 || !strings.Contains(body, `"DENIED"`) || !strings.Contains(body, part) {
		n.Errorf("GET %s: %s %s, want %q", path, res.Status, body, part)
	}
	// An old containerd takes that for the manifest, and asks by its digest.
	repo, _, _ := strings.Cut(path, "/manifests/")
	for _, kind := range []string{"manifests", "blobs"} {
		if res, again := n.ask("GET", repo+"/"+kind+"/"+oci.FromBytes([]byte(body)).String()); res.StatusCode != 403 || again != body {
			n.Errorf("GET by the refusal's digest: %s %s", res.Status, again)
		}
	}
}

func (n *node) pulled(path string) {
	n.Helper()
	if res, body := n.ask("HEAD", path); res.StatusCode != 200 || res.Header.Get("Docker-Content-Digest") == "" {
		n.Errorf("HEAD %s: %s %s", path, res.Status, body)
	}
	if res, body := n.ask("GET", path); res.StatusCode != 200 {
		n.Errorf("GET %s: %s %s", path, res.Status, body)
	}
}

func TestPolicyOnNode(t *testing.T) {
	n := newNode(t, nil)
	good, bad := n.push(1, "team/good", "1"), n.push(2, "team/bad", "1")
	n.push(3, "library/any", "1")
	n.sign("team/good", good.Descriptor)

	n.pulled("team/good/manifests/1")
	n.pulled("library/any/manifests/1")
	n.refused("team/bad/manifests/1", `policy \"signed\" rule \"ours\"`)
	n.refused("team/bad/manifests/"+bad.Digest.String(), "no valid signature")
	if res, body := n.ask("GET", "team/bad/blobs/"+oci.FromBytes(bad.Blobs[1]).String()); res.StatusCode != 403 {
		t.Errorf("a layer of what is refused: %s %s", res.Status, body)
	}
	if res, _ := n.ask("GET", "team/good/blobs/"+oci.FromBytes(good.Blobs[1]).String()); res.StatusCode != 200 {
		t.Errorf("a layer of what is allowed: %s", res.Status)
	}
	// An image may be called what a signature or a list of referrers is, and be at
	// the next host alone: only what no policy is about is said to be absent.
	for _, tag := range []string{"", ".sig", ".att"} {
		tag = strings.Replace(bad.Digest.String(), ":", "-", 1) + tag
		n.refused("team/bad/manifests/"+tag, "no manifest")
		if res, _ := n.ask("HEAD", "library/any/manifests/"+tag); res.StatusCode != 404 {
			t.Errorf("HEAD of what is not there: %s", res.Status)
		}
	}

	// The hub away: by what is held, as before, with the upstream's images.
	n.down.Store(true)
	n.refused("team/bad/manifests/1", "no valid signature")
	n.pulled("team/good/manifests/1")
	n.pulled("library/any/manifests/1")
	late := n.push(4, "team/late", "1")
	n.refused("team/late/manifests/1", "no valid signature")
	n.sign("team/late2", n.push(5, "team/late2", "1").Descriptor)
	n.pulled("team/late2/manifests/1")

	// Hub and upstream away: what is here is judged the same; what is not cannot
	// be, and an error would send containerd past the policy.
	n.upstream.Down(true)
	n.refused("team/bad/manifests/"+bad.Digest.String(), "no valid signature")
	n.pulled("team/good/manifests/" + good.Digest.String())
	n.refused("team/none/manifests/1", "could not")
	if res, _ := n.ask("HEAD", "library/none/manifests/1"); res.StatusCode != 503 {
		t.Errorf("what no policy is about: %s", res.Status)
	}
	_ = late
}

// A private image is judged before containerd goes on with the Pod's own
// credentials; one that nobody can look at is refused as onError says.
func TestPrivateOnNode(t *testing.T) {
	n := newNode(t, nil)
	n.private.Store(true)
	n.sign("team/good", n.push(1, "team/good", "1").Descriptor)
	n.push(2, "team/bad", "1")
	for _, method := range []string{"HEAD", "GET"} {
		if res, body := n.ask(method, "team/good/manifests/1"); res.StatusCode != 401 || res.Header.Get("WWW-Authenticate") != "" {
			t.Errorf("%s of a private image that is signed: %s %s", method, res.Status, body)
		}
	}
	n.refused("team/bad/manifests/1", "no valid signature")
	n.refused("team/none/manifests/1", "no manifest")

	// An image may be called what a signature is.
	signature := "sha256-" + strings.Repeat("0", 64) + ".sig"
	n.push(3, "team/bad", signature)
	n.refused("team/bad/manifests/"+signature, "no valid signature")
}

// A 403 of the hub that is no policy's would send containerd to the registry,
// past the policy.
func TestForbiddenIsUnseen(t *testing.T) {
	n := newNode(t, nil)
	n.push(1, "team/bad", "1")
	n.push(2, "library/any", "1")
	n.forbidden.Store(true)
	n.refused("team/bad/manifests/1", "allow list")
	if res, _ := n.ask("HEAD", "library/any/manifests/1"); res.StatusCode != 403 {
		t.Errorf("what no policy is about: %s", res.Status)
	}
}

// A hub that refuses is not gone past.
func TestHubRefuses(t *testing.T) {
	n := newNode(t, nil)
	n.push(1, "library/any", "1")
	n.gate.Store(enforce.New(n.images, denier{}, enforce.Options{Subject: func(repo string, ref oci.Reference) (policy.Subject, error) {
		return policy.NewSubject("docker.io", strings.TrimPrefix(repo, "docker.io/"), ref)
	}}))
	n.refused("library/any/manifests/1", "given no policy yet")
}

type denier struct{}

func (denier) Judge(_ context.Context, q enforce.Question) (policy.Decision, error) {
	return policy.WithoutPolicy(q.Subject, q.At, policy.ActionDeny, time.Now()), nil
}

func TestPolicyChanges(t *testing.T) {
	n := newNode(t, nil)
	n.push(1, "team/app", "1")
	n.refused("team/app/manifests/1", "no valid signature")
	n.seal(2, "{apiVersion: breakwater.dev/v1alpha1, kind: PolicyBundle, revision: 10, default: allow}")
	n.awaitEpoch(2)
	n.pulled("team/app/manifests/1")
}

func TestStatusTellsPolicy(t *testing.T) {
	n := newNode(t, func(c *Config) { c.NodeName = "node-a" })
	n.push(1, "team/bad", "1")
	n.refused("team/bad/manifests/1", "no valid")
	get := func(path string, into any) {
		t.Helper()
		res, err := http.Get("http://" + n.agent.StatusAddr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if err := json.NewDecoder(res.Body).Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	var s hubapi.NodeStatus
	get("/status", &s)
	if s.Policy.Source != "hub" || !s.Policy.Held || s.Policy.Revision != 9 || !s.Policy.Enforces || s.Policy.Node != "node-a" {
		t.Errorf("%+v", s.Policy)
	}
	var all hubapi.NodeDecisionList
	get("/policy/decisions?image=team/bad", &all)
	if len(all.Decisions) != 1 || all.Decisions[0].Outcome != policy.Deny || all.Decisions[0].Subject.Name != "docker.io/team/bad" {
		t.Errorf("%+v", all)
	}
	cfg := n.cfg
	cfg.Status.Listen = n.agent.StatusAddr()
	state, err := askPolicy(t.Context(), cfg)
	if err != nil || state.Revision != 9 {
		t.Errorf("%+v %v", state, err)
	}
}

// The verifier, as a program, asks the agent; without one it does as it was
// told when it was installed.
func TestVerifierAsInstalled(t *testing.T) {
	program := filepath.Join(t.TempDir(), "breakwater-verifier")
	build := exec.Command("go", "build", "-o", program, "github.com/breakwater-oci/breakwater/cmd/breakwater-verifier")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	n := newNode(t, nil)
	good, bad := n.push(1, "team/good", "1"), n.push(2, "team/bad", "1")
	n.sign("team/good", good.Descriptor)
	dir := filepath.Join(t.TempDir(), "opt", "image-verifier", "bin")
	install := func(onError string) {
		t.Helper()
		if _, err := InstallVerifier(n.cfg, Verifier{Dir: dir, Program: program, OnError: onError}, false); err != nil {
			t.Fatal(err)
		}
	}
	verify := func(name string, d oci.Digest) (bool, string) {
		t.Helper()
		c := exec.Command(filepath.Join(dir, "breakwater-verifier"), "-name", name, "-digest", d.String(), "-stdin-media-type", "application/vnd.oci.descriptor.v1+json")
		c.Stdin = strings.NewReader(`{"mediaType":"` + oci.MediaTypeImage + `"}`)
		out, err := c.Output()
		if len(out) > 400 {
			t.Errorf("%d bytes: %s", len(out), out)
		}
		return err == nil, string(out)
	}
	install("deny")
	for _, tt := range []struct {
		name    string
		digest  oci.Digest
		allowed bool
		text    string
	}{
		{"docker.io/team/good:1", good.Digest, true, ""},
		{"docker.io/team/bad:1", bad.Digest, false, "no valid signature"},
		{"docker.io/library/whatever:1", bad.Digest, true, ""},
		{"elsewhere.example/app:1", bad.Digest, true, ""}, // no policy is about it, and no mirror
		{"docker.io/team/none:1", oci.FromBytes(nil), false, "no manifest"},
		{"NONSENSE/:::", bad.Digest, false, "breakwater"},
	} {
		if allowed, text := verify(tt.name, tt.digest); allowed != tt.allowed || !strings.Contains(text, tt.text) {
			t.Errorf("%s: %v %q", tt.name, allowed, text)
		}
	}
	n.down.Store(true)
	if allowed, text := verify("docker.io/team/good:1", good.Digest); !allowed {
		t.Errorf("the hub away: %s", text)
	}

	if f := checkVerifier(n.cfg, filepath.Join(t.TempDir(), "none")); !f.OK {
		t.Errorf("doctor: %+v", f)
	}
	n.cfg.StateDir += "x" // where no agent listens
	if err := os.MkdirAll(n.cfg.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(n.cfg.StateDir) })
	if _, err := InstallVerifier(n.cfg, Verifier{Dir: dir, Program: program, OnError: "deny"}, false); err == nil {
		t.Error("one that is another's is taken over")
	}
	dir = filepath.Join(t.TempDir(), "bin")
	install("deny")
	if allowed, text := verify("docker.io/team/good:1", good.Digest); allowed || !strings.Contains(text, "does not answer") {
		t.Errorf("without an agent, deny: %v %s", allowed, text)
	}
	install("allow")
	if allowed, _ := verify("docker.io/team/bad:1", bad.Digest); !allowed {
		t.Error("without an agent, allow")
	}
}

// What was there before is there again, and nothing else.
func TestVerifierLeavesNoTrace(t *testing.T) {
	root := t.TempDir()
	program := filepath.Join(t.TempDir(), "v")
	for _, err := range []error{
		os.WriteFile(program, []byte("\x7fELF..."), 0o755),
		os.MkdirAll(filepath.Join(root, "opt", "containerd"), 0o755),
		os.WriteFile(filepath.Join(root, "opt", "containerd", "theirs"), []byte("x"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cfg := DefaultConfig()
	cfg.StateDir = filepath.Join(root, "state")
	if err := os.Mkdir(cfg.StateDir, 0o755); err != nil {
		t.Fatal(err)
	}
	before := listing(t, root)
	v := Verifier{Dir: filepath.Join(root, "opt", "containerd", "image-verifier", "bin"), Program: program, OnError: "deny"}
	if changes, err := InstallVerifier(cfg, v, true); err != nil || len(changes) != 2 || listing(t, root) != before {
		t.Fatalf("dry run: %v %v", changes, err)
	}
	for range 2 {
		if _, err := InstallVerifier(cfg, v, false); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := os.ReadDir(v.Dir); err != nil || len(all) != 1 { // containerd runs all of them
		t.Fatal(all, err)
	}
	if _, err := UninstallVerifier(cfg, false); err != nil {
		t.Fatal(err)
	}
	if after := listing(t, root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if changes, err := UninstallVerifier(cfg, false); err != nil || len(changes) != 0 {
		t.Errorf("again: %v %v", changes, err)
	}

	// Somebody else's changes stay.
	if _, err := InstallVerifier(cfg, v, false); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(v.Dir, "breakwater-verifier")
	if err := os.WriteFile(theirs, []byte("\x7fELF theirs"), 0o755); err != nil {
		t.Fatal(err)
	}
	changes, err := UninstallVerifier(cfg, false)
	if err != nil || len(changes) != 1 || changes[0].Action != "leave" {
		t.Errorf("%v %v", changes, err)
	}
	if b, err := os.ReadFile(theirs); err != nil || string(b) != "\x7fELF theirs" {
		t.Errorf("%q %v", b, err)
	}
	for _, bad := range []Verifier{{Dir: v.Dir, Program: program}, {Dir: v.Dir, Program: cfg.StateDir, OnError: "deny"}} {
		if _, err := InstallVerifier(cfg, bad, false); err == nil {
			t.Errorf("%+v is installed", bad)
		}
	}
}

// listing is each file below root with its mode and content.
func listing(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, path, info.Mode())
		if d.Type().IsRegular() {
			text, err := os.ReadFile(path)
			fmt.Fprintf(&b, "%q\n", text)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPolicyFindings(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		s    hubapi.NodePolicyState
		ok   bool
		text string
	}{
		{hubapi.NodePolicyState{Source: "none"}, false, "judges nothing"},
		{hubapi.NodePolicyState{Source: "hub", Bootstrap: "allow", Error: "the hub has no policy"}, false, "nothing is refused (policy.bootstrap); the hub has no policy"},
		{hubapi.NodePolicyState{Source: "hub", Bootstrap: "deny"}, false, "every pull is refused"},
		{hubapi.NodePolicyState{Source: "hub", Held: true, Stale: true, OnStale: "deny"}, false, "every pull is refused"},
		{hubapi.NodePolicyState{Source: "hub", Held: true, Stale: true, OnStale: "keep"}, false, "judged by all the same"},
		{hubapi.NodePolicyState{Source: "hub", Held: true, Revision: 4, Epoch: 7, ConfirmedAt: now.Add(-time.Minute)}, true, "revision 4 (epoch 7), confirmed by the hub 1m0s ago"},
		{hubapi.NodePolicyState{Source: "hub", Refused: true, Error: "not signed"}, false, "none yet; not signed"},
		{hubapi.NodePolicyState{Source: "hub", Held: true, Revision: 4, Refused: true, Error: "not signed"}, false, "revision 4 (epoch 0)"},
		{hubapi.NodePolicyState{Source: "file", Held: true, Revision: 4}, true, "from a file"},
	} {
		if f := policyHeld(tt.s, now); f.OK != tt.ok || !strings.Contains(f.Text, tt.text) || !f.OK && f.Fix == "" || tt.s.Refused != strings.Contains(f.Fix, "policy keys") {
			t.Errorf("%+v: %+v", tt.s, f)
		}
	}
	enforced := hubapi.NodePolicyState{Source: "hub", Held: true, Enforces: true}
	for _, tt := range []struct {
		mode, mirrorURL string
		s               hubapi.NodePolicyState
		certain         bool
		text            string
	}{
		{"advisory", "", hubapi.NodePolicyState{}, false, "no policy: this node refuses nothing"},
		{"enforced", "", hubapi.NodePolicyState{Bootstrap: "deny"}, true, "every pull is refused until there is a policy (policy.bootstrap: deny)"},
		{"advisory", "", hubapi.NodePolicyState{Held: true}, false, "audit"},
		{"advisory", "", enforced, false, "while it is down NOT"},
		{"advisory", "http://hub", enforced, false, "with both down NOT"},
		{"advisory", "", enforced, true, "the image verifier refuses"},
		{"enforced", "", enforced, false, "nothing new is pulled"},
	} {
		cfg := DefaultConfig()
		cfg.Mirrors.Mode, cfg.Hub.MirrorURL = tt.mode, tt.mirrorURL
		if f := enforcement(cfg, tt.s, tt.certain); f.OK != tt.s.Held || !strings.Contains(f.Text, tt.text) {
			t.Errorf("%+v: %s", tt, f.Text)
		}
	}
}

func TestRunsNoVerifier(t *testing.T) {
	for config, want := range map[string]string{
		"": "",
		"[plugins.'io.containerd.cri.v1.images']\n  use_local_image_pull = true\n":                      "use_local_image_pull = true",
		"[plugins.'io.containerd.cri.v1.images']\n  max_concurrent_downloads = 5\n":                     "max_concurrent_downloads = 5",
		"[plugins.'io.containerd.cri.v1.images']\n  max_concurrent_downloads = 3\n":                     "",
		"[plugins.'io.containerd.transfer.v1.local']\n  max_concurrent_downloads = 5\n":                 "",
		"[plugins.'io.containerd.image-verifier.v1.bindir']\n  bin_dir = '/other'\n":                    "bin_dir = '/other'",
		"[plugins.'io.containerd.image-verifier.v1.bindir']\n  bin_dir = \"/v\"\n":                      "",
		"[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\n  endpoint = []\n":     `[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]`,
		"# use_local_image_pull = true\n[plugins.'x']\n":                                                "",
		"[plugins.'io.containerd.cri.v1.images']\n  use_local_image_pull = false\n":                     "",
		"[plugins.'io.containerd.cri.v1.images'.registry]\n  config_path = '/etc/containerd/certs.d'\n": "",
	} {
		if got := runsNoVerifier(config, "/v"); got != want {
			t.Errorf("%s: %q, want %q", config, got, want)
		}
	}
}
