package main

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
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub"
	"github.com/breakwater-oci/breakwater/nodeagent"
	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

// estate is a hub and a node as `up` joins them, before a registry docker.io.
type estate struct {
	testing.TB
	images    *ocitest.Memory
	hub, node string // URLs
	status    string
	stopHub   func()
}

func newEstate(t *testing.T) *estate {
	t.Helper()
	e := &estate{TB: t, images: ocitest.NewMemory()}
	upstream := httptest.NewServer(ociserver.New(e.images, ociserver.Options{}))
	t.Cleanup(upstream.Close)
	dir, err := os.MkdirTemp("", "bw") //nolint:usetesting // its names are long, and a socket's path has 108 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("BREAKWATER_HUB", "")
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte(rootPassword), 0o600); err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	hc := hub.DefaultConfig(dir)
	hc.Listen, hc.Metrics.Listen, hc.Auth.Admin.PasswordFile = "127.0.0.1:0", "127.0.0.1:0", filepath.Join(dir, "password")
	hc.Proxies = []hub.Proxy{{Registry: oci.DockerHub, URL: upstream.URL, Public: true}}
	h, err := hub.New(t.Context(), hc, quiet)
	if err != nil {
		t.Fatal(err)
	}
	e.hub = "http://" + h.Addr()
	nc := nodeagent.DefaultConfig()
	nc.Hub.URL, nc.Listen, nc.Status.Listen, nc.NodeName = e.hub, "127.0.0.1:0", "127.0.0.1:0", "worker-1"
	nc.StateDir, nc.Cache.Dir, nc.Cache.MinFreeBytes = filepath.Join(dir, "node"), filepath.Join(dir, "node", "cache"), 1
	nc.Containerd.Manage, nc.Upstreams = false, map[string]nodeagent.Upstream{oci.DockerHub: {URL: upstream.URL}}
	nc.Policy.KeysFile, nc.Policy.Every = filepath.Join(nc.StateDir, "hub-keys.pem"), config.Duration(time.Second)
	if err := writeKeys(h, nc.Policy.KeysFile); err != nil {
		t.Fatal(err)
	}
	n, err := nodeagent.New(t.Context(), nc, quiet)
	if err != nil {
		t.Fatal(err)
	}
	e.node, e.status = "http://"+n.Addr(), "http://"+n.StatusAddr()
	run := func(f func(context.Context) error) (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- f(ctx) }()
		stopped := false
		stop = func() {
			if stopped {
				return
			}
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		t.Cleanup(stop)
		return stop
	}
	e.stopHub = run(h.Run)
	run(n.Run)
	if out, err := command(rootPassword+"\n", "login", h.Addr(), "-u", "admin", "--password-stdin"); err != nil {
		t.Fatal(out, err)
	}
	return e
}

func (e *estate) push(seed uint64, repo string) oci.Descriptor {
	e.Helper()
	tree := ocitest.Image(seed, 1, 1000)
	if err := tree.Push(e.Context(), e.images, repo, "1"); err != nil {
		e.Fatal(err)
	}
	return tree.Descriptor
}

// get gets a manifest, and of a refusal the decision.
func (e *estate) get(url string) (status int, d policy.Decision, message string) {
	e.Helper()
	res, err := http.Get(url)
	if err != nil {
		e.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		e.Fatal(err)
	}
	var body struct {
		Errors []struct {
			Message string          `json:"message"`
			Detail  policy.Decision `json:"detail"`
		} `json:"errors"`
	}
	if res.StatusCode != http.StatusOK && json.Unmarshal(text, &body) == nil && len(body.Errors) > 0 {
		d, message = body.Errors[0].Detail, body.Errors[0].Message
	}
	return res.StatusCode, d, message
}

func (e *estate) eventually(what string, ok func() bool) {
	e.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			e.Fatal("never: " + what)
		}
	}
}

func (e *estate) state() (s hubapi.NodePolicyState) {
	e.Helper()
	if err := askNode(e.Context(), e.status, "/policy", &s); err != nil {
		e.Fatal(err)
	}
	return s
}

