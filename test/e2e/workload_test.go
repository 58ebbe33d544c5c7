package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// shopPolicy wants what lies in docker.io/library/shop-* signed.
func shopPolicy(t *testing.T, pem, mode string, revision int) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "policy.yaml")
	text := fmt.Sprintf(`
apiVersion: breakwater.dev/v1alpha1
kind: PolicyBundle
revision: %d
default: allow
authorities:
- {name: release, key: {pem: %q}}
policies:
- {name: shop-signed, mode: %s, match: {images: ["docker.io/library/shop-*"]}, rules: [{name: by-release, signature: {anyOf: [release]}}]}
`, revision, pem, mode)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// judgedImage, triedOut and runsImage are what the tests look at of the API's answers.
type judgedImage struct {
	Node      string
	Workloads []runsImage
	Decision  struct {
		Subject        struct{ Name string }
		Outcome, Would string
	}
}

type triedOut struct {
	Results []struct {
		Image     string
		Nodes     []string
		Workloads []runsImage
	}
}

type runsImage struct{ Name, Node string }

// TestWorkloads has pods of unsigned images start under an audit policy on two nodes, one of which judges itself and
// one that leaves it to the hub, and asks who would have been refused.
func TestWorkloads(t *testing.T) {
	s, program := newSigning(t), rig.Build(t, "breakwater")
	pem := s.key("release")
	registry := rig.Distribution(t)
	hub := rig.StartHub(t, rig.HubOptions{
		Proxies: []rig.Proxy{{Registry: oci.DockerHub, URL: registry.URL}}, Keys: rig.Keys{"scan.enabled": false},
	})
	people := append(clientEnv(t), "BREAKWATER_HUB="+hub.URL)
	l := lab{t: t, admin: people, program: program, hub: hub}
	l.stdin(rig.AdminPassword, "login", hub.URL, "-u", "admin", "--password-stdin")
	keys := filepath.Join(t.TempDir(), "hub-keys.pem")
	if err := os.WriteFile(keys, []byte(run(t, people, program, "policy", "keys")), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func(v any, args ...string) {
		t.Helper()
		if err := json.Unmarshal([]byte(run(t, people, program, append(args, "-o", "json")...)), v); err != nil {
			t.Fatal(err)
		}
	}
	show := func(args ...string) string {
		t.Helper()
		out := run(t, people, program, args...)
		t.Logf("$ breakwater %s\n%s", strings.Join(args, " "), out)
		return out
	}

	nodes := map[string]*rig.Node{}
	ctds := map[string]*rig.Containerd{}
	for name, at := range map[string]struct {
		version string
		keys    rig.Keys
	}{
		"worker-1": {rig.Containerd24, rig.Keys{"policy.keysFile": keys, "policy.every": "1s"}},
		"worker-2": {rig.Containerd17, rig.Keys{}},
	} {
		at.keys["nodeName"], at.keys["hub.mirrorURL"] = name, hub.URL
		ctds[name] = rig.StartContainerd(t, rig.ContainerdOptions{Version: at.version})
		nodes[name] = rig.StartNode(t, rig.NodeOptions{HubURL: hub.URL, Containerd: ctds[name], Upstreams: map[string]string{oci.DockerHub: registry.URL}, Keys: at.keys})
	}
	deploy := func(node, image string, pod rig.Pod) {
		t.Helper()
		rig.Push(t, registry.URL, "library/"+image+":1", rig.Random(t, image))
		ref := "docker.io/library/" + image + ":1"
		if _, err := ctds[node].Pull(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		if err := ctds[node].Deploy(t.Context(), pod, ref); err != nil {
			t.Fatal(err)
		}
	}

	// Before there is any policy.
	deploy("worker-2", "shop-old", rig.Pod{Namespace: "shop", Name: "old-0", Labels: map[string]string{"statefulset.kubernetes.io/pod-name": "old-0"}})

	run(t, people, program, "policy", "set", shopPolicy(t, pem, "audit", 1))
	rig.Eventually(t, 20*time.Second, func() error {
		var s struct{ Revision int }
		if err := json.Unmarshal(ask(t, "GET", nodes["worker-1"].StatusURL+"/policy").body, &s); err != nil {
			return err
		}
		if s.Revision != 1 {
			return fmt.Errorf("worker-1 judges by revision %d, want 1", s.Revision)
		}
		return nil
	})
	deploy("worker-1", "shop-web", rig.Pod{Namespace: "shop", Name: "web-7d9c6b8f5-x2k9p", Labels: map[string]string{"pod-template-hash": "7d9c6b8f5"}})
	deploy("worker-2", "shop-jobs", rig.Pod{Namespace: "jobs", Name: "migrate-x2k9p", Labels: map[string]string{"batch.kubernetes.io/job-name": "migrate"}})
	deploy("worker-1", "other", rig.Pod{Namespace: "other", Name: "other"})

	// decided says who is named with a decision of a node, "" for the hub, about an image.
	decided := func(all []judgedImage, node, image string) []string {
		for _, j := range all {
			if j.Node == node && j.Decision.Subject.Name == "docker.io/library/"+image && j.Decision.Outcome == "allow" && j.Decision.Would == "deny" {
				return named(j.Workloads)
			}
		}
		return nil
	}
	rig.Eventually(t, 2*time.Minute, func() error {
		var all []judgedImage
		read(&all, "policy", "decisions")
		for _, want := range []struct{ node, image, workload string }{
			{"worker-1", "shop-web", "shop/web on worker-1"}, {"", "shop-web", "shop/web on worker-1"}, {"", "shop-jobs", "jobs/migrate on worker-2"},
		} {
			if got := decided(all, want.node, want.image); !slices.Equal(got, []string{want.workload}) {
				return fmt.Errorf("the decision of %q about %s names %q, want %s", want.node, want.image, got, want.workload)
			}
		}
		return nil
	})
	for _, part := range []string{"shop/web", "jobs/migrate on worker-2"} {
		if out := show("policy", "decisions"); !strings.Contains(out, part) {
			t.Errorf("nobody sees %s", part)
		}
	}
	if out := show("policy", "explain", "docker.io/library/shop-web:1", "--node", "worker-1"); !strings.Contains(out, "\nRun by: shop/web.\n") {
		t.Error("explain --node does not say what runs it")
	}
	if out := show("policy", "decisions", "--node", nodes["worker-1"].StatusURL); !strings.Contains(out, "shop/web") {
		t.Error("the node itself does not say what runs it")
	}
	log, err := os.ReadFile(filepath.Join(nodes["worker-1"].Dir, "state", "policy", "decisions.jsonl"))
	if err != nil || !strings.Contains(string(log), `"workloads":["shop/web"]`) {
		t.Errorf("the node's decision log: %v\n%s", err, log)
	}

	// What enforcing it would do, and to whom: also to what was pulled before there was a policy, by an agent that has none.
	enforced := shopPolicy(t, pem, "enforce", 2)
	var tried triedOut
	rig.Eventually(t, time.Minute, func() error {
		read(&tried, "policy", "dry-run", enforced)
		got := map[string]string{}
		for _, r := range tried.Results {
			got[strings.TrimPrefix(r.Image, "docker.io/library/")] = strings.Join(r.Nodes, " ") + ": " + strings.Join(named(r.Workloads), ", ")
		}
		for image, want := range map[string]string{
			"shop-web": "worker-1: shop/web on worker-1", "shop-jobs": "worker-2: jobs/migrate on worker-2", "shop-old": "worker-2: shop/old on worker-2",
		} {
			if got[image] != want {
				return fmt.Errorf("%s would be refused to %q, want %q", image, got[image], want)
			}
		}
		return nil
	})
	if out := show("policy", "dry-run", enforced); !strings.Contains(out, "shop/web on worker-1") || !strings.Contains(out, "shop/old on worker-2") {
		t.Error("the dry run does not name the workloads")
	}
	doctor, _ := try(t, nil, rig.Build(t, "breakwater-node"), "doctor", "--config", nodes["worker-2"].ConfigFile) // it looks at /etc/containerd too
	t.Log(doctor)
	if !strings.Contains(doctor, "workloads: containerd says what runs an image (2 workloads now)") {
		t.Error("doctor does not say that workloads are known")
	}
}

func named(all []runsImage) (names []string) {
	for _, w := range all {
		names = append(names, w.Name+" on "+w.Node)
	}
	slices.Sort(names)
	return names
}
