package hub

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

// scanner builds the program that takes breakwater-scan's place.
var scanner = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hub-test")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "breakwater-scan")
	if out, err := exec.Command("go", "build", "-o", path, "./scan/testdata/scanner").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(match.Quiet(slog.NewTextHandler(os.Stderr, nil))))
	code := m.Run()
	if path, err := scanner(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// house is a hub that runs, with an upstream.
type house struct {
	t        *testing.T
	hub      *Hub
	base     string
	upstream *ocitest.Memory
	admin    *hubapi.Client
	database string // the vulnerability database's file
	signer   *verify.Signer
	log      io.Writer
	stop     func()
}

const secret = "correct horse battery staple"

// reader may pull everything, and push nothing.
const reader = "reader"

func newHouse(t *testing.T, driver string, change func(*Config)) *house {
	t.Helper()
	t.Setenv("BREAKWATER_ADMIN_PASSWORD", secret)
	dir := t.TempDir()
	h := &house{t: t, log: io.Discard, upstream: ocitest.NewMemory(), database: filepath.Join(dir, "vulnerabilities", "trivy.db")}
	up := httptest.NewServer(ociserver.New(h.upstream, ociserver.Options{}))
	t.Cleanup(up.Close)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	h.signer, err = verify.NewSigner(key)
	must(t, err)
	program, err := scanner()
	must(t, err)
	h.advisories(matchtest.Requests)

	cfg := DefaultConfig(dir)
	cfg.Listen, cfg.Metrics.Listen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.ExternalURL = "http://hub.test:8080"
	cfg.Metadata.Driver, cfg.Metadata.DSN = driver, metatest.DSN(t, driver)
	if driver == "postgres" {
		cfg.EncryptionKeyFile = filepath.Join(dir, "keys.pem")
	}
	p := Proxy{Registry: oci.DockerHub, URL: up.URL}
	p.SetDefaults()
	cfg.Proxies = []Proxy{p}
	cfg.DrainFor = config.Duration(time.Second)
	cfg.Scan.Program, cfg.Scan.Dir, cfg.Scan.Database.File = program, filepath.Join(dir, "scan"), h.database
	cfg.DecisionLog = filepath.Join(dir, "decisions.jsonl")
	if change != nil {
		change(&cfg)
	}
	h.start(cfg)
	t.Cleanup(func() { h.stop() })
	_, err = h.admin.PutUser(t.Context(), reader, hubapi.UserSpec{Password: secret, Rights: &[]oci.Right{{Repository: "**", Actions: []string{"pull"}}}})
	must(t, err)
	return h
}

func (h *house) start(cfg Config) {
	h.t.Helper()
	x, err := New(h.t.Context(), cfg, slog.New(slog.NewTextHandler(io.MultiWriter(testLog{h.t}, h.log), nil)))
	must(h.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx) }()
	h.hub, h.base = x, "http://"+x.Addr()
	h.admin = hubapi.NewClient(h.base, "admin", secret, http.DefaultTransport)
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error("the hub ended with", err)
		}
	})
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) { l.t.Logf("%s", p); return len(p), nil }

// advisories replaces the vulnerability database.
func (h *house) advisories(all ...matchtest.Advisory) {
	h.t.Helper()
	next := filepath.Join(h.t.TempDir(), "next")
	must(h.t, matchtest.Write(next, time.Now(), all...))
	must(h.t, os.MkdirAll(filepath.Dir(h.database), 0o700))
	for _, name := range []string{"metadata.json", "trivy.db"} {
		must(h.t, os.Rename(filepath.Join(next, name), filepath.Join(filepath.Dir(h.database), name)))
	}
}

// document is a policy: what is pushed to team is signed, what comes from
// Docker Hub has no faults.
func (h *house) document(revision int, more string) string {
	pem, err := json.Marshal(h.signer.PublicKeyPEM())
	must(h.t, err)
	return fmt.Sprintf(`
apiVersion: breakwater.dev/v1alpha1
kind: PolicyBundle
revision: %d
default: allow
authorities:
- {name: release, key: {pem: %s}}
policies:
- {name: signed, mode: enforce, match: {images: ["hub.test:8080/team/**"]}, protectSigned: true, rules: [{name: by-release, signature: {anyOf: [release]}}]}
- {name: gate, mode: enforce, at: [push], match: {images: ["hub.test:8080/gate/**"]}, rules: [{name: by-release, signature: {anyOf: [release]}}]}
- {name: clean, mode: enforce, match: {images: ["docker.io/**"]}, rules: [{name: cve, vulnerabilities: {block: HIGH, unknownAs: LOW, unscanned: {wait: 60s, then: deny}}}]}
%s`, revision, pem, more)
}

