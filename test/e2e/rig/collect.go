package rig

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

// Collect runs `breakwater-hub gc` on the stores of a hub that does not run, without any of the delays that leave
// people time to think again, and returns what it says.
func (h *Hub) Collect() string {
	h.t.Helper()
	text, err := os.ReadFile(h.ConfigFile)
	if err != nil {
		h.t.Fatal(err)
	}
	var all map[string]any
	if err := yaml.Unmarshal(text, &all); err != nil {
		h.t.Fatal(err)
	}
	all["gc"] = map[string]string{"delay": "0s", "quarantine": "0s", "trashFor": "0s"}
	if text, err = yaml.Marshal(all); err != nil {
		h.t.Fatal(err)
	}
	config := filepath.Join(TempDir(h.t, "gc"), "hub.yaml")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		h.t.Fatal(err)
	}
	out, err := exec.CommandContext(h.t.Context(), Build(h.t, "breakwater-hub"), "gc", "--config", config).CombinedOutput()
	if err != nil {
		h.t.Fatalf("breakwater-hub gc: %v: %s", err, out)
	}
	return string(out)
}

// Age makes all files and folders below dir two hours older than now.
func Age(t testing.TB, dir string) {
	t.Helper()
	then := time.Now().Add(-2 * time.Hour)
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = os.Chtimes(path, then, then)
		}
		if os.IsNotExist(err) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
