package rig

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
)

var (
	portsMu sync.Mutex
	ports   = map[int]net.Listener{} // what tells other test runs that a port is taken
)

// FreeAddr returns an address of this machine, 127.0.0.1:PORT, that nobody listens on and that no later call returns
// again, in this test run or in another one beside it. The port is below those that the kernel hands to outgoing
// connections, so it stays free while the test has a program down.
func FreeAddr(t testing.TB) string {
	t.Helper()
	portsMu.Lock()
	defer portsMu.Unlock()
	for range 200 {
		port := 20000 + rand.IntN(12000)
		if ports[port] != nil {
			continue
		}
		// An abstract socket goes with its process.
		claim, err := net.Listen("unix", fmt.Sprintf("@%sport-%d", dirPrefix, port))
		if err != nil {
			continue
		}
		addr := "127.0.0.1:" + strconv.Itoa(port)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			_ = claim.Close()
			continue
		}
		_ = l.Close()
		ports[port] = claim
		return addr
	}
	t.Fatal("no free port between 20000 and 32000")
	return ""
}

// RSSAnon returns the anonymous resident memory of a process in bytes.
func RSSAnon(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no RssAnon", pid)
}