// push puts an image into the hub past its door: rights are tested elsewhere.
func (h *house) push(repo, tag string, tree ocitest.Tree) error {
	ctx := oci.WithCaller(h.t.Context(), oci.Caller{Name: "ci", Admin: true})
	return tree.Push(ctx, h.hub.judge.Gate(), repo, tag)
}

// sign signs an image as cosign 3 does.
func (h *house) sign(repo string, image oci.Descriptor) {
	h.t.Helper()
	const signature = "https://sigstore.dev/cosign/sign/v1"
	bundle, err := h.signer.Sign(verify.Statement{PredicateType: signature, Subjects: []verify.StatementSubject{{Digest: image.Digest}}, Predicate: []byte("{}")})
	must(h.t, err)
	ctx := oci.WithCaller(h.t.Context(), oci.Caller{Name: "ci", Admin: true})
	_, err = verify.Attach(ctx, h.hub.judge.Gate(), repo, image, bundle, signature, time.Now())
	must(h.t, err)
}

type reply struct {
	*http.Response
	body string
}

// ask asks for path: nobody has said who they are who names a foreign namespace,
// a reader reads, and the admin does the rest.
func (h *house) ask(method, path string) reply {
	h.t.Helper()
	switch {
	case strings.Contains(path, "ns="):
		return h.askAs("", "", method, path)
	case method == "GET" || method == "HEAD":
		return h.askAs(reader, "", method, path)
	}
	return h.askAs("admin", "", method, path)
}

// askAs asks as a user, "" for none, with a client that calls itself so.
func (h *house) askAs(user, client, method, path string) reply {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.base+path, nil)
	must(h.t, err)
	if user != "" {
		req.SetBasicAuth(user, secret)
	}
	req.Header.Set("User-Agent", client)
	res, err := http.DefaultClient.Do(req)
	must(h.t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(h.t, err)
	return reply{res, string(b)}
}

// runnable is an image of which the scanner's stand-in makes what it is told.
func runnable(t *testing.T, words string) ocitest.Tree {
	config, err := json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []oci.Digest{oci.FromBytes([]byte("unpacked " + words))}},
	})
	must(t, err)
	m := ocispec.Manifest{
		MediaType: oci.MediaTypeImage,
		Config:    oci.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: oci.FromBytes(config), Size: int64(len(config))},
		Layers:    []oci.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: oci.FromBytes([]byte(words)), Size: int64(len(words))}},
	}
	m.SchemaVersion = 2
	body, err := json.Marshal(m)
	must(t, err)
	return ocitest.Tree{
		Descriptor: oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes(body), Size: int64(len(body))},
		Bytes:      body, Blobs: [][]byte{config, []byte(words)},
	}
}

// eventually tries until it is so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not so after 20 s: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// decisionIn is the id in a refusal.
func decisionIn(t *testing.T, body string) string {
	t.Helper()
	i := strings.Index(body, "breakwater d-")
	if i < 0 {
		t.Fatalf("no decision in %s", body)
	}
	id, _, _ := strings.Cut(body[i+len("breakwater "):], ":")
	return id
}

func status(err error) int {
	if e, ok := errors.AsType[*hubapi.Error](err); ok {
		return e.Status
	}
	return 0
}

