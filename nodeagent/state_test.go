package nodeagent

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// All that an agent wrote is gone at uninstall, to the byte, and what others wrote there is not.
func TestUninstallLeavesNoTrace(t *testing.T) {
	root, err := os.MkdirTemp("", "bw") //nolint:usetesting // a socket's path has 108 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	certs := filepath.Join(root, "etc", "certs.d")
	if err := os.MkdirAll(filepath.Join(certs, "docker.io"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "docker.io", "hosts.toml"), []byte("server = \"https://near.example\"\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	before := listing(t, root)
	n := newNode(t, func(c *Config) {
		c.StateDir, c.Containerd.CertsDir, c.Containerd.Manage = filepath.Join(root, "var", "lib", "breakwater"), certs, true
		c.Cache.Dir = filepath.Join(c.StateDir, "cache")
	})
	stop := n.stop
	good := n.push(1, "team/good", "1")
	n.sign("team/good", good.Descriptor)
	n.push(2, "team/bad", "1")
	n.pulled("team/good/manifests/1")
	if res, _ := n.ask("GET", "team/good/blobs/"+oci.FromBytes(good.Blobs[1]).String()); res.StatusCode != http.StatusOK {
		t.Fatal(res.Status)
	}
	n.refused("team/bad/manifests/1", "no valid signature")

	changes, err := Purge(n.cfg, false, false)
	if !errors.Is(err, ErrAgentRuns) || len(changes) != 2 || changes[0].Action != "leave" {
		t.Errorf("with a running agent: %v %v", changes, err)
	}
	n.pulled("team/good/manifests/1")
	stop()

	installed := listing(t, root)
	for _, part := range []string{"held.json", "decisions.jsonl", "referrers", "verify.sock", "FORMAT", "made.json", "near.example"} {
		if !strings.Contains(installed, part) {
			t.Fatalf("the test's agent has written no %s:\n%s", part, installed)
		}
	}
	planned, err := Purge(n.cfg, false, true)
	if err != nil || listing(t, root) != installed {
		t.Fatalf("dry run: %v", err)
	}
	uninstall := func(dryRun bool) {
		t.Helper()
		if _, err := Uninstall(n.cfg, dryRun); err != nil {
			t.Fatal(err)
		}
	}
	uninstall(true)
	if listing(t, root) != installed {
		t.Fatal("a dry run of uninstall changed something")
	}

	// The cache is kept when that is wanted, and what others have put there always is.
	uninstall(false)
	theirs := filepath.Join(n.cfg.policyDir(), "notes")
	if err := os.WriteFile(theirs, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Purge(n.cfg, true, false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(n.cfg.Cache.Dir, "FORMAT")); err != nil {
		t.Errorf("the cache was to be kept: %v", err)
	}
	if all, err := os.ReadDir(n.cfg.policyDir()); err != nil || len(all) != 1 {
		t.Errorf("in the policy's folder: %v %v", all, err)
	}
	if err := os.Remove(theirs); err != nil {
		t.Fatal(err)
	}
	last, err := Purge(n.cfg, false, false)
	if err != nil {
		t.Fatal(err)
	}
	if after := listing(t, root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	for _, x := range []string{n.cfg.Cache.Dir, n.cfg.StateDir} {
		for _, all := range [][]Change{planned, last} {
			if !slices.ContainsFunc(all, func(c Change) bool { return c.Action == "remove" && c.Path == x }) {
				t.Errorf("%s is not in %v", x, all)
			}
		}
	}
	if changes, err := Purge(n.cfg, false, false); err != nil || len(changes) != 0 {
		t.Errorf("again: %v %v", changes, err)
	}
}

// A state folder that was there before stays, and a file that is no socket of ours.
func TestPurgeOfOthersFolder(t *testing.T) {
	cfg := DefaultConfig()
	cfg.StateDir = t.TempDir()
	cfg.Cache.Dir = filepath.Join(cfg.StateDir, "cache")
	if err := makeState(cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.socketPath(), []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	if changes, err := Purge(cfg, false, false); err != nil || len(changes) != 0 {
		t.Errorf("%v %v", changes, err)
	}
	if b, err := os.ReadFile(cfg.socketPath()); err != nil || string(b) != "theirs" {
		t.Errorf("%q %v", b, err)
	}
}

// An agent with another cache folder in its configuration is found by its socket.
func TestPurgeFindsAgentBySocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "bw") //nolint:usetesting // a socket's path has 108 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cfg := DefaultConfig()
	cfg.StateDir, cfg.Cache.Dir = dir, filepath.Join(dir, "cache")
	l, err := net.Listen("unix", cfg.socketPath())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	if _, err := Purge(cfg, false, false); !errors.Is(err, ErrAgentRuns) {
		t.Errorf("Purge = %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if changes, err := Purge(cfg, false, false); err != nil || len(changes) != 1 || changes[0].Path != cfg.socketPath() {
		t.Errorf("%v %v", changes, err)
	}
}
