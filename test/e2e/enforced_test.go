package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// judgedHouse is a house whose hub has a policy and whose node judges by it. change may change the node's
// configuration; before runs when containerd does, and the node does not yet.
func judgedHouse(t *testing.T, version, policyFile string, change rig.Keys, before func(*house)) *house {
	t.Helper()
	h := &house{t: t, registry: rig.Distribution(t)}
	h.upstream = rig.FaultProxy(t, h.registry.URL)
	h.hub = rig.StartHub(t, rig.HubOptions{
		Proxies: []rig.Proxy{{Registry: oci.DockerHub, URL: h.upstream.URL, FreshFor: "1s"}},
		Keys:    rig.Keys{"policyFile": policyFile, "scan.enabled": false},
	})
	h.door = rig.FaultProxy(t, h.hub.URL)
	h.ctd = rig.StartContainerd(t, rig.ContainerdOptions{Version: version})
	if before != nil {
		before(h)
	}
	a := ask(t, "GET", h.hub.URL+"/node/v1/keys")
	keysFile := filepath.Join(t.TempDir(), "hub-keys.pem")
	if err := os.WriteFile(keysFile, a.body, 0o600); err != nil || a.status != http.StatusOK {
		t.Fatalf("the hub's keys: %v, %v", a, err)
	}
	keys := rig.Keys{"hub.mirrorURL": h.door.URL, "policy.keysFile": keysFile, "policy.every": "1s"}
	for k, v := range change {
		keys[k] = v
	}
	h.node = rig.StartNode(t, rig.NodeOptions{
		HubURL: h.door.URL, Containerd: h.ctd, Upstreams: map[string]string{oci.DockerHub: h.upstream.URL}, Keys: keys,
	})
	h.judges(func(s policyState) bool { return s.Held })
	return h
}

// policyState is the part of what a node says of its policy that the tests look at.
type policyState struct {
	Held, Stale bool
	Revision    int
	Error       string
}

// judges waits until the node's policy is as it is wanted.
func (h *house) judges(want func(policyState) bool) {
	h.t.Helper()
	rig.Eventually(h.t, 30*time.Second, func() error {
		var s policyState
		a := ask(h.t, "GET", h.node.StatusURL+"/policy")
		if err := json.Unmarshal(a.body, &s); err != nil || !want(s) {
			return fmt.Errorf("the node judges by %+v (%v)", s, a)
		}
		return nil
	})
}

// refused pulls what must be refused, with a reason that has these parts.
func (h *house) refused(ref string, parts ...string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	_, err := h.ctd.Pull(ctx, ref)
	if err == nil {
		h.t.Fatalf("%s was pulled", ref)
	}
	h.t.Logf("%s: %v", ref, err)
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			h.t.Errorf("%s: the reason does not say %q: %v", ref, part, err)
		}
	}
}

// notAsked fails the test if containerd has been at the registry itself.
func (h *house) notAsked(when string) {
	h.t.Helper()
	if n := asked(h.upstream, byContainerd, "", ""); n != 0 {
		h.t.Errorf("%s: containerd has asked the registry itself %d times:%s", when, n, lines(h.upstream))
	}
}

// denied counts the answers by which containerd was refused.
func denied(f *rig.Front) (n int) {
	for _, r := range f.Requests() {
		if strings.HasPrefix(r.Header.Get("User-Agent"), byContainerd) && r.Status == http.StatusForbidden {
			n++
		}
	}
	return n
}

// finding is what doctor says of one thing.
func (h *house) finding(program, name string) (ok bool, text string) {
	h.t.Helper()
	out, _ := try(h.t, nil, program, "doctor", "--json", "--config", h.node.ConfigFile) // other things are wrong here
	var all []struct {
		Name, Text string
		OK         bool
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		h.t.Fatalf("doctor: %v: %s", err, out)
	}
	for _, f := range all {
		if f.Name == name {
			return f.OK, f.Text
		}
	}
	h.t.Fatalf("doctor says nothing of %s: %s", name, out)
	return false, ""
}

