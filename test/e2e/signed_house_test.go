package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
	"github.com/breakwater-oci/breakwater/test/need"
)

// signedCase is an image, how it was signed, and what becomes of those who pull it.
type signedCase struct {
	name    string
	index   bool // of two platforms, else one image
	deeds   []deed
	refused string // words of the refusal; "" when it may be pulled
	audit   string // words of what audit mode would say
	ungated bool   // no policy is about it

	ref     string // of pulls: ":1" when empty
	digest  string // once it is prepared
	message string // the whole refusal, once the hub was asked
	id      string // of the decision, likewise
}

func (c *signedCase) at() string {
	if c.ref == "" {
		return ":1"
	}
	return c.ref
}

// signedHouse is a hub with a policy, and two nodes that have it from there.
type signedHouse struct {
	*signers
	registry    *rig.Registry
	upstream    *rig.Front // docker.io, before registry
	hub         *rig.Hub
	door        *rig.Front // before hub, for the nodes
	new, old    *signedNode
	decisionLog string
	crane       string
	cases       []signedCase
}

// signedNode is a node of it, with the latest containerd or an old one.
type signedNode struct {
	*house
	of *signedHouse
}

func newSignedHouse(t *testing.T) *signedHouse {
	t.Helper()
	s := &signedHouse{signers: newSigners(t), crane: need.Program(t, "crane"), cases: slices.Clone(signedCases), registry: rig.Distribution(t)}
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file("acme.json", s.trustedRoot(false))
	s.decisionLog = filepath.Join(dir, "decisions.jsonl")
	s.upstream = rig.FaultProxy(t, s.registry.URL)
	s.hub = rig.StartHub(t, rig.HubOptions{
		Proxies: []rig.Proxy{{Registry: oci.DockerHub, URL: s.upstream.URL, FreshFor: "1s"}},
		Keys:    rig.Keys{"policyFile": file("policy.yaml", signedPolicy(s.signers)), "decisionLog": s.decisionLog, "scan.enabled": false},
	})
	s.door = rig.FaultProxy(t, s.hub.URL)
	keys := ask(t, "GET", s.hub.URL+"/node/v1/keys")
	if keys.status != http.StatusOK {
		t.Fatalf("the hub's keys: %v", keys)
	}
	keysFile := file("hub-keys.pem", string(keys.body))
	node := func(version string) *signedNode {
		h := &house{t: t, registry: s.registry, upstream: s.upstream, hub: s.hub, door: s.door, ctd: rig.StartContainerd(t, rig.ContainerdOptions{Version: version})}
		h.node = rig.StartNode(t, rig.NodeOptions{
			HubURL: s.door.URL, Containerd: h.ctd, Upstreams: map[string]string{oci.DockerHub: s.upstream.URL},
			Keys: rig.Keys{"hub.mirrorURL": s.door.URL, "policy.keysFile": keysFile, "policy.bootstrap": "deny"},
		})
		n := &signedNode{h, s}
		n.held(t)
		return n
	}
	s.new, s.old = node(rig.Containerd24), node(rig.Containerd17)
	return s
}

// held waits until the node has the hub's policy.
func (n *signedNode) held(t *testing.T) {
	t.Helper()
	rig.Eventually(t, 10*time.Second, func() error {
		var state struct{ Revision int }
		a := ask(t, "GET", n.node.StatusURL+"/policy")
		if json.Unmarshal(a.body, &state) != nil || state.Revision != 7 {
			return fmt.Errorf("the node has no policy: %v", a)
		}
		return nil
	})
}

func (s *signedHouse) byName(name string) *signedCase {
	return &s.cases[slices.IndexFunc(s.cases, func(c signedCase) bool { return c.name == name })]
}

// prepare puts a case's image into docker.io, and has it signed there.
func (s *signedHouse) prepare(t *testing.T, c *signedCase) {
	t.Helper()
	on := map[string]string{}
	if c.index {
		index := twoPlatforms(t, c.name)
		c.digest = rig.Push(t, s.registry.URL, "library/"+c.name+":1", index)
		for _, arch := range []string{"amd64", "arm64"} {
			on[arch] = childFor(t, index, arch)
		}
	} else {
		c.digest = rig.Push(t, s.registry.URL, "library/"+c.name+":1", rig.Random(t, c.name))
	}
	on[""] = c.digest
	for _, d := range c.deeds {
		s.do(inRegistry(t, s.registry, c.name, on[d.on]), d)
	}
}

