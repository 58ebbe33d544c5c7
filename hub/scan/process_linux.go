package scan

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// apart has a process be the first of a group of its own, die with the thread
// that began it, and run as an account.
func apart(cmd *exec.Cmd, as *account) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if as != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: as.uid, Gid: as.gid}
	}
}

// sacrifice makes a process the first to be killed when memory runs out, and the
// last to be given time. That it may fail is no matter.
func sacrifice(pid int) {
	_ = os.WriteFile(filepath.Join("/proc", strconv.Itoa(pid), "oom_score_adj"), []byte("1000"), 0)
	_ = syscall.Setpriority(syscall.PRIO_PGRP, pid, 10)
}

// kill ends a process and all of its group. What it began may have left that, by
// setsid(2).
func kill(cmd *exec.Cmd) { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }

// peer is the process that has connected to a Unix socket. unix(7),
// "SO_PEERCRED".
func peer(c net.Conn) (pid int, known bool) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, true
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, true
	}
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid, true
}

// wasKilled says whether a process was ended by SIGKILL.
func wasKilled(s *os.ProcessState) bool {
	w, ok := s.Sys().(syscall.WaitStatus)
	return ok && w.Signaled() && w.Signal() == syscall.SIGKILL
}