// In enforced mode nothing gets by the policy, whoever is away: without the agent the hub refuses, without both nothing
// is pulled; and in the end the person's own hosts are there again.
func TestEnforcedMode(t *testing.T) {
	for _, version := range []string{rig.Containerd24, rig.Containerd17} {
		t.Run(version, func(t *testing.T) {
			s := newSigning(t)
			var before map[string]string
			// What would undo each refusal: a mirror of the person's, and the registry.
			theirs := func(h *house) {
				t.Helper()
				h.ctd.Hosts(oci.DockerHub, fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", h.upstream.URL, h.upstream.URL+"/"))
				at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
				if err := os.Chtimes(filepath.Join(h.ctd.CertsDir, oci.DockerHub, "hosts.toml"), at, at); err != nil {
					t.Fatal(err)
				}
			}
			h := judgedHouse(t, version, policyWith(t, s.key("release")), rig.Keys{"mirrors.mode": "enforced", "mirrors.all": true}, func(h *house) {
				theirs(h)
				before = tree(t, h.ctd.CertsDir)
			})
			program := rig.Build(t, "breakwater-node")
			host := strings.TrimPrefix(h.registry.URL, "http://")
			signed := func(name string) (ref, digest string) {
				t.Helper()
				ref, digest = h.fresh(name)
				s.sign("bundle", "release", host+"/library/"+name+"@"+digest)
				return ref, digest
			}
			const why = "no valid signature"
			byDigest := func(ref, digest string) string { return strings.TrimSuffix(ref, ":1") + "@" + digest }

			ref, digest := signed("prod-one")
			h.pulled(ref, digest)
			ref, digest = h.fresh("prod-two")
			h.refused(ref, `policy "prod-signed" rule "signed-by-us"`, why)
			h.refused(byDigest(ref, digest))
			h.notAsked("all up")
			ok, text := h.finding(program, "mirrors.mode")
			if !ok || !strings.Contains(text, "enforced: for every registry") || !strings.Contains(text, "says so too") {
				t.Errorf("doctor: %v %s", ok, text)
			}

			// The agent away: the hub refuses, and gives what is allowed.
			h.node.Kill9()
			h.resetLogs()
			ref, digest = h.fresh("prod-three")
			if version == rig.Containerd17 {
				h.refused(ref) // the error that it shows is the first host's: the agent's port is closed
			} else {
				h.refused(ref, `policy "prod-signed" rule "signed-by-us"`, why)
			}
			if n := denied(h.door); n == 0 {
				t.Errorf("the hub has not refused:%s", lines(h.door))
			}
			h.refused(byDigest(ref, digest))
			ref, digest = signed("prod-four")
			h.pulled(ref, digest)
			other, otherDigest := h.fresh("other")
			h.pulled(other, otherDigest)
			if n := asked(h.door, byContainerd, "", "/manifests/"); n == 0 {
				t.Errorf("without the agent the hub was not asked:%s", lines(h.door))
			}
			h.notAsked("without the agent")

			// Both away: nothing.
			h.hub.Kill9()
			ref, _ = signed("prod-five")
			h.refused(ref)
			ref, _ = h.fresh("other-two")
			h.refused(ref)
			h.notAsked("without agent and hub")

			// The hub away: the agent judges, and asks the registry itself.
			h.node.Start()
			h.node.WaitReady()
			ref, digest = signed("prod-six")
			h.pulled(ref, digest)
			ref, digest = h.fresh("prod-seven")
			h.refused(ref, why)
			h.notAsked("without the hub")

			// Somebody has written hosts.toml anew: doctor says so, and it is repaired.
			h.ctd.Hosts(oci.DockerHub, fmt.Sprintf("server = %q\n", h.upstream.URL))
			if ok, text := h.finding(program, "mirrors.mode"); ok || !strings.Contains(text, "does not say so") {
				t.Errorf("doctor, of a hosts.toml that goes past the policy: %v %s", ok, text)
			}
			run(t, nil, program, "install", "--config", h.node.ConfigFile)
			h.refused(ref, why)
			h.notAsked("repaired")

			theirs(h) // or that edit would be what uninstall leaves
			run(t, nil, program, "install", "--config", h.node.ConfigFile)
			if out, err := try(t, nil, program, "uninstall", "--config", h.node.ConfigFile); err == nil || !strings.Contains(err.Error(), "the agent still runs") {
				t.Errorf("uninstall beside a running agent: %v %s", err, out)
			}
			if err := h.node.Stop(); err != nil {
				t.Error(err)
			}
			t.Logf("uninstall --dry-run:\n%s", run(t, nil, program, "uninstall", "--dry-run", "--config", h.node.ConfigFile))
			t.Logf("uninstall:\n%s", run(t, nil, program, "uninstall", "--config", h.node.ConfigFile))
			if diff := cmp.Diff(before, tree(t, h.ctd.CertsDir)); diff != "" {
				t.Errorf("uninstall left a trace:\n%s", diff)
			}
			if left, err := os.ReadDir(h.node.Dir); err != nil || len(left) > 0 {
				t.Errorf("uninstall left in the agent's folder: %v %v", left, err)
			}
			h.pulled(ref, digest) // as if nothing had been
		})
	}
}
