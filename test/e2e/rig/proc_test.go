package rig

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

// A process is paused, resumed, killed, started again and stopped; its output survives all of that.
func TestProc(t *testing.T) {
	script := `echo started; trap 'echo stopping; exit 3' TERM; while :; do sleep 0.01; done`
	p := Run(t, "loop", []string{"/bin/sh", "-c", script})
	started := func(n int) {
		t.Helper()
		Eventually(t, 10*time.Second, func() error {
			if got := strings.Count(p.Log(), "started"); got != n {
				return fmt.Errorf("the log has %d starts, want %d: %s", got, n, p.Log())
			}
			return nil
		})
	}
	state := func(want string) {
		t.Helper()
		Eventually(t, 10*time.Second, func() error {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
			if err == nil && !strings.Contains(string(stat), ") "+want+" ") {
				err = fmt.Errorf("stat is %s; want state %s", stat, want)
			}
			return err
		})
	}
	started(1)
	p.Pause()
	state("T")
	p.Resume()
	state("S")
	p.Kill9()
	p.Start()
	started(2)
	if p.RSSAnon() <= 0 {
		t.Error("a running shell has no memory")
	}
	if err := p.Stop(); err == nil || err.Error() != "exit status 3" {
		t.Errorf("Stop = %v, want exit status 3", err)
	}
	if !strings.HasSuffix(p.Log(), "stopping\n") {
		t.Errorf("log = %q", p.Log())
	}
}

// What runs below a folder ends with it, together with its children.
func TestDestroyKillsProcesses(t *testing.T) {
	dir := TempDir(t, "d")
	script := dir + "/child.sh"
	writeFile(t, script, "sleep 1000 & echo $!; wait")
	p := Run(t, "parent", []string{"/bin/sh", script})
	var child int
	Eventually(t, 10*time.Second, func() error { _, err := fmt.Sscan(p.Log(), &child); return err })
	if left := destroy(dir); left != nil {
		t.Errorf("left behind: %v", left)
	}
	if err := p.Wait(10 * time.Second); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the parent ended by %v", err)
	}
	Eventually(t, 10*time.Second, func() error {
		if err := syscall.Kill(child, 0); err == nil && !zombie(child) {
			return fmt.Errorf("the child %d still runs", child)
		}
		return nil
	})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}

// zombie reports whether a process has ended and only waits to be reaped.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestFreeAddr(t *testing.T) {
	seen := map[string]bool{}
	for range 50 {
		addr := FreeAddr(t)
		if seen[addr] {
			t.Fatalf("%s was given twice", addr)
		}
		seen[addr] = true
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatalf("%s is not free: %v", addr, err)
		}
		_ = l.Close()
	}
}
