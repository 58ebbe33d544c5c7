package rig

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// debian names the package that brings a tool which is not built by the install script.
var debian = map[string]string{
	"skopeo": "skopeo",
	"nginx":  "nginx-light",
	"bridge": "containernetworking-plugins",
	"initdb": "postgresql-15",
}

// Need returns the path of a tool: from the rig's own folder, else from the machine's. A missing tool skips the test.
func Need(t testing.TB, tool string) string {
	t.Helper()
	postgres, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is right
	for _, dir := range append([]string{filepath.Join(Dir(), "bin"), "/usr/sbin", "/usr/lib/cni"}, postgres...) {
		if path, err := exec.LookPath(filepath.Join(dir, tool)); err == nil {
			return path
		}
	}
	path, err := exec.LookPath(tool)
	if err == nil {
		return path
	}
	if pkg, ok := debian[tool]; ok {
		missing(t, tool+" is missing: run `apt-get install "+pkg+"`, or `make rig` as root")
	}
	missing(t, tool+" is missing: run `make rig`")
	return ""
}

// NeedRoot skips the test unless it runs as root, which mounts and containers need.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "root is missing: run the tests as root to start containers")
	}
}

// Dir is where the install script puts its tools and where large test images are kept between runs.
func Dir() string {
	if dir := os.Getenv("BREAKWATER_RIG"); dir != "" {
		return dir
	}
	cache, err := os.UserCacheDir() // $XDG_CACHE_HOME, else ~/.cache
	if err != nil {
		cache = os.TempDir()
	}
	return filepath.Join(cache, "breakwater-rig")
}

// missing skips the test, or fails it where everything must be there.
func missing(t testing.TB, what string) {
	t.Helper()
	if ci, _ := strconv.ParseBool(os.Getenv("CI")); ci {
		t.Fatal(what)
	}
	t.Skip(what)
}
