package scan

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// process is a scanner to be run.
type process struct {
	program, socket, tmp string
	javaDB               string // folder of the Java database; "" for none
	as                   *account
	memoryBytes          int64 // of anonymous memory; more is the end
	diskBytes            int64 // of tmp; more is the end too
	timeout              time.Duration
	begun                func(pid int) // called once; 0: it was not begun
}

// processEnd is how it ended.
type processEnd struct {
	err      error // it was not begun
	status   string
	said     string // the end of what it wrote to standard error
	tooLong  bool   // we ended it, for one of these
	tooLarge bool
	diskFull bool
	killed   bool // another ended it
}

// watchEvery is how often its memory is looked at, diskEvery what it has put on
// disk.
const watchEvery, diskEvery = 100 * time.Millisecond, time.Second

// account is whom a process runs as; nil is the hub's own.
type account struct{ uid, gid uint32 }

// run has the process run to its end, which ctx's end is too.
func (p process) run(ctx context.Context) (end processEnd) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The process is to die with the hub, which the kernel takes for: with the
		// thread that began it. So that one stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		end = p.runOnThread(ctx)
	}()
	<-done
	return end
}

func (p process) runOnThread(ctx context.Context) (end processEnd) {
	said := &tail{max: 2 << 10}
	cmd := exec.Command(p.program, "--java-db", p.javaDB, "--socket", p.socket) //nolint:noctx // watch ends it, with all that it has begun
	cmd.Stderr = said
	cmd.Dir = p.tmp
	// Nothing of the hub's own environment: it may hold passwords.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.tmp, "TMPDIR=" + p.tmp}
	cmd.WaitDelay = 5 * time.Second // for who has inherited standard error
	apart(cmd, p.as)
	if err := cmd.Start(); err != nil {
		p.begun(0)
		end.err = err
		return end
	}
	p.begun(cmd.Process.Pid)
	sacrifice(cmd.Process.Pid)
	exited := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() { p.watch(ctx, cmd, exited, &end) })
	err := cmd.Wait()
	close(exited)
	watcher.Wait()
	kill(cmd) // what it may have left behind, in its group
	end.said = said.String()
	if end.status = "exit status 0"; err != nil {
		end.status = err.Error()
	}
	end.killed = wasKilled(cmd.ProcessState) && !end.tooLong && !end.tooLarge && !end.diskFull && ctx.Err() == nil
	return end
}

// watch ends the process when it takes too long or too much.
func (p process) watch(ctx context.Context, cmd *exec.Cmd, exited chan struct{}, end *processEnd) {
	timeout := time.NewTimer(p.timeout)
	defer timeout.Stop()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	disk := time.NewTicker(diskEvery)
	defer disk.Stop()
	for {
		select {
		case <-exited:
			return
		case <-ctx.Done():
		case <-timeout.C:
			end.tooLong = true
		case <-tick.C:
			if anonymousBytes(cmd.Process.Pid) <= p.memoryBytes {
				continue
			}
			end.tooLarge = true
		case <-disk.C:
			if diskBytes(p.tmp) <= p.diskBytes {
				continue
			}
			end.diskFull = true
		}
		kill(cmd)
		return
	}
}

// anonymousBytes is what a process has of memory that no file backs; 0 when that
// is not known. proc(5), "/proc/pid/status".
func anonymousBytes(pid int) int64 {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kb << 10
		}
	}
	return 0
}

// diskBytes is what the files below dir take, each a block at least. What has
// just gone counts as nothing.
func diskBytes(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it has gone
		}
		if info, err := e.Info(); err == nil {
			sum += max(info.Size(), 4<<10)
		}
		return nil
	})
	return sum
}

// tail keeps the end of what is written to it.
type tail struct {
	max int
	mu  sync.Mutex
	b   []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p[max(0, len(p)-t.max):]...)
	t.b = t.b[max(0, len(t.b)-t.max):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}
