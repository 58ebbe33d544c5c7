package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
	"github.com/breakwater-oci/breakwater/test/need"
)

// TestSignUnderPolicy has new images signed, attested and documented by the real cosign where a policy refuses them
// until they are. Who logged in to push them may; who may only pull is refused until then, and again when the
// signature is deleted.
func TestSignUnderPolicy(t *testing.T) {
	s := newSigning(t)
	crane, log := need.Program(t, "crane"), filepath.Join(t.TempDir(), "decisions.jsonl")
	hub := rig.StartHub(t, rig.HubOptions{Keys: rig.Keys{"scan.enabled": false, "decisionLog": log}})
	admin := clientEnv(t)
	run(t, admin, crane, "auth", "login", hub.Host, "-u", "admin", "-p", rig.AdminPassword)
	house := signedHouse{hub: hub}
	login := func(robot string, rights ...string) []string {
		env := clientEnv(t)
		run(t, env, crane, "auth", "login", hub.Host, "-u", "robot$"+robot, "-p", house.robot(t, robot, rights...))
		return env
	}
	ci, reader := login("ci", "pull", "push"), login("reader", "pull")
	program := rig.Build(t, "breakwater")
	people := append(clientEnv(t), "BREAKWATER_HUB="+hub.URL)
	l := lab{t: t, admin: people, program: program, hub: hub}
	l.stdin(rig.AdminPassword, "login", hub.URL, "-u", "admin", "--password-stdin")
	file := filepath.Join(t.TempDir(), "policy.yaml")
	text := fmt.Sprintf(`
apiVersion: breakwater.dev/v1alpha1
kind: PolicyBundle
revision: 1
default: allow
authorities:
- {name: release, key: {pem: %q}}
policies:
- {name: ours, mode: enforce, match: {images: ["localhost:%s/team/**"]}, rules: [{name: by-release, signature: {anyOf: [release]}}]}
`, s.key("release"), hub.Port())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, people, program, "policy", "set", file)

	layout := multiLayout(t)
	sbom := filepath.Join(t.TempDir(), "sbom.json")
	if err := os.WriteFile(sbom, []byte(`{"spdxVersion":"SPDX-2.3"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for who, env := range map[string][]string{"admin": admin, "ci": ci} {
		for _, way := range []string{"tag", "bundle"} {
			image := hub.Host + "/team/" + who + "-" + way
			run(t, env, crane, "push", "--index", layout, image+":1")
			digest := image + "@" + strings.TrimSpace(run(t, env, crane, "digest", image+":1"))
			pull := func() error { _, err := try(t, reader, crane, "pull", image+":1", os.DevNull); return err }
			if err := pull(); err == nil || !strings.Contains(err.Error(), "no valid signature (release: none found)") {
				t.Errorf("%s, unsigned: %v", image, err)
			}
			by := *s
			by.env = append(env[:len(env):len(env)], "COSIGN_PASSWORD=x", "COSIGN_EXPERIMENTAL=1")
			run(t, by.env, s.cosign, append(append([]string{"attest"}, s.insecure...), "--key", filepath.Join(s.dir, "release.key"), "--tlog-upload=false", "--yes", "--predicate", sbom, "--type", "spdxjson", digest)...)
			run(t, by.env, s.cosign, append(append([]string{"attach", "sbom"}, s.insecure...), "--sbom", sbom, "--type", "spdx", digest)...)
			if err := pull(); err == nil {
				t.Errorf("%s: an attestation and an SBOM are taken for a signature", image)
			}
			// The next image has the same layers.
			run(t, env, crane, "push", "--index", layout, image+":2")
			by.sign(way, "release", digest)
			if err := pull(); err != nil {
				t.Errorf("%s, signed: %v", image, err)
			}
			if way != "tag" {
				continue
			}
			run(t, env, crane, "manifest", strings.ReplaceAll(digest, "@sha256:", ":sha256-")+".sig")
			run(t, admin, crane, "delete", strings.ReplaceAll(digest, "@sha256:", ":sha256-")+".sig")
			if err := pull(); err == nil || !strings.Contains(err.Error(), "no valid signature (release: none found)") {
				t.Errorf("%s, its signature deleted: %v", image, err)
			}
		}
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		b, err := os.ReadFile(log)
		if err == nil && bytes.Contains(b, []byte(`"exempt":"may push to the repository"`)) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the decision log does not say who was let through: %v\n%s", err, b)
		}
	}
}