func TestSignaturePolicy(t *testing.T) {
	metatest.Each(t, func(t *testing.T, driver string) {
		h := newHouse(t, driver, func(c *Config) { c.Scan.Enabled = false })
		image := ocitest.Index(1, 1, 2000)
		must(t, h.push("team/app", "1", image))
		if _, err := h.admin.Policy(t.Context()); status(err) != 404 {
			t.Errorf("the policy before there is one: %v", err)
		}
		if a := h.ask("GET", "/v2/team/app/manifests/1"); a.StatusCode != 200 {
			t.Fatalf("without a policy: %d %s", a.StatusCode, a.body)
		}
		set, err := h.admin.SetPolicy(t.Context(), h.document(1, ""))
		must(t, err)
		if set.Policy.Revision != 1 || set.Policy.Author != "admin" || set.Policy.Source != "api" || !strings.Contains(set.Policy.Document, "by-release") {
			t.Errorf("set: %+v", set.Policy)
		}

		a := h.ask("GET", "/v2/team/app/manifests/1")
		if a.StatusCode != 403 || !strings.Contains(a.body, "no valid signature (release: none found) for hub.test:8080/team/app@sha256:") {
			t.Fatalf("unsigned: %d %s", a.StatusCode, a.body)
		}
		id := decisionIn(t, a.body)
		layer := oci.FromBytes(image.Children[0].Blobs[1]).String()
		for _, path := range []string{"manifests/" + image.Children[0].Digest.String(), "blobs/" + layer} {
			if a := h.ask("GET", "/v2/team/app/"+path); a.StatusCode != 403 {
				t.Errorf("GET %s of an unsigned image: %d", path, a.StatusCode)
			}
		}
		req, err := http.NewRequest("GET", h.base+"/v2/team/app/manifests/1", nil)
		must(t, err)
		res, err := http.DefaultClient.Do(req)
		must(t, err)
		defer res.Body.Close()
		if b, err := io.ReadAll(res.Body); err != nil || res.StatusCode != 401 || bytes.Contains(b, []byte("breakwater d-")) {
			t.Errorf("who may not see it is told %d %s", res.StatusCode, b)
		}

		d, err := h.admin.Decision(t.Context(), id)
		must(t, err)
		if len(d.Decisions) != 1 || d.Decisions[0].Decision.ID != id || !strings.Contains(d.Decisions[0].Explanation, "by-release") {
			t.Errorf("decision %s: %+v", id, d)
		}
		if j, err := h.admin.Judge(t.Context(), "hub.test:8080/team/app:1", ""); err != nil || j.Decision.ID != id {
			t.Errorf("judged: %+v %v", j.Decision, err)
		}

		h.sign("team/app", image.Descriptor)
		for _, path := range []string{"manifests/1", "manifests/" + image.Children[0].Digest.String(), "blobs/" + layer} {
			if a := h.ask("GET", "/v2/team/app/"+path); a.StatusCode != 200 {
				t.Errorf("GET %s of a signed image: %d %s", path, a.StatusCode, a.body)
			}
		}
		for _, ref := range []string{"1", image.Digest.String()} {
			if _, err := h.admin.DeleteImage(t.Context(), "team/app", ref, false); status(err) != 403 || !strings.Contains(err.Error(), "signed by release") {
				t.Errorf("deletion of the signed %s: %v", ref, err)
			}
			if a := h.ask("DELETE", "/v2/team/app/manifests/"+ref); a.StatusCode != 403 {
				t.Errorf("deletion of the signed %s: %d", ref, a.StatusCode)
			}
		}
		if _, err := h.admin.DeleteRepository(t.Context(), "team/app", false); status(err) != 403 {
			t.Errorf("deletion of its repository: %v", err)
		}

		// The tag moves to what nobody signed; the digest stays allowed.
		must(t, h.push("team/app", "1", ocitest.Image(5, 1, 100)))
		if a := h.ask("GET", "/v2/team/app/manifests/1"); a.StatusCode != 403 {
			t.Errorf("an overwritten tag: %d", a.StatusCode)
		}
		if a := h.ask("GET", "/v2/team/app/manifests/"+image.Digest.String()); a.StatusCode != 200 {
			t.Errorf("the digest that it was: %d", a.StatusCode)
		}
		if err := h.push("gate/app", "1", ocitest.Image(6, 1, 100)); oci.CodeOf(err) != oci.Denied {
			t.Errorf("push past a policy for pushes: %v", err)
		}

		text, err := os.ReadFile(h.hub.cfg.DecisionLog)
		if err != nil || !bytes.Contains(text, []byte(id)) {
			t.Errorf("decision log: %s %v", text, err)
		}
	})
}

