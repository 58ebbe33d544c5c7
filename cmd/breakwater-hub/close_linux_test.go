package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

const asHub = "BREAKWATER_TEST_SECRET"

func TestMain(m *testing.M) {
	if os.Getenv(asHub) != "" {
		if err := closed(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// What runs as the hub's user does not see the hub's environment, and the hub
// still sees of itself what it needs.
func TestClosed(t *testing.T) {
	dir, err := os.MkdirTemp("", "closed") //nolint:usetesting // t.TempDir is in a folder that is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	program, err := os.OpenFile(filepath.Join(dir, "program"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err == nil {
		_, err = io.Copy(program, self)
	}
	if err == nil {
		err = program.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), program.Name())
	c.Env = append(os.Environ(), asHub+"=hunter2")
	if os.Geteuid() == 0 { // whom nothing is closed to
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// closed is the test itself, in a process of a user who is not root.
func closed() error {
	environ := func() string { // as another process reads it
		out, _ := exec.Command("cat", fmt.Sprintf("/proc/%d/environ", os.Getpid())).Output()
		return string(out)
	}
	if !strings.Contains(environ(), "hunter2") {
		return fmt.Errorf("this test shows nothing: the environment is closed before")
	}
	if err := closeProcess(); err != nil {
		return err
	}
	if strings.Contains(environ(), "hunter2") {
		return fmt.Errorf("the environment is open")
	}
	// Files without a name are given one, and opened again, by this path.
	f, err := os.CreateTemp(".", "f")
	if err != nil {
		return err
	}
	again, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return err
	}
	defer again.Close()
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{ReportErrors: true}))
	if _, err = reg.Gather(); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}
