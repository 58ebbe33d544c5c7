package rig

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

var cgroups atomic.Int64

// newCgroup returns the name of a cgroup below the root that no other test uses. Whoever needs it makes it; at the
// end of the test it is removed, once all processes in it are gone.
func newCgroup(t testing.TB) string {
	name := fmt.Sprintf("%s%d-%d", dirPrefix, os.Getpid(), cgroups.Add(1))
	t.Cleanup(func() {
		Eventually(t, 5*time.Second, func() error { return removeCgroup(name) }) // killed processes end a moment later
	})
	return name
}

// removeCgroup removes the cgroups that match pattern and those in them, from every hierarchy (of version 1) or the
// one there is.
func removeCgroup(pattern string) error {
	one, _ := filepath.Glob("/sys/fs/cgroup/" + pattern)
	each, _ := filepath.Glob("/sys/fs/cgroup/*/" + pattern)
	for _, top := range append(one, each...) {
		var dirs []string
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, dir := range slices.Backward(dirs) {
			if err := os.Remove(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

var shimSocket = regexp.MustCompile(`/run/containerd/s/[0-9a-f]{64}`)

// removeShimSockets removes the sockets of the shims that containerd's state, in dir or in folders of it, still
// names. They lie elsewhere, and a shim that was killed leaves its own.
func removeShimSockets(dir string) {
	const tasks = "/state/io.containerd.runtime.v2.task/*/*/*"
	here, _ := filepath.Glob(dir + tasks)
	below, _ := filepath.Glob(dir + "/*" + tasks)
	for _, f := range append(here, below...) {
		if base := filepath.Base(f); base == "address" || base == "bootstrap.json" {
			content, _ := os.ReadFile(f)
			for _, socket := range shimSocket.FindAllString(string(content), -1) {
				_ = os.Remove(socket)
			}
		}
	}
}