func TestPolicyDocument(t *testing.T) {
	metatest.Each(t, func(t *testing.T, driver string) {
		h := newHouse(t, driver, func(c *Config) { c.Scan.Enabled = false })
		for text, want := range map[string]int{"revision: x": 422, "": 422, strings.Replace(h.document(1, ""), "anyOf: [release]", "anyOf: [nobody]", 1): 422} {
			if _, err := h.admin.SetPolicy(t.Context(), text); status(err) != want {
				t.Errorf("%.40q: %v, want %d", text, err, want)
			}
		}
		if _, err := hubapi.NewClient(h.base, "", "", http.DefaultTransport).Policy(t.Context()); status(err) != 401 {
			t.Errorf("the policy to a stranger: %v", err)
		}
		_, err := h.admin.SetPolicy(t.Context(), h.document(5, ""))
		must(t, err)
		if _, err := h.admin.SetPolicy(t.Context(), h.document(5, "# again")); err != nil {
			t.Errorf("the same again, in other words: %v", err)
		}
		if _, err := h.admin.SetPolicy(t.Context(), h.document(5, "platforms: [linux/amd64]")); status(err) != 409 {
			t.Errorf("another of the same revision: %v", err)
		}
		set, err := h.admin.SetPolicy(t.Context(), h.document(6, "platforms: [linux/amd64]"))
		must(t, err)
		if len(set.Changes) == 0 || set.Policy.Epoch != 6 {
			t.Errorf("another: %+v", set)
		}

		// What nodes are given.
		node := hubapi.NewClient(h.base, "", "", http.DefaultTransport)
		pems, err := node.NodeKeys(t.Context())
		must(t, err)
		keys, err := verify.ParseKeys(pems)
		must(t, err)
		sealed, etag, err := node.NodePolicy(t.Context(), "")
		must(t, err)
		p, err := verify.OpenPolicy(sealed, keys, verify.PolicyMark{Epoch: 5})
		must(t, err)
		b, err := policy.Load("", []byte(p.Document))
		if err != nil || b.Revision() != 6 || p.Epoch != 6 || time.Since(p.IssuedAt) > time.Minute {
			t.Errorf("sealed: %+v %v", p, err)
		}
		if again, _, err := node.NodePolicy(t.Context(), etag); err != nil || again != nil {
			t.Errorf("again: %d bytes, %v", len(again), err)
		}

		// Another start has it too.
		cfg := h.hub.cfg
		h.stop()
		h.start(cfg)
		if p, err := h.admin.Policy(t.Context()); err != nil || p.Revision != 6 || p.Epoch != 6 {
			t.Errorf("after a start: %+v %v", p, err)
		}
	})
}

func TestPolicyFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	h := &house{t: t}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	h.signer, err = verify.NewSigner(key)
	must(t, err)
	must(t, os.WriteFile(file, []byte(h.document(3, "")), 0o600))
	signer := h.signer
	h = newHouse(t, "sqlite", func(c *Config) { c.PolicyFile, c.Scan.Enabled = file, false })
	h.signer = signer
	inUse := func() hubapi.PolicyInUse {
		p, err := h.admin.Policy(t.Context())
		must(t, err)
		return p
	}
	if p := inUse(); p.Revision != 3 || p.Source != "file" {
		t.Errorf("at the start: %+v", p)
	}
	if _, err := h.admin.SetPolicy(t.Context(), h.document(4, "")); status(err) != 409 || !strings.Contains(err.Error(), "policyFile") {
		t.Errorf("set beside a file: %v", err)
	}
	must(t, os.WriteFile(file, []byte("no policy"), 0o600))
	eventually(t, "the broken file is told of", func() bool { return inUse().Fault != "" })
	if p := inUse(); p.Revision != 3 {
		t.Errorf("a broken file: %+v", p)
	}
	must(t, os.WriteFile(file, []byte(h.document(4, "")), 0o600))
	eventually(t, "the new file is in use", func() bool { p := inUse(); return p.Revision == 4 && p.Fault == "" })
	must(t, os.WriteFile(file, []byte(h.document(2, "")), 0o600))
	eventually(t, "a revision that is no greater is told of", func() bool { return strings.Contains(inUse().Fault, "revision 4 is in use") })

	told := inUse().Fault
	cfg := h.hub.cfg
	h.stop()
	if fault := "policyFile: revision 4 is in use"; !strings.HasPrefix(told, fault) {
		t.Errorf("told %q, want %q", told, fault)
	}
	if err := cfg.CheckPolicyFile(); err != nil {
		t.Errorf("a right file: %v", err)
	}
	must(t, os.WriteFile(file, []byte("no policy"), 0o600))
	if err := cfg.CheckPolicyFile(); err == nil || !strings.Contains(err.Error(), file+":1:") {
		t.Errorf("a faulty file: %v", err)
	}
	missing := Config{PolicyFile: file + ".none"}
	if err := missing.CheckPolicyFile(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := New(t.Context(), cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "policyFile") {
		t.Errorf("a start with a broken file: %v", err)
	}
	must(t, os.WriteFile(file, []byte(h.document(4, "")), 0o600))
	h.start(cfg)

	// A hub that was told through its API, and is given a file: that one is not
	// passed over for its revision.
	cfg.PolicyFile = ""
	h.stop()
	h.start(cfg)
	_, err = h.admin.SetPolicy(t.Context(), h.document(50, ""))
	must(t, err)
	h.stop()
	cfg.PolicyFile = file
	if _, err := New(t.Context(), cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "revision 50 is in use") || !strings.Contains(err.Error(), "API") {
		t.Errorf("a start with a file of a revision that is passed: %v", err)
	}
	must(t, os.WriteFile(file, []byte(h.document(51, "")), 0o600))
	h.start(cfg)
	if p := inUse(); p.Revision != 51 || p.Source != "file" {
		t.Errorf("with the file's next revision: %+v", p)
	}
}

