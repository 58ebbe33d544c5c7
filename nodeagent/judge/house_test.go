package judge

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

var errAway = errors.New("connection refused")

// fakeHub is a hub with keys, a policy and scans.
type fakeHub struct {
	*verify.Signer
	mu      sync.Mutex
	away    bool
	sealed  []byte // nil: it has no policy
	etag    int
	scans   func(hubapi.NodeScanRequest) []hubapi.NodeScan
	asked   []hubapi.NodeScanRequest
	told    []policy.Decision
	answers int // of NodePolicy
}

func newSigner(t testing.TB) *verify.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := verify.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (h *fakeHub) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

func (h *fakeHub) NodePolicy(_ context.Context, etag string) ([]byte, string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := strconv.Itoa(h.etag)
	switch {
	case h.away:
		return nil, "", errAway
	case h.sealed == nil:
		return nil, "", &hubapi.Error{Status: http.StatusNotFound, Detail: "no policy"}
	}
	h.answers++
	if etag == now {
		return nil, etag, nil
	}
	return h.sealed, now, nil
}

func (h *fakeHub) NodeScan(_ context.Context, q hubapi.NodeScanRequest) (s hubapi.NodeScans, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = append(h.asked, q)
	if h.away {
		return s, errAway
	}
	if h.scans != nil {
		s.Scans = h.scans(q)
	}
	return s, nil
}

func (h *fakeHub) NodeDecisions(_ context.Context, d hubapi.NodeDecisions) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away {
		return errAway
	}
	h.told = append(h.told, d.Decisions...)
	return nil
}

// house is a node with its hub.
type house struct {
	testing.TB
	hub *fakeHub
	now time.Time
	o   Options
	reg *ocitest.Memory
	// metrics of the judge opened last
	metrics *prometheus.Registry
}

const repo = "docker.io/team/app"

func newHouse(t testing.TB) *house {
	h := &house{TB: t, hub: &fakeHub{Signer: newSigner(t)}, now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), reg: ocitest.NewMemory()}
	dir := t.TempDir()
	h.o = Options{Dir: filepath.Join(dir, "policy"), Node: "n1", KeysFile: filepath.Join(dir, "hub.pem"), Hub: h.hub, Images: h.reg, Now: func() time.Time { return h.now }}
	h.keys(h.hub.PublicKeyPEM())
	return h
}

func (h *house) keys(pems ...string) {
	h.Helper()
	var text string
	for _, p := range pems {
		text += p + "\n"
	}
	if err := os.WriteFile(h.o.KeysFile, []byte(text), 0o600); err != nil {
		h.Fatal(err)
	}
}

// seal makes a document the hub's policy.
func (h *house) seal(epoch uint64, document string) {
	h.Helper()
	b, err := policy.Load("policy.yaml", []byte(document))
	if err != nil {
		h.Fatal(err)
	}
	sealed, err := h.hub.SealPolicy(verify.SealedPolicy{Epoch: epoch, IssuedAt: h.now, Document: string(b.JSON())})
	if err != nil {
		h.Fatal(err)
	}
	h.hub.set(func() { h.hub.sealed = sealed; h.hub.etag++ })
}

// open starts the node, without its background work.
func (h *house) open() *Judge {
	h.Helper()
	h.metrics = prometheus.NewRegistry()
	h.o.Metrics = h.metrics
	j, err := New(h.o)
	if err != nil {
		h.Fatal(err)
	}
	j.machine = machineOf(ocispec.Platform{OS: "linux", Architecture: "amd64"})
	h.Cleanup(func() { j.Close() })
	return j
}

// started is open, and asked the hub once.
func (h *house) started() *Judge {
	h.Helper()
	j := h.open()
	if err := j.Refresh(h.Context()); err != nil {
		h.Fatal(err)
	}
	return j
}

func (h *house) metric(name string) float64 {
	h.Helper()
	all, err := h.metrics.Gather()
	if err != nil {
		h.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	h.Fatalf("no metric %s", name)
	return 0
}

// decide asks about an image through a gate, as the agent does.
func (h *house) decide(j *Judge, d oci.Digest) policy.Decision {
	h.Helper()
	g := enforce.New(h.reg, j, enforce.Options{Gated: j.Gated, Decided: j.Decided, Now: j.o.Now, Subject: func(repo string, ref oci.Reference) (policy.Subject, error) {
		registry, name, err := oci.SplitUpstream(repo)
		if err != nil {
			return policy.Subject{}, err
		}
		return policy.NewSubject(registry, name, ref)
	}})
	got, err := g.Decide(h.Context(), repo, oci.Digested(d))
	if err != nil {
		h.Fatal(err)
	}
	return got
}

func (h *house) push(tree ocitest.Tree) oci.Descriptor {
	h.Helper()
	if err := tree.Push(h.Context(), h.reg, repo, ""); err != nil {
		h.Fatal(err)
	}
	return tree.Descriptor
}

// sign puts a signature of s beside an image.
func (h *house) sign(s *verify.Signer, image oci.Descriptor) {
	h.Helper()
	const sign = "https://sigstore.dev/cosign/sign/v1"
	b, err := s.Sign(verify.Statement{PredicateType: sign, Subjects: []verify.StatementSubject{{Digest: image.Digest}}, Predicate: json.RawMessage("{}")})
	if err == nil {
		_, err = verify.Attach(h.Context(), h.reg, repo, image, b, sign, h.now)
	}
	if err != nil {
		h.Fatal(err)
	}
}

// scanned is the hub's word on a manifest.
func (h *house) scanned(by *verify.Signer, d oci.Digest, until time.Time, scan policy.Scan) json.RawMessage {
	h.Helper()
	scan.Digest = d
	predicate, err := json.Marshal(policy.ScanStatement{Scan: scan, Until: until})
	if err != nil {
		h.Fatal(err)
	}
	b, err := by.Sign(verify.Statement{PredicateType: policy.ScanStatementType, Subjects: []verify.StatementSubject{{Digest: d}}, Predicate: predicate})
	if err != nil {
		h.Fatal(err)
	}
	return b
}

// Documents.
const (
	denyAll = `{apiVersion: breakwater.dev/v1alpha1, kind: PolicyBundle, revision: 1, default: deny}`

	allowAll = `{apiVersion: breakwater.dev/v1alpha1, kind: PolicyBundle, revision: 2, default: allow}`

	noCriticals = `
apiVersion: breakwater.dev/v1alpha1
kind: PolicyBundle
revision: 3
default: allow
platforms: [linux/amd64]
policies:
- name: no-criticals
  mode: enforce
  match: {images: ["**"]}
  rules:
  - name: cve
    vulnerabilities: {block: CRITICAL, unknownAs: MEDIUM, unscanned: {wait: 10s, then: deny}, unscannable: allow}
`
)

func wantOutcome(t testing.TB, d policy.Decision, want policy.Outcome) {
	t.Helper()
	if d.Outcome != want {
		t.Fatalf("%s, want %s: %s", d.Outcome, want, d.Explain())
	}
}
