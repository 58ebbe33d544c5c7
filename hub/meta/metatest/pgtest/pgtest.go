// Package pgtest runs a real Postgres server for tests: one for all tests of a
// test binary, which stops and leaves nothing behind however the binary ends.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Server is a running Postgres server. It is fast and not safe: what it has
// committed survives its own crash, but not the machine's.
type Server struct {
	dir   string // of its data, socket and log
	stdin *os.File
	done  chan error

	names     atomic.Int64
	mu        sync.Mutex
	templates map[string]func() error
}

var shared = sync.OnceValues(start)

// Shared returns the server of this test binary, which the first call starts.
// Where Postgres is missing, it skips the test; with CI=true in the
// environment it fails it.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	return have(tb, shared)
}

// Start starts a server of tb's own, for tests that break it.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s := have(tb, start)
	tb.Cleanup(s.stop)
	return s
}

func have(tb testing.TB, start func() (*Server, error)) *Server {
	tb.Helper()
	s, err := start()
	switch {
	case errors.Is(err, ErrMissing) && os.Getenv("CI") != "true":
		tb.Skip(err)
	case err != nil:
		tb.Fatal(err)
	}
	return s
}

// ErrMissing says that there is no Postgres on this machine.
var ErrMissing = errors.New("no Postgres here: apt install postgresql")

// Available returns nil when the server of this test binary runs, having
// started it, else why not: [ErrMissing] when there is no Postgres here.
func Available() error {
	_, err := shared()
	return err
}

// find returns the folder of Postgres's newest programs, and who may run them:
// nil for whoever runs the test.
func find() (bin string, as *syscall.Credential, err error) {
	// Only the folder knows the version: 9 sorts after 15.
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	all, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(all) > 0 {
		bin = filepath.Dir(slices.MaxFunc(all, func(a, b string) int { return version(a) - version(b) }))
	} else if path, err := exec.LookPath("initdb"); err == nil {
		bin = filepath.Dir(path)
	} else {
		return "", nil, ErrMissing
	}
	if os.Geteuid() != 0 {
		return bin, nil, nil
	}
	// It refuses to run as root.
	u, err := user.Lookup("postgres")
	if err != nil {
		return "", nil, fmt.Errorf("%w (%w)", ErrMissing, err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return "", nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	return bin, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err //nolint:gosec // ids are small
}

// watch runs the server and starts it again whenever it ends, until its own
// input does, which is when the test binary has ended too, in whatever way. It
// then takes everything away.
const watch = `
while [ -e run ]; do "$@" >>log 2>&1; sleep 0.02; done &
read -r end
rm -f run
kill -QUIT "$(head -n 1 data/postmaster.pid)" 2>/dev/null
wait
cd / && rm -rf "$OLDPWD"
`

func start() (_ *Server, err error) {
	bin, as, err := find()
	if err != nil {
		return nil, err
	}
	// A socket's path must be short, and the folder one that another user may enter.
	dir, err := os.MkdirTemp("/tmp", "pgtest")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if as != nil {
		if err := os.Chown(dir, int(as.Uid), int(as.Gid)); err != nil {
			return nil, err
		}
	}
	data := filepath.Join(dir, "data")
	command := func(name string, args ...string) *exec.Cmd {
		c := exec.Command(name, args...) //nolint:noctx // it outlives the test that starts it
		c.Dir = dir
		// Not this process's group: a ^C is for the tests.
		c.SysProcAttr = &syscall.SysProcAttr{Credential: as, Setpgid: true}
		return c
	}
	// A locale in which names do not sort by byte, as most servers have.
	initdb := command(filepath.Join(bin, "initdb"), "-D", data, "-U", "hub", "--auth=trust", "-E", "UTF8",
		"--no-locale", "--locale-provider=icu", "--icu-locale=en-US", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "run"), nil, 0o600); err != nil {
		return nil, err
	}
	if as != nil {
		if err := os.Chown(filepath.Join(dir, "run"), int(as.Uid), int(as.Gid)); err != nil {
			return nil, err
		}
	}
	args := []string{"-c", watch, "sh", filepath.Join(bin, "postgres"), "-D", data}
	for _, setting := range []string{
		"listen_addresses=", "unix_socket_directories=" + dir, "max_connections=300",
		"fsync=off", "full_page_writes=off", "autovacuum=off", "max_wal_size=4GB", "logging_collector=off",
	} {
		args = append(args, "-c", setting)
	}
	stdin, theirs, err := pipe()
	if err != nil {
		return nil, err
	}
	c := command("sh", args...)
	c.Stdin = theirs
	err = c.Start()
	theirs.Close()
	if err != nil {
		return nil, errors.Join(err, stdin.Close())
	}
	s := &Server{dir: dir, stdin: stdin, done: make(chan error, 1), templates: make(map[string]func() error)}
	go func() { s.done <- c.Wait() }()
	if err := s.await(); err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		s.stop()
		return nil, fmt.Errorf("start postgres: %w: %s", err, log)
	}
	return s, nil
}

// pipe makes a pipe's writing and reading end.
func pipe() (w, r *os.File, err error) {
	r, w, err = os.Pipe()
	return w, r, err
}

// stop ends the server and deletes its files.
func (s *Server) stop() {
	_ = s.stdin.Close()
	<-s.done //nolint:errcheck // it was told to end
}

// await returns once the server takes connections.
func (s *Server) await() error {
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = s.exec("SELECT 1"); err == nil {
			return nil
		}
	}
	return err
}

// Crash kills the server as a crash does, mid-way through whatever it is at,
// and returns when it works again.
func (s *Server) Crash(tb testing.TB) {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "data", "postmaster.pid"))
	if err != nil {
		tb.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		tb.Fatal(err)
	}
	// SIGQUIT is Postgres's "immediate shutdown": no goodbye to anyone, and the
	// next start recovers.
	if err := syscall.Kill(pid, syscall.SIGQUIT); err != nil {
		tb.Fatal(err)
	}
	for syscall.Kill(pid, 0) == nil {
		time.Sleep(time.Millisecond)
	}
	if err := s.await(); err != nil {
		tb.Fatal(err)
	}
}

// DSN is how a database of the server is reached.
func (s *Server) DSN(database string) string {
	return fmt.Sprintf("postgres://hub@/%s?host=%s", database, url.QueryEscape(s.dir))
}

// Database makes an empty database and returns its DSN. It is gone at tb's
// end.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	return s.create(tb, "template1")
}

// Copy makes a copy of the template called name, which prepare fills the first
// time, and returns its DSN. prepare leaves no connection open. The copy is
// gone at tb's end.
func (s *Server) Copy(tb testing.TB, name string, prepare func(dsn string) error) string {
	tb.Helper()
	s.mu.Lock()
	ready, ok := s.templates[name]
	if !ok {
		ready = sync.OnceValue(func() error {
			if err := s.exec("CREATE DATABASE " + name); err != nil {
				return err
			}
			return prepare(s.DSN(name))
		})
		s.templates[name] = ready
	}
	s.mu.Unlock()
	if err := ready(); err != nil {
		tb.Fatalf("template %s: %v", name, err)
	}
	return s.create(tb, name)
}

func (s *Server) create(tb testing.TB, template string) string {
	tb.Helper()
	name := fmt.Sprintf("t%d", s.names.Add(1))
	if err := s.exec("CREATE DATABASE " + name + " TEMPLATE " + template); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.exec("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			tb.Error(err)
		}
	})
	return s.DSN(name)
}

// exec runs a statement, not in a database of the tests.
func (s *Server) exec(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}