func TestVulnerabilityPolicy(t *testing.T) {
	metatest.Each(t, func(t *testing.T, driver string) {
		h := newHouse(t, driver, nil)
		image := runnable(t, "well")
		must(t, image.Push(t.Context(), h.upstream, "library/app", "1"))
		_, err := h.admin.SetPolicy(t.Context(), h.document(1, ""))
		must(t, err)
		const path = "/v2/library/app/manifests/1?ns=docker.io"

		// The first pull finds it unscanned: never allowed, not even once.
		first := h.ask("HEAD", path)
		if first.StatusCode != 200 || first.Header.Get("Docker-Content-Digest") != "" {
			t.Errorf("containerd's first HEAD: %d %v", first.StatusCode, first.Header)
		}
		if a := h.ask("GET", "/v2/docker.io/library/app/manifests/1"); a.StatusCode != 503 && a.StatusCode != 200 {
			t.Errorf("another client: %d %s", a.StatusCode, a.body)
		}
		eventually(t, "it is scanned, and clean", func() bool { return h.ask("HEAD", path).Header.Get("Docker-Content-Digest") != "" })

		// A database with a new advisory: refused without a look at the image.
		h.upstream = nil
		h.advisories(matchtest.Requests, matchtest.Libidn2)
		must(t, updated(h))
		eventually(t, "it is refused", func() bool { return h.ask("HEAD", path).Header.Get("Docker-Content-Digest") == "" })
		a := h.ask("GET", path)
		if a.StatusCode != 403 || !strings.Contains(a.body, "CVE-2019-18224 CRITICAL in libidn2-0 2.0.5-1, fixed in 2.0.5-1+deb10u1") {
			t.Fatalf("the refusal: %d %s", a.StatusCode, a.body)
		}
		if b := h.ask("GET", "/v2/library/app/blobs/"+oci.FromBytes([]byte(a.body)).String()+"?ns=docker.io"); b.StatusCode != 403 || b.body != a.body {
			t.Errorf("asked for by its own digest: %d %s", b.StatusCode, b.body)
		}
		if b := h.ask("GET", "/v2/library/app/blobs/"+oci.FromBytes(image.Blobs[1]).String()+"?ns=docker.io"); b.StatusCode != 403 {
			t.Errorf("its layer: %d", b.StatusCode)
		}

		reports, err := h.admin.Scan(t.Context(), "app:1")
		must(t, err)
		if len(reports.Reports) != 1 || reports.Reports[0].State != policy.ScanDone || reports.Reports[0].Counts.Critical != 1 || reports.Reports[0].Findings[0].Fixed != "2.0.5-1+deb10u1" {
			t.Errorf("reports: %+v", reports)
		}
		h.node(image.Digest)

		// An exception, tried out first.
		exception := "exceptions: [{id: EX-1, policy: clean, rule: cve, images: [docker.io/library/app], cves: [CVE-2019-18224], reason: x, owner: y, expires: " +
			time.Now().Add(time.Hour).UTC().Format(time.RFC3339) + "}]"
		try, err := h.admin.DryRunPolicy(t.Context(), h.document(2, ""), 0)
		must(t, err)
		if try.Images != 1 || len(try.Results) != 1 || try.Results[0].Outcome != policy.Deny || try.Results[0].Now != policy.Deny || try.Results[0].Nodes[0] != "n1" {
			t.Errorf("dry run of the same: %+v", try)
		}
		if try, err = h.admin.DryRunPolicy(t.Context(), h.document(2, exception), 1); err != nil || len(try.Results) != 0 || len(try.Changes) == 0 {
			t.Errorf("dry run with the exception: %+v %v", try, err)
		}
		if a := h.ask("GET", path); a.StatusCode != 403 {
			t.Errorf("after a dry run: %d", a.StatusCode)
		}
		_, err = h.admin.SetPolicy(t.Context(), h.document(2, exception))
		must(t, err)
		if a := h.ask("GET", path); a.StatusCode != 200 {
			t.Errorf("with the exception: %d %s", a.StatusCode, a.body)
		}
		st, err := h.admin.ScanState(t.Context())
		if err != nil || !st.Enabled || st.Program == "" || st.Database == nil || st.Inventories != 1 || st.Jobs["done"] != 1 {
			t.Errorf("state: %+v %v", st, err)
		}
	})
}