// One policy, set once: hub and node decide the same, with the same words, and
// either can explain what the other refused.
func TestHubAndNodeJudgeTheSame(t *testing.T) {
	e := newEstate(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := verify.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	good := e.push(1, "team/good")
	e.push(2, "team/bad")
	const sign = "https://sigstore.dev/cosign/sign/v1"
	b, err := signer.Sign(verify.Statement{PredicateType: sign, Subjects: []verify.StatementSubject{{Digest: good.Digest}}, Predicate: json.RawMessage("{}")})
	if err == nil {
		_, err = verify.Attach(t.Context(), e.images, "team/good", good, b, sign, time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}

	// Before there is one, everything is pulled.
	for _, url := range []string{e.node + "/v2/team/bad/manifests/1?ns=docker.io", e.hub + "/v2/docker.io/team/bad/manifests/1"} {
		if status, _, message := e.get(url); status != 200 {
			t.Fatalf("%s: %d %s", url, status, message)
		}
	}
	if out, err := command("", "status", "--node", e.status); err != nil || !strings.Contains(out, "none yet, so allow all") {
		t.Errorf("%v\n%s", err, out)
	}

	file := policyFile(t, fmt.Sprintf(`
apiVersion: breakwater.dev/v1alpha1
kind: PolicyBundle
revision: 3
default: allow
authorities:
- {name: release, key: {pem: %q}}
policies:
- name: prod-signed
  mode: enforce
  match: {images: ["docker.io/team/**"]}
  rules:
  - {name: signed-by-us, signature: {anyOf: [release]}}
`, signer.PublicKeyPEM()))
	expected{[]string{"policy", "dry-run", file}, false, "revision 3: "}.check(t)
	expected{[]string{"policy", "set", file}, false, "revision 3 is in use"}.check(t)
	e.eventually("the node takes the policy", func() bool { return e.state().Revision == 3 })
	if out, err := command("", "status", "--node", e.status); err != nil || !strings.Contains(out, "revision 3 from the hub, confirmed") {
		t.Errorf("%v\n%s", err, out)
	}

	var ids, messages []string
	for _, url := range []string{
		e.node + "/v2/team/bad/manifests/1?ns=docker.io", // a node's containerd
		e.hub + "/v2/team/bad/manifests/1?ns=docker.io",  // containerd's second host
		e.hub + "/v2/docker.io/team/bad/manifests/1",     // any other client
	} {
		status, d, message := e.get(url)
		if status != 403 || d.ID == "" {
			t.Fatalf("%s: %d %s", url, status, message)
		}
		ids, messages = append(ids, d.ID), append(messages, message)
	}
	if ids[0] != ids[1] || ids[1] != ids[2] || messages[0] != messages[1] || messages[1] != messages[2] {
		t.Errorf("decided %v with\n%s", ids, strings.Join(messages, "\n"))
	}
	for _, url := range []string{e.node + "/v2/team/good/manifests/1?ns=docker.io", e.hub + "/v2/docker.io/team/good/manifests/1"} {
		if status, _, message := e.get(url); status != 200 {
			t.Errorf("%s: %d %s", url, status, message)
		}
	}
	expected{[]string{"policy", "explain", ids[0]}, false, ids[0] + "  DENY"}.check(t)
	expected{[]string{"policy", "explain", "team/bad:1"}, false, ids[0] + "  DENY"}.check(t)
	expected{[]string{"policy", "explain", "team/good:1"}, false, "ALLOW"}.check(t)
	expected{[]string{"policy", "explain", ids[0], "--node", e.status}, false, ids[0] + "  DENY"}.check(t)

	// With the hub away the node goes on by itself.
	e.push(3, "team/late")
	e.stopHub()
	for repo, want := range map[string]int{"bad": 403, "late": 403, "good": 200} {
		if status, _, message := e.get(e.node + "/v2/team/" + repo + "/manifests/1?ns=docker.io"); status != want {
			t.Errorf("the hub away, %s: %d %s", repo, status, message)
		}
	}
	if out, err := command("", "policy", "explain", ids[0], "--node", e.status); err != nil || !strings.Contains(out, "DENY") {
		t.Errorf("%v\n%s", err, out)
	}
}

// The hub hears of what nodes decide from their own caches.
func TestHubHearsOfNodes(t *testing.T) {
	e := newEstate(t)
	e.push(1, "team/bad")
	if status, _, message := e.get(e.node + "/v2/team/bad/manifests/1?ns=docker.io"); status != 200 { // into the node's cache
		t.Fatal(status, message)
	}
	expected{[]string{"policy", "set", policyFile(t, "{apiVersion: breakwater.dev/v1alpha1, kind: PolicyBundle, revision: 1, default: deny}")}, false, "revision 1"}.check(t)
	e.eventually("the node takes the policy", func() bool { return e.state().Revision == 1 })
	_, d, _ := e.get(e.node + "/v2/team/bad/manifests/1?ns=docker.io")
	if d.ID == "" {
		t.Fatal("not refused")
	}
	e.eventually("the hub hears of it", func() bool {
		out, err := command("", "policy", "explain", d.ID, "--node", "worker-1")
		return err == nil && strings.Contains(out, "by node worker-1")
	})
	expected{[]string{"policy", "decisions", "--node", "worker-1"}, false, d.ID}.check(t)
	expected{[]string{"policy", "explain", "docker.io/team/bad", "--node", "worker-1"}, false, d.ID}.check(t)
}