// manifestTypes are those that a client takes.
const manifestTypes = oci.MediaTypeImage + "," + oci.MediaTypeIndex

// atHub pulls a case's image from the hub, as a client does that is no node, and keeps what it is told.
func (s *signedHouse) atHub(t *testing.T, c *signedCase) {
	t.Helper()
	image := s.hub.Host + "/docker.io/library/" + c.name + c.at()
	a := ask(t, "GET", s.hub.URL+"/v2/docker.io/library/"+c.name+"/manifests/"+c.at()[1:], "Accept", manifestTypes)
	if c.refused == "" {
		if a.status != http.StatusOK || a.digest() != c.digest {
			t.Fatalf("the hub says %v", a)
		}
		run(t, s.env, s.crane, "pull", "--platform=linux/"+arch, image, os.DevNull)
		s.decided(t, c, s.decisions(t, s.hub.URL+"/api/v1/decisions?node=-&image="+url.QueryEscape("docker.io/library/"+c.name), "hub"))
		c.toldOfAudit(t, a)
		return
	}
	e := refusalIn(t, a)
	c.message, c.id = e.Message, e.Detail.ID
	t.Log(c.message)
	policy, _, _ := strings.Cut(c.name, "-")
	for _, words := range []string{
		"breakwater " + c.id + ": ", fmt.Sprintf(`policy %q rule "is-%[1]s": `, policy), c.refused, "docker.io/library/" + c.name, "breakwater policy explain " + c.id,
	} {
		if !strings.Contains(c.message, words) {
			t.Errorf("it says %q, want %q in it", c.message, words)
		}
	}
	if e.Code != "DENIED" || !strings.HasPrefix(c.id, "d-") || len(c.message) >= 400 {
		t.Errorf("code %s, decision %q, %d bytes", e.Code, c.id, len(c.message))
	}
	if _, err := try(t, s.env, s.crane, "manifest", image); err == nil || !strings.Contains(err.Error(), "DENIED: "+c.message) {
		t.Errorf("crane says %v, want %q", err, c.message)
	}
}

// policyRefusal is the error of a registry that refuses by a policy.
type policyRefusal struct {
	Code, Message string
	Detail        struct{ ID string }
}

func refusalIn(t *testing.T, a answer) policyRefusal {
	t.Helper()
	var body struct{ Errors []policyRefusal }
	if a.status != http.StatusForbidden || json.Unmarshal(a.body, &body) != nil || len(body.Errors) != 1 {
		t.Fatalf("the hub says %v", a)
	}
	return body.Errors[0]
}

// robot makes a robot that may do something with team/**, and returns its password.
func (s *signedHouse) robot(t *testing.T, name string, may ...string) string {
	t.Helper()
	spec, err := json.Marshal(map[string]any{"name": name, "rights": []any{map[string]any{"repository": "team/**", "actions": may}}})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.hub.URL+"/api/v1/robots", bytes.NewReader(spec))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.SetBasicAuth("admin", rig.AdminPassword)
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var made struct{ Secret string }
	if err := json.NewDecoder(res.Body).Decode(&made); err != nil || made.Secret == "" {
		t.Fatalf("robot %s: %s, %v", name, res.Status, err)
	}
	return made.Secret
}

// atNode pulls a case's image by the node's containerd. Who was refused by the hub is refused here by the same decision,
// in the same words.
func (n *signedNode) atNode(t *testing.T, c *signedCase) {
	t.Helper()
	n.t = t
	ref := "docker.io/library/" + c.name + c.at()
	_, err := n.pull(ref, c.digest)
	switch {
	case c.refused == "" && err != nil:
		t.Fatal(err)
	case c.refused != "" && err == nil:
		t.Errorf("%s was pulled", ref)
	case c.refused != "" && (c.message == "" || !strings.Contains(err.Error(), c.message)):
		t.Errorf("containerd says %v\nwant in it        %s", err, c.message)
	}
	if err == nil {
		n.forget(ref)
	}
	n.of.decided(t, c, n.of.decisions(t, n.node.StatusURL+"/policy/decisions?image="+url.QueryEscape("docker.io/library/"+c.name), "node"))
	if c.refused == "" {
		c.toldOfAudit(t, ask(t, "GET", n.node.URL+"/v2/library/"+c.name+"/manifests/"+c.at()[1:]+"?ns=docker.io", "Accept", manifestTypes))
	}
}

