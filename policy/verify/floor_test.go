package verify

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Releases of cosign before these verify bundles wrongly (GHSA-whqx-f9j3-ch6m).
func TestCosignIsMended(t *testing.T) {
	floors := map[string][]int{"github.com/sigstore/cosign/v2": {2, 6, 2}, "github.com/sigstore/cosign/v3": {3, 0, 4}}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Version}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := false
	for line := range strings.Lines(string(out)) {
		path, version, _ := strings.Cut(strings.TrimSpace(line), " ")
		floor := floors[path]
		if floor == nil {
			continue
		}
		seen = true
		if mended(version, floor) {
			continue
		}
		t.Fatalf("%s is %s, want %v or later", path, version, floor)
	}
	if !seen {
		t.Error("it is not cosign that verifies: take this test away with it")
	}
	for version, want := range map[string]bool{"v2.6.1": false, "v2.6.2-rc1": false, "v2.6.2": true, "v2.10.0": true, "v3.0.3": true} {
		if mended(version, floors["github.com/sigstore/cosign/v2"]) != want {
			t.Errorf("%s: want %t", version, want)
		}
	}
}

func mended(version string, floor []int) bool {
	var major, minor, patch int
	if _, err := fmt.Sscanf(version, "v%d.%d.%d", &major, &minor, &patch); err != nil {
		return false
	}
	c := slices.Compare([]int{major, minor, patch}, floor)
	return c > 0 || c == 0 && !strings.Contains(version, "-")
}
