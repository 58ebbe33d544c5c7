package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Build returns the path of one of our programs, cmd/NAME, built once for each test run.
func Build(t testing.TB, name string) string {
	t.Helper()
	path, err := build(name, "", "./cmd/"+name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var (
	buildsMu sync.Mutex
	builds   = map[string]func() (string, error){}
)

// build compiles a package of the checkout, once, into a static program. goarch "" is this machine's.
func build(name, goarch, pkg string) (string, error) {
	buildsMu.Lock()
	once, ok := builds[name+goarch]
	if !ok {
		once = sync.OnceValues(func() (string, error) { return compile(name+goarch, goarch, pkg) })
		builds[name+goarch] = once
	}
	buildsMu.Unlock()
	return once()
}

func compile(name, goarch, pkg string) (string, error) {
	dir, err := runDir()
	if err != nil {
		return "", err
	}
	root, err := checkout()
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "bin", name)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, pkg)
	cmd.Dir = root
	if rel, ok := strings.CutPrefix(pkg, "./test/e2e/"); ok { // a module of its own
		cmd.Dir = filepath.Join(root, "test", "e2e")
		cmd.Args[len(cmd.Args)-1] = "./" + rel
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if goarch != "" {
		cmd.Env = append(cmd.Env, "GOOS=linux", "GOARCH="+goarch)
	}
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, msg)
	}
	return out, nil
}

// checkout returns the folder of the root module, above the test's.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module github.com/breakwater-oci/breakwater\n") {
			return dir, nil
		}
	}
	return "", fmt.Errorf("the test does not run inside a checkout of breakwater")
}
