package scenario

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

// `breakwater up` needs no configuration, prints what to try, serves, writes
// to containerd's certs.d only when asked, and puts that back at Ctrl-C.
func TestUp(t *testing.T) {
	dir, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	certs := filepath.Join(work, "certs.d")
	theirs := filepath.Join(certs, "quay.io", "hosts.toml")
	own := "server = \"https://quay.io\"\n\n[host.\"https://mine.example\"]\n  capabilities = [\"pull\"]\n"
	if err := os.MkdirAll(filepath.Dir(theirs), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(theirs, []byte(own), 0o644); err != nil {
		t.Fatal(err)
	}
	up := exec.CommandContext(t.Context(), filepath.Join(dir, "breakwater"), "up", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0",
		"--node-listen", "127.0.0.1:0", "--node-status-listen", "127.0.0.1:0", "--containerd", "--certs-dir", certs)
	up.Dir = work
	out, err := up.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	up.Stderr = os.Stderr
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	var printed strings.Builder
	lines := bufio.NewReader(out)
	for !strings.Contains(printed.String(), "Ctrl-C stops it") {
		line, err := lines.ReadString('\n')
		printed.WriteString(line)
		if err != nil {
			t.Fatalf("it ended: %v\n%s", err, printed.String())
		}
	}
	text := printed.String()
	find := func(pattern string) string {
		t.Helper()
		m := regexp.MustCompile(pattern).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("no %s in\n%s", pattern, text)
		}
		return m[1]
	}
	hub, node, password := find(`Hub +(http://\S+)`), find(`Node mirror +(http://\S+)`), find(`admin / (\S+)`)
	who, err := hubapi.NewClient(hub, "admin", password, nil).Whoami(t.Context())
	if err != nil || !who.Admin {
		t.Errorf("the printed password is not the admin's: %+v, %v", who, err)
	}
	wantStatus(t, ask(t, "GET", node, ""), 200)

	// The mirrors are written beside of starting to serve.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the mirrors were not written within a minute")
		}
		b, err := os.ReadFile(theirs)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), node) {
			if !strings.Contains(string(b), "https://mine.example") {
				t.Errorf("the person's host is gone:\n%s", b)
			}
			break
		}
	}
	if err := up.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, lines); err != nil {
		t.Fatal(err)
	}
	if err := up.Wait(); err != nil {
		t.Errorf("Ctrl-C: %v", err)
	}
	entries, err := os.ReadDir(certs)
	if b, rerr := os.ReadFile(theirs); err != nil || rerr != nil || string(b) != own || len(entries) != 1 {
		t.Errorf("certs.d is not what it was: %v, %q", entries, b)
	}
	entries, err = os.ReadDir(work)
	if err != nil || len(entries) != 2 { // certs.d and breakwater-data
		t.Errorf("left in the working directory: %v", entries)
	}
}