// node asks what a node does.
func (h *house) node(image oci.Digest) {
	h.t.Helper()
	t, ctx := h.t, h.t.Context()
	node := hubapi.NewClient(h.base, "", "", http.DefaultTransport)
	pems, err := node.NodeKeys(ctx)
	must(t, err)
	keys, err := verify.ParseKeys(pems)
	must(t, err)
	said, err := node.NodeScan(ctx, hubapi.NodeScanRequest{Image: "docker.io/library/app", Digest: image, WaitMS: 1000})
	must(t, err)
	if len(said.Scans) != 1 || said.Scans[0].State != policy.ScanDone {
		t.Fatalf("scans for a node: %+v", said)
	}
	st, err := verify.OpenStatement(said.Scans[0].Statement, keys, policy.ScanStatementType, image)
	must(t, err)
	var word policy.ScanStatement
	must(t, json.Unmarshal(st.Predicate, &word))
	if word.Scan.Digest != image || len(word.Scan.Vulns) != 1 || time.Until(word.Until) < time.Hour {
		t.Errorf("the hub's word: %+v", word)
	}
	if _, err := node.NodeScan(ctx, hubapi.NodeScanRequest{Image: "hub.test:8080/private/app", Digest: image}); status(err) != 404 {
		t.Errorf("scans of what may not be seen: %v", err)
	}
	d := policy.Decision{ID: "d-0123456789ab", Subject: policy.Subject{Name: "docker.io/library/app", Digest: image}, At: policy.Pull, Outcome: policy.Deny, Would: policy.Deny, Time: time.Now()}
	must(t, node.NodeDecisions(ctx, hubapi.NodeDecisions{Node: "n1", Decisions: []policy.Decision{d, {ID: "nonsense"}}}))
	eventually(t, "a node's decision is there", func() bool {
		all, err := h.admin.Decision(ctx, d.ID)
		return err == nil && len(all.Decisions) == 1 && all.Decisions[0].Node == "n1"
	})
	if j, err := h.admin.Judge(ctx, "app", "n1"); err != nil || j.Decision.ID != d.ID {
		t.Errorf("what n1 has decided: %+v %v", j, err)
	}
	name := "n1"
	if all, err := h.admin.Decisions(ctx, hubapi.DecisionQuery{Node: &name}); err != nil || len(all.Decisions) != 1 {
		t.Errorf("decisions of n1: %+v %v", all, err)
	}
	hub := ""
	if all, err := h.admin.Decisions(ctx, hubapi.DecisionQuery{Image: "app", Node: &hub, Limit: 10}); err != nil || len(all.Decisions) == 0 {
		t.Errorf("the hub's: %+v %v", all, err)
	}
}

// updated has the hub look at its database file now.
func updated(h *house) error {
	_, err := h.hub.scanning.database.Update(h.t.Context(), false)
	return err
}

func TestNames(t *testing.T) {
	n, err := newNames("https://hub.test", "127.0.0.1:80", []upstream{{cfg: Proxy{Registry: "docker.io", Path: "docker.io"}}, {cfg: Proxy{Registry: "reg.test:5000", Path: "reg"}}})
	must(t, err)
	for repo, want := range map[string]string{
		"docker.io/library/nginx": "docker.io/library/nginx", "reg/a/b": "reg.test:5000/a/b", "team/app": "hub.test/team/app",
	} {
		s, err := n.subject(repo, oci.Tagged("1"))
		if err != nil || s.Name != want || s.Tag != "1" {
			t.Errorf("%s is %+v (%v), want %s", repo, s, err, want)
		}
		if back, ok := n.repo(s.Name); !ok || back != repo {
			t.Errorf("%s is at %q, want %s", s.Name, back, repo)
		}
	}
	if repo, ok := n.repo("quay.io/x/y"); ok {
		t.Errorf("an image of a registry that is not proxied is at %q", repo)
	}
}
