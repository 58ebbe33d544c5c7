package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// spent is what a program used, by the kernel's account of it (wait4). Whoever starts a process is part of that account:
// its peak is at least the memory of the one it was forked from. So it is started by a small one, this test's own program
// under another name, and not from the midst of a bench.
type spent struct {
	PeakBytes int64
	CPU, Wall time.Duration
}

// metered is a program that says what it used.
type metered struct {
	path string // to start in its place, with its arguments
	to   string
}

// meterName is by what name this program starts another.
const meterName = "bench-meter"

type meterConfig struct {
	Program string
	Nice    int    // 0 leaves it
	To      string // where a spent is written
}

// meter makes a metered program.
func meter(t *testing.T, program string, nice int) metered {
	t.Helper()
	dir := rig.TempDir(t, "meter")
	self, err := os.Executable()
	m := metered{filepath.Join(dir, meterName), filepath.Join(dir, "spent")}
	if err == nil {
		err = os.Symlink(self, m.path)
	}
	text, jsonErr := json.Marshal(meterConfig{program, nice, m.to})
	if err := errors.Join(err, jsonErr); err != nil {
		t.Fatal(err)
	}
	write(t, m.path+".json", string(text))
	return m
}

// spent is what it used when it last ran.
func (m metered) spent(t *testing.T) (s spent) {
	t.Helper()
	text, err := os.ReadFile(m.to)
	if err == nil {
		err = errors.Join(json.Unmarshal(text, &s), os.Remove(m.to))
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// peakSoFar is the peak of its resident memory up to now in MB, while it runs; else 0.
func (m metered) peakSoFar() (mb float64) {
	text, err := os.ReadFile(m.to + ".pid")
	if err != nil {
		return 0
	}
	var kb float64
	_, _ = fmt.Sscanf(field("/proc/"+string(text)+"/status", "VmHWM"), "%f kB", &kb) // 0 once it has ended
	return kb * 1024 / 1e6
}

// beMeter starts the other program and ends as it does, when this process is to do that.
func beMeter() {
	if filepath.Base(os.Args[0]) != meterName {
		return
	}
	status, err := runMetered(os.Args[0]+".json", os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func runMetered(config string, args []string) (status int, err error) {
	text, err := os.ReadFile(config)
	if err != nil {
		return 0, err
	}
	var c meterConfig
	if err := json.Unmarshal(text, &c); err != nil {
		return 0, err
	}
	if c.Nice != 0 {
		if err := unix.Setpriority(unix.PRIO_PGRP, 0, c.Nice); err != nil {
			return 0, err
		}
	}
	cmd := exec.Command(c.Program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	if err := os.WriteFile(c.To+".pid", strconv.AppendInt(nil, int64(cmd.Process.Pid), 10), 0o600); err != nil {
		return 0, err
	}
	_ = cmd.Wait() // how it ended is passed on
	s := spent{Wall: time.Since(begun), CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		s.PeakBytes = u.Maxrss << 10
	}
	out, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(c.To, out, 0o600)
	}
	return cmd.ProcessState.ExitCode(), err
}
