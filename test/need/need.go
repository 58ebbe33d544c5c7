// Package need finds what tests run against that is not Go's: programs that
// `make rig` installs, Debian's, and those that are built here. What is missing
// skips the test with a line that says how to get it; where CI is set to true
// everything must be there, and the test fails.
package need

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// debian names the package that brings a program which the install script does
// not build.
var debian = map[string]string{
	"skopeo": "skopeo",
	"nginx":  "nginx-light",
	"bridge": "containernetworking-plugins",
	"initdb": "postgresql-15",
}

// Program returns the path of a program: from the rig's own folder, else from
// the machine's.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := Find(name)
	if err == nil {
		return path
	}
	if pkg, ok := debian[name]; ok {
		Missing(t, name+" is missing: run `apt-get install "+pkg+"`, or `make rig` as root")
	}
	Missing(t, name+" is missing: run `make rig`")
	return ""
}

// Find is [Program] for who is no test.
func Find(name string) (path string, err error) {
	postgres, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is right
	for _, dir := range append([]string{filepath.Join(dir, "bin"), "/usr/sbin", "/usr/lib/cni"}, postgres...) {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return exec.LookPath(name)
}

// Scanner returns the path of breakwater-scan as `make build-scan` makes it,
// which takes too long for a test. The root is the project's, as seen from the
// test's folder.
func Scanner(t testing.TB, root string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(root, "bin", "breakwater-scan"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		Missing(t, "bin/breakwater-scan is missing: run `make build-scan`")
	}
	return path
}

// Root is for tests that mount, or run containers.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root is missing: run the tests as root")
	}
}

// dir is what Dir was when the process began: tests have a HOME of their own.
var dir = rig()

// Dir is where the install script puts its programs and where large test images
// are kept between runs.
func Dir() string { return dir }

func rig() string {
	if dir := os.Getenv("BREAKWATER_RIG"); dir != "" {
		return dir
	}
	cache, err := os.UserCacheDir() // $XDG_CACHE_HOME, else ~/.cache
	if err != nil {
		cache = os.TempDir()
	}
	return filepath.Join(cache, "breakwater-rig")
}

// Missing skips the test, or fails it where everything must be there.
func Missing(t testing.TB, what string) {
	t.Helper()
	if ci, _ := strconv.ParseBool(os.Getenv("CI")); ci {
		t.Fatal(what)
	}
	t.Skip(what)
}
