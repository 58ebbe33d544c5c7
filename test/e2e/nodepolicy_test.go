package e2e

import (
	"context"
	"fmt"
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

// signing are keys made by the real cosign, and how it is called.
type signing struct {
	t        *testing.T
	env      []string
	dir      string
	cosign   string
	insecure []string
	signHow  map[string][]string // by the name of the way
}

func newSigning(t *testing.T) *signing {
	t.Helper()
	s := &signing{t: t, cosign: need.Program(t, "cosign"), env: append(clientEnv(t), "COSIGN_PASSWORD=x", "COSIGN_EXPERIMENTAL=1"), dir: t.TempDir()}
	s.insecure = []string{"--allow-insecure-registry", "--allow-http-registry"}
	s.signHow = map[string][]string{
		"tag":    {"--new-bundle-format=false"},
		"bundle": {"--new-bundle-format", "--registry-referrers-mode=oci-1-1"},
	}
	return s
}

// key makes a key pair and returns the public key.
func (s *signing) key(name string) (pem string) {
	s.t.Helper()
	run(s.t, s.env, s.cosign, "generate-key-pair", "--output-key-prefix", filepath.Join(s.dir, name))
	b, err := os.ReadFile(filepath.Join(s.dir, name+".pub"))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

func (s *signing) sign(way, key, image string) {
	s.t.Helper()
	run(s.t, s.env, s.cosign, slices.Concat([]string{"sign"}, s.insecure, s.signHow[way], []string{"--key", filepath.Join(s.dir, key+".key"), "--tlog-upload=false", "--yes", image})...)
}

// policyWith is a document that wants what lies in docker.io/library/prod-* signed by a key.
func policyWith(t *testing.T, pem string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "policy.yaml")
	text := fmt.Sprintf(`
apiVersion: breakwater.dev/v1alpha1
kind: PolicyBundle
revision: 1
default: allow
authorities:
- {name: release, key: {pem: %q}}
policies:
- name: prod-signed
  mode: enforce
  match: {images: ["docker.io/library/prod-*"]}
  rules:
  - {name: signed-by-us, signature: {anyOf: [release]}}
`, pem)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestNodeRefuses has containerd pull through an agent with a policy, while hub and registry, which have none, are next
// in its hosts.toml and would give it everything.
func TestNodeRefuses(t *testing.T) {
	for _, version := range []string{rig.Containerd24, rig.Containerd17} {
		t.Run(version, func(t *testing.T) {
			s := newSigning(t)
			release := s.key("release")
			s.key("stranger")
			h := newHouse(t, plan{containerd: rig.ContainerdOptions{Version: version}, node: rig.Keys{"policyFile": policyWith(t, release)}})
			host := strings.TrimPrefix(h.registry.URL, "http://")
			made := func(name string) (ref, digest, image string) {
				ref, digest = h.fresh(name)
				return ref, digest, host + "/library/" + name + "@" + digest
			}
			try := func(ref string) error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := h.ctd.Pull(ctx, ref)
				return err
			}
			refused := func(ref, why string) {
				t.Helper()
				err := try(ref)
				if err == nil {
					t.Fatalf("%s was pulled", ref)
				}
				t.Logf("%s: %v", ref, err)
				if !strings.Contains(err.Error(), why) {
					t.Errorf("%s: the reason does not say %q: %v", ref, why, err)
				}
			}

			ref, digest := h.fresh("other")
			h.pulled(ref, digest)
			for _, way := range []string{"tag", "bundle"} {
				ref, digest, image := made("prod-" + way)
				s.sign(way, "release", image)
				h.pulled(ref, digest)
				ref, _, image = made("prod-stranger-" + way)
				s.sign(way, "stranger", image)
				refused(ref, `policy "prod-signed" rule "signed-by-us"`)
			}
			ref, digest, _ = made("prod-unsigned")
			refused(ref, "no valid signature")
			why := "no valid signature"
			if version == rig.Containerd17 {
				why = "" // it asks the next host by the digest, and takes offence at the length only
			}
			refused(strings.TrimSuffix(ref, ":1")+"@"+digest, why)

			// Away from the hub the same.
			h.hub.Kill9()
			refused(ref, "no valid signature")
			ref, digest, image := made("prod-late")
			s.sign("bundle", "release", image)
			h.pulled(ref, digest)
			ref, _, _ = made("prod-late-unsigned")
			refused(ref, "no valid signature")
		})
	}
}

// TestImageVerifier has pulls that come straight from the registry judged by the agent all the same.
func TestImageVerifier(t *testing.T) {
	s := newSigning(t)
	h := newHouse(t, plan{node: rig.Keys{"policyFile": policyWith(t, s.key("release"))}})
	verifier := rig.Build(t, "breakwater-verifier")
	node := rig.Build(t, "breakwater-node")
	run(t, nil, node, "install", "--config", h.node.ConfigFile, "--image-verifier", h.ctd.VerifierDir, "--verifier-on-error", "deny", "--verifier-program", verifier)
	h.ctd.Hosts(oci.DockerHub, fmt.Sprintf("server = %q\n", h.registry.URL)) // past the agent; it repairs this within a minute only
	pull := func(ref string) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := h.ctd.Pull(ctx, ref)
		return err
	}
	ref, _ := h.fresh("prod-unsigned")
	if err := pull(ref); err == nil || !strings.Contains(err.Error(), `policy "prod-signed" rule "signed-by-us"`) {
		t.Errorf("unsigned: %v", err)
	} else {
		t.Log(err)
	}
	ref, digest := h.fresh("prod-signed")
	s.sign("bundle", "release", strings.TrimPrefix(h.registry.URL, "http://")+"/library/prod-signed@"+digest)
	h.pulled(ref, digest)
	other, digest := h.fresh("other")
	h.pulled(other, digest)

	h.node.Kill9()
	ref, _ = h.fresh("other2")
	if err := pull(ref); err == nil || !strings.Contains(err.Error(), "node agent does not answer") {
		t.Errorf("without the agent: %v", err)
	} else {
		t.Log(err)
	}
	run(t, nil, node, "uninstall", "--config", h.node.ConfigFile)
	if left, err := os.ReadDir(h.ctd.VerifierDir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	h.ctd.Hosts(oci.DockerHub, fmt.Sprintf("server = %q\n", h.registry.URL))
	if err := pull(ref); err != nil {
		t.Errorf("after uninstall: %v", err)
	}
}
