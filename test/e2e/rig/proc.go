package rig

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Proc is a program that runs beside the test. Its output is kept, and shown when the test fails. It is killed with
// its process group when the test ends, and by the kernel should the test itself be killed.
// The methods may be used from one goroutine at a time.
type Proc struct {
	Name string

	t       testing.TB
	argv    []string
	env     []string
	logPath string
	user    *syscall.Credential // nil is the test's own

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended; err is set then
	err  error
}

// Run starts argv with env on top of the test's own environment.
func Run(t testing.TB, name string, argv []string, env ...string) *Proc {
	t.Helper()
	return runAs(t, nil, name, argv, env...)
}

// runAs is Run as another user, which only root can do; nil is the test's own.
func runAs(t testing.TB, user *syscall.Credential, name string, argv []string, env ...string) *Proc {
	t.Helper()
	p := &Proc{Name: name, t: t, argv: argv, env: env, user: user}
	p.logPath = filepath.Join(TempDir(t, "log"), name+".log")
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("--- output of %s (its end):\n%s", name, tail(p.Log(), 6<<10))
		}
	})
	p.Start()
	return p
}

// Start starts the program again after it has ended, with the same arguments; output is appended.
func (p *Proc) Start() {
	p.t.Helper()
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: p.user}
	if err := cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", p.Name, err)
	}
	done := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.done = cmd, done
	p.mu.Unlock()
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(done)
	}()
}

// PID is the process id.
func (p *Proc) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Done is closed when the process has ended.
func (p *Proc) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// Wait returns how the process ended, once it has; one that still runs after the time given fails the test.
func (p *Proc) Wait(within time.Duration) error {
	p.t.Helper()
	select {
	case <-p.Done():
	case <-time.After(within):
		p.t.Fatalf("%s still runs after %v", p.Name, within)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Signal sends a signal to the process.
func (p *Proc) Signal(sig syscall.Signal) {
	p.t.Helper()
	if err := syscall.Kill(p.PID(), sig); err != nil {
		p.t.Fatalf("signal %v to %s: %v", sig, p.Name, err)
	}
}

// Kill9 kills the process without a warning, as a crash would, and waits for its end.
func (p *Proc) Kill9() {
	p.t.Helper()
	p.Signal(syscall.SIGKILL)
	_ = p.Wait(10 * time.Second) // "signal: killed"
}

// Stop asks the process to end by SIGTERM and returns how it did; one that takes longer than 30 s fails the test.
func (p *Proc) Stop() error {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	return p.Wait(30 * time.Second)
}

// Pause stops the process where it is, and returns when all its threads stand: its sockets still accept, nothing
// answers.
func (p *Proc) Pause() {
	p.t.Helper()
	p.Signal(syscall.SIGSTOP)
	Eventually(p.t, 10*time.Second, func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID()))
		for _, path := range threads {
			stat, err := os.ReadFile(path)
			if err == nil && !strings.Contains(string(stat), ") T ") {
				return fmt.Errorf("%s still runs: %s", p.Name, stat)
			}
		}
		return err
	})
}

// Resume ends Pause.
func (p *Proc) Resume() { p.t.Helper(); p.Signal(syscall.SIGCONT) }

// WaitReady waits until url answers 200. A process that ends first, or takes longer than 30 s, fails the test.
func (p *Proc) WaitReady(url string) {
	p.t.Helper()
	p.waitReady(func() error {
		client := http.Client{Timeout: 2 * time.Second}
		res, err := client.Get(url)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("GET %s = %s", url, res.Status)
		}
		return nil
	})
}

// waitForReady is how long a program may take to start.
const waitForReady = 30 * time.Second

func (p *Proc) waitReady(check func() error) {
	p.t.Helper()
	Eventually(p.t, waitForReady, func() error {
		select {
		case <-p.Done():
			return GiveUp(fmt.Errorf("%s ended before it was ready: %w", p.Name, p.Wait(0)))
		default:
			return check()
		}
	})
}

// Log is what the process has written so far.
func (p *Proc) Log() string {
	b, err := os.ReadFile(p.logPath)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// RSSAnon is the process's anonymous resident memory in bytes: what it allocated, without its file pages.
func (p *Proc) RSSAnon() int64 {
	p.t.Helper()
	n, err := RSSAnon(p.PID())
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

// kill ends the process and what it started in its group.
func (p *Proc) kill() {
	p.mu.Lock()
	cmd, done := p.cmd, p.done
	p.mu.Unlock()
	if cmd == nil || cmd.Process == nil {
		return
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	<-done
}

// tail returns the last n bytes of s, from the start of a line.
func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	_, s, _ = strings.Cut(s[len(s)-n:], "\n")
	return s
}

// fatal is an error that makes Eventually give up at once.
type fatal struct{ error }

// GiveUp makes err one that Eventually does not wait past.
func GiveUp(err error) error { return fatal{err} }

// Eventually asks check until it returns nil. After the time given, the last error fails the test.
func Eventually(t testing.TB, within time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if f := (fatal{}); errors.As(err, &f) {
			t.Fatal(f.error)
		}
		if time.Now().After(deadline) {
			t.Fatalf("still after %v: %v", within, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
