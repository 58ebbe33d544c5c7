package rig

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/breakwater-oci/breakwater/test/need"
)

// Postgres is a running PostgreSQL server with the superuser bw, who needs no password. Unless it was asked to, it does
// not sync its files: it loses nothing when it is killed, as long as the machine stays up.
type Postgres struct {
	*Proc
	Host string // 127.0.0.1:PORT

	bin    string // folder of its programs
	dir    string
	synced bool
	user   *syscall.Credential
}

// StartPostgres starts an empty server.
func StartPostgres(t testing.TB) *Postgres {
	t.Helper()
	return startPostgres(t, false)
}

// StartSyncedPostgres starts one that survives the machine's end, as it is run for good: to measure with.
func StartSyncedPostgres(t testing.TB) *Postgres {
	t.Helper()
	return startPostgres(t, true)
}

func startPostgres(t testing.TB, synced bool) *Postgres {
	t.Helper()
	p := newPostgres(t)
	p.synced = synced
	p.command("initdb", "-D", p.dir, "-U", "bw", "--auth=trust", "-E", "UTF8", "--no-locale", "--no-sync")
	p.serve()
	return p
}

// Standby starts a server that follows p, and makes p wait for it before it says that anything is committed.
func (p *Postgres) Standby() *Postgres {
	p.t.Helper()
	s := newPostgres(p.t)
	host, port, _ := net.SplitHostPort(p.Host)
	s.command("pg_basebackup", "-D", s.dir, "-h", host, "-p", port, "-U", "bw", "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
	s.serve()
	p.SQL("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'")
	p.SQL("postgres", "SELECT pg_reload_conf()")
	Eventually(p.t, waitForReady, func() error {
		if state := p.SQL("postgres", "SELECT coalesce(max(sync_state), 'none') FROM pg_stat_replication"); state != "sync" {
			return errors.New("the standby is " + state)
		}
		return nil
	})
	return s
}

// Promote makes a standby a server of its own, one that can be written to.
func (p *Postgres) Promote() {
	p.t.Helper()
	p.command("pg_ctl", "promote", "-D", p.dir, "-w")
}

// newPostgres makes a server's folder, which its user owns.
func newPostgres(t testing.TB) *Postgres {
	t.Helper()
	p := &Postgres{Host: FreeAddr(t), bin: filepath.Dir(need.Program(t, "initdb")), dir: filepath.Join(TempDir(t, "pg"), "data")}
	p.Proc = &Proc{t: t}
	if os.Geteuid() != 0 {
		return p
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		need.Missing(t, "the user postgres is missing: run `apt-get install postgresql-15`, or `make rig` as root")
	}
	uid, errUID := strconv.Atoi(u.Uid)
	gid, errGID := strconv.Atoi(u.Gid)
	if err := errors.Join(errUID, errGID, os.Chown(filepath.Dir(p.dir), uid, gid)); err != nil {
		t.Fatal(err)
	}
	p.user = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)} //nolint:gosec // ids are small
	return p
}

// serve starts the server and waits until it takes connections.
func (p *Postgres) serve() {
	p.t.Helper()
	_, port, _ := net.SplitHostPort(p.Host)
	argv := []string{
		filepath.Join(p.bin, "postgres"), "-D", p.dir, "-c", "listen_addresses=127.0.0.1", "-c", "port=" + port, "-c", "unix_socket_directories=",
		"-c", "max_connections=200",
	}
	if !p.synced {
		argv = append(argv, "-c", "fsync=off", "-c", "full_page_writes=off", "-c", "shared_buffers=64MB")
	}
	p.Proc = runAs(p.t, p.user, "postgres", argv)
	p.WaitReady()
}

// WaitReady waits until the server takes connections: after Start, for StartPostgres has done so.
func (p *Postgres) WaitReady() {
	p.t.Helper()
	p.waitReady(func() error {
		_, err := p.psql("postgres", "SELECT 1")
		return err
	})
}

// Crash ends the server at once, as `pg_ctl stop -m immediate` does: connections break, and what had not been
// committed is undone at the next Start.
func (p *Postgres) Crash() {
	p.t.Helper()
	p.Signal(syscall.SIGQUIT)
	_ = p.Wait(waitForReady) // it ends by an error
}

// DSN makes an empty database and says how to connect to it. With followers, it is found wherever it can be written to.
func (p *Postgres) DSN(database string, followers ...*Postgres) string {
	p.t.Helper()
	p.SQL("postgres", "CREATE DATABASE "+database)
	var hosts, ports []string
	for _, s := range append([]*Postgres{p}, followers...) {
		host, port, _ := net.SplitHostPort(s.Host)
		hosts, ports = append(hosts, host), append(ports, port)
	}
	return fmt.Sprintf("host=%s port=%s user=bw dbname=%s sslmode=disable target_session_attrs=read-write",
		strings.Join(hosts, ","), strings.Join(ports, ","), database)
}

// SQL runs one statement and returns what it says: a line for each row, columns between bars.
func (p *Postgres) SQL(database, statement string) string {
	p.t.Helper()
	out, err := p.psql(database, statement)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

func (p *Postgres) psql(database, statement string) (string, error) {
	host, port, _ := net.SplitHostPort(p.Host)
	cmd := exec.Command(filepath.Join(p.bin, "psql"), "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", host, "-p", port, "-U", "bw", "-d", database, "-c", statement)
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql: %s: %w: %s", statement, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// command runs one of the server's programs to its end, as its user.
func (p *Postgres) command(name string, args ...string) {
	p.t.Helper()
	cmd := exec.Command(filepath.Join(p.bin, name), args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.user}
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("%s: %v: %s", name, err, out)
	}
}