// forgetAll starts the agent anew with nothing in its cache, but for its policy.
func (n *signedNode) forgetAll(t *testing.T) {
	t.Helper()
	n.node.Stop()
	if err := os.RemoveAll(filepath.Join(n.node.Dir, "cache")); err != nil {
		t.Fatal(err)
	}
	n.node.Start()
	n.node.WaitReady()
	n.held(t)
}

// toldOfAudit checks the header that says what audit mode would do.
func (c *signedCase) toldOfAudit(t *testing.T, a answer) {
	t.Helper()
	want := ""
	if c.audit != "" {
		want = c.id
	}
	if got := a.header.Get("X-Breakwater-Policy"); a.status != http.StatusOK || got != want {
		t.Errorf("X-Breakwater-Policy is %q, want %q: %v", got, want, a)
	}
}

// aDecision is what the tests look at of one.
type aDecision struct {
	ID, Outcome, Would string
	Subject            struct{ Name, Digest string }
}

// loggedDecision is a line of a decision log.
type loggedDecision struct {
	Message  string
	Decision aDecision
}

// decisions are those that a hub or a node lists, the latest first.
func (s *signedHouse) decisions(t *testing.T, from, by string) (all []aDecision) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", from, nil)
	if err != nil {
		t.Fatal(err)
	}
	if by == "hub" {
		req.SetBasicAuth("admin", rig.AdminPassword)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var ofNode struct{ Decisions []aDecision }
	var ofHub struct {
		Decisions []struct{ Decision aDecision }
	}
	if by == "hub" {
		err = json.NewDecoder(res.Body).Decode(&ofHub)
		for _, d := range ofHub.Decisions {
			all = append(all, d.Decision)
		}
	} else {
		err = json.NewDecoder(res.Body).Decode(&ofNode)
		all = ofNode.Decisions
	}
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("decisions: %s, %v", res.Status, err)
	}
	return all
}

// decided checks that the last decision on a case's image is the one that it has, or else has it be that.
func (s *signedHouse) decided(t *testing.T, c *signedCase, all []aDecision) {
	t.Helper()
	i := slices.IndexFunc(all, func(d aDecision) bool { return d.Subject.Digest == c.digest })
	if c.ungated {
		if len(all) > 0 {
			t.Errorf("of what no policy is about there are decisions: %+v", all)
		}
		return
	}
	if i < 0 {
		t.Errorf("there is no decision on %s among %+v", c.digest, all)
		return
	}
	d := all[i]
	if c.id == "" {
		c.id = d.ID
	}
	outcome := map[bool]string{true: "allow", false: "deny"}
	if d.ID != c.id || d.Outcome != outcome[c.refused == ""] || d.Would != outcome[c.refused == "" && c.audit == ""] {
		t.Errorf("it was decided %+v, want %s", d, c.id)
	}
}

// noticed waits until a hub or node no longer gives what a tag pointed at before: it goes by what it knows for a second.
func (s *signedHouse) noticed(t *testing.T, c *signedCase, manifest string) {
	t.Helper()
	rig.Eventually(t, 10*time.Second, func() error {
		if a := ask(t, "GET", manifest, "Accept", manifestTypes); a.status == http.StatusOK && a.digest() != c.digest {
			return fmt.Errorf("still %s", a.digest())
		}
		return nil
	})
}

// given counts what docker.io has given of paths with a prefix.
func (s *signedHouse) given(prefix string) map[string]int {
	n := map[string]int{}
	for _, r := range s.upstream.Requests() {
		if r.Method == "GET" && r.Status == http.StatusOK && strings.HasPrefix(r.Path, prefix) {
			n[r.Path]++
		}
	}
	return n
}

// parsedLines reads lines of JSON.
func parsedLines[T any](t *testing.T, text []byte) (all []T) {
	t.Helper()
	for line := range bytes.Lines(text) {
		var v T
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, v)
	}
	return all
}
