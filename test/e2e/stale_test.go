package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// A node judges on while its hub is away, through kills of its agent: for as long as its policy may be old, and then as
// the document says. What is on its disk is there whole or as before.
func TestPolicyAge(t *testing.T) {
	for _, tt := range []struct {
		name, fields string
		stale, deny  bool
	}{
		{"for ever", "", false, false},
		{"then keep", "maxPolicyAge: 6s\nonStalePolicy: keep\n", true, false},
		{"then deny", "maxPolicyAge: 6s\nonStalePolicy: deny\n", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSigning(t)
			file := policyWith(t, s.key("release"))
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, append(text, tt.fields...), 0o600); err != nil {
				t.Fatal(err)
			}
			// That no policy is held must not look like one that lets things through.
			h := judgedHouse(t, rig.Containerd24, file, rig.Keys{"policy.bootstrap": "deny"}, nil)
			host := strings.TrimPrefix(h.registry.URL, "http://")
			n := 0
			judges := func(when string, deny bool) {
				t.Helper()
				n++
				name := fmt.Sprintf("prod-%d", n)
				signed, digest := h.fresh(name)
				s.sign("bundle", "release", host+"/library/"+name+"@"+digest)
				unsigned, _ := h.fresh(name + "-unsigned")
				other, otherDigest := h.fresh(fmt.Sprintf("other-%d", n))
				if deny {
					for _, ref := range []string{signed, unsigned, other} {
						h.refused(ref, "no word from the hub since")
					}
					return
				}
				t.Log(when)
				h.pulled(signed, digest)
				h.refused(unsigned, "no valid signature")
				h.pulled(other, otherDigest)
			}
			restart := func() {
				t.Helper()
				h.node.Start()
				h.node.WaitReady() // without its hub too
			}
			judges("all up", false)

			h.hub.Kill9()
			h.judges(func(s policyState) bool { return s.Stale == tt.stale && s.Error != "" })
			judges("hub away", tt.deny)

			h.node.Kill9()
			restart()
			h.judges(func(s policyState) bool { return s.Held && s.Stale == tt.stale && s.Revision == 1 && s.Error != "" })
			judges("hub away, agent restarted", tt.deny)
			ready := ask(t, "GET", h.node.StatusURL+"/readyz")
			if ready.status != http.StatusOK || !strings.Contains(string(ready.body), `"hub":{"ok":false`) || strings.Contains(string(ready.body), "maxPolicyAge") != tt.stale {
				t.Errorf("readyz: %v", ready)
			}

			h.hub.Start()
			h.hub.WaitReady()
			h.judges(func(s policyState) bool { return s.Held && !s.Stale && s.Error == "" })
			judges("hub back", false)
		})
	}
}

// A write of the policy that was cut short has no part in what is judged by. A policy that is damaged on the disk, or
// that no trusted key has signed, is said to be so; everything is refused until there is a good one, for the one that was
// there refused things.
func TestKeptPolicy(t *testing.T) {
	s := newSigning(t)
	h := judgedHouse(t, rig.Containerd24, policyWith(t, s.key("release")), nil, nil)
	host := strings.TrimPrefix(h.registry.URL, "http://")
	dir := filepath.Join(h.node.Dir, "state", "policy")
	held := filepath.Join(dir, "held.json")
	good, err := os.ReadFile(held)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	pulls := func(refusal string) {
		t.Helper()
		n++
		name := fmt.Sprintf("prod-%d", n)
		signed, digest := h.fresh(name)
		s.sign("bundle", "release", host+"/library/"+name+"@"+digest)
		unsigned, _ := h.fresh(name + "-unsigned")
		if refusal != "" {
			h.refused(signed, refusal)
			h.refused(unsigned, refusal)
			return
		}
		h.pulled(signed, digest)
		h.refused(unsigned, "no valid signature")
	}
	write := func(name string, text []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.hub.Kill9()

	h.node.Kill9()
	write(".held.json1234", good[:len(good)/2])
	h.node.Start()
	h.node.WaitReady()
	pulls("")
	if _, err := os.Stat(filepath.Join(dir, ".held.json1234")); !os.IsNotExist(err) {
		t.Errorf("what was cut short is left: %v", err)
	}

	for _, tt := range []struct {
		name, reason string
		text         []byte
	}{
		{"cut off", "the policy kept on disk is damaged", good[:len(good)/2]},
		{"changed", "not signed by a key that this node trusts", []byte(strings.Replace(string(good), `"payload":"`, `"payload":"AAAA`, 1))},
	} {
		h.node.Kill9()
		write("held.json", tt.text)
		from := len(h.node.Log())
		h.node.Start()
		h.node.WaitReady()
		pulls(tt.reason)
		if log := h.node.Log()[from:]; !strings.Contains(log, "the policy kept on disk cannot be used") || !strings.Contains(log, held) {
			t.Errorf("%s: the log does not say so: %s", tt.name, log)
		}
		if now, err := os.ReadFile(held); err != nil || string(now) != string(tt.text) {
			t.Errorf("%s: what was found was written over: %v", tt.name, err)
		}
	}

	h.hub.Start()
	h.hub.WaitReady()
	h.judges(func(s policyState) bool { return s.Held && s.Error == "" })
	pulls("")
	rig.Eventually(t, 10*time.Second, func() error {
		now, err := os.ReadFile(held)
		if err == nil && (!strings.Contains(string(now), `"sealed":{`) || strings.Contains(string(now), `"AAAA`)) {
			err = fmt.Errorf("what is kept: %.100s", now)
		}
		return err
	})
}
