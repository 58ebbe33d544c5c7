package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

const dirPrefix = "bwrig-"

// runDir is this test run's folder. Its path is short, since unix sockets below it may have 107 bytes at most.
var runDir = sync.OnceValues(func() (string, error) {
	sweep()
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", dirPrefix, os.Getpid()))
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o711) // Postgres, which root may not run, has its folder in here
})

// Main runs a package's tests and removes what they shared: call it from TestMain. Without it the next run cleans up.
func Main(m *testing.M) {
	code := m.Run()
	if dir, err := runDir(); err == nil {
		destroy(dir)
	}
	os.Exit(code)
}

// TempDir returns a new folder with a short path, and destroys it with all that is mounted or runs there at the end.
func TempDir(t testing.TB, name string) string {
	t.Helper()
	dir, err := runDir()
	if err == nil {
		dir, err = os.MkdirTemp(dir, name) //nolint:usetesting // t.TempDir's paths are too long for a socket
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, left := range destroy(dir) {
			t.Errorf("left behind: %s", left)
		}
	})
	return dir
}

// sweep destroys the folders of test runs that died before their cleanup.
func sweep() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*-*"))
	for _, dir := range dirs {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && syscall.Kill(n, 0) == syscall.ESRCH {
			destroy(dir)
			_ = removeCgroup(dirPrefix + pid + "-*")
		}
	}
}

// destroy ends the processes that name dir in their command line, with their children, takes away the mounts below
// it, and removes it. It returns what it could not get rid of.
func destroy(dir string) (left []string) {
	for _, pid := range processesOf(dir) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	removeShimSockets(dir)
	mounts := mountsBelow(dir)
	for i := len(mounts) - 1; i >= 0; i-- { // the last mounted first
		_ = syscall.Unmount(mounts[i], syscall.MNT_DETACH)
	}
	for _, m := range mountsBelow(dir) {
		left = append(left, "mount "+m)
	}
	if left == nil { // never delete through a mount
		if err := os.RemoveAll(dir); err != nil {
			left = append(left, err.Error())
		}
	}
	return left
}

// mountsBelow returns the mount points below dir in the order in which they were mounted.
func mountsBelow(dir string) (points []string) {
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
			points = append(points, f[1])
		}
	}
	return points
}

// processesOf returns the processes, other than this one, that name a path in dir in their command line, and all
// their descendants: containerd's shims carry its socket there, and containers are children of their shim.
func processesOf(dir string) (pids []int) {
	children := map[int][]int{}
	var queue []int
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, e := range entries {
		pid, _ := strconv.Atoi(filepath.Base(e))
		cmdline, err := os.ReadFile(e + "/cmdline")
		if err != nil || pid == os.Getpid() {
			continue
		}
		children[parentOf(e)] = append(children[parentOf(e)], pid)
		if strings.Contains(string(cmdline), dir+"/") {
			queue = append(queue, pid)
		}
	}
	seen := map[int]bool{}
	for len(queue) > 0 {
		pid := queue[0]
		queue = queue[1:]
		if !seen[pid] {
			seen[pid] = true
			pids = append(pids, pid)
			queue = append(queue, children[pid]...)
		}
	}
	return pids
}

// parentOf returns the parent of the process at /proc/PID, 0 when it has ended.
func parentOf(procDir string) int {
	stat, _ := os.ReadFile(procDir + "/stat")
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may hold blanks: PID (NAME) STATE PPID
	f := strings.Fields(rest)
	if len(f) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(f[1])
	return ppid
}
