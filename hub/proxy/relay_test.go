package proxy

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// relay stands between a hub and its Postgres, and breaks the connection on
// which a fill is committed at that very moment.
type relay struct {
	dsn    string
	server string // its socket

	mu      sync.Mutex
	strike  bool // at the next such commit
	arrives bool // the server is to get it
	refuse  bool // no connections after that
	down    bool
	conns   map[net.Conn]struct{}
}

// socketName is Postgres's for its default port, in the folder that a DSN calls
// host.
const socketName = ".s.PGSQL.5432"

func newRelay(t *testing.T, dsn string) *relay {
	t.Helper()
	u, err := url.Parse(dsn)
	must(t, err)
	q := u.Query()
	r := &relay{server: filepath.Join(q.Get("host"), socketName), conns: make(map[net.Conn]struct{})}
	dir, err := os.MkdirTemp("", "relay") //nolint:usetesting // a socket's path is short
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	l, err := net.Listen("unix", filepath.Join(dir, socketName))
	must(t, err)
	t.Cleanup(func() { l.Close() })
	q.Set("host", dir)
	u.RawQuery = q.Encode()
	r.dsn = u.String()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go r.serve(conn)
		}
	}()
	return r
}

// arm makes the next commit of a fill one whose answer is lost. arrives says
// whether it happens; refuse, that the database is away from then on.
func (r *relay) arm(arrives, refuse bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.strike, r.arrives, r.refuse = true, arrives, refuse
}

// cut takes the database away.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away()
}

// away closes all connections; r.mu is held.
func (r *relay) away() {
	r.down = true
	for c := range r.conns {
		c.Close()
	}
}

// up ends that.
func (r *relay) up() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = false
}

func (r *relay) struck() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.strike
}

var (
	keyInMessage = regexp.MustCompile(`b/[0-9a-f]{2}/[0-9a-f]{8}-`)
	commit       = []byte("commit\x00")
)

func (r *relay) serve(client net.Conn) {
	defer client.Close()
	if !r.enter(client) {
		return
	}
	defer r.leave(client)
	server, err := net.Dial("unix", r.server)
	if err != nil {
		return
	}
	defer server.Close()
	var lost sync.Mutex // held while an answer is not to be passed on
	go func() {
		defer client.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			lost.Lock()
			if _, werr := client.Write(buf[:n]); err != nil || werr != nil {
				lost.Unlock()
				return
			}
			lost.Unlock()
		}
	}()
	buf := make([]byte, 64<<10)
	keyed := false // a storage key was spoken of since the transaction began
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		text := buf[:n]
		if strings.Contains(strings.ToLower(string(text)), "begin") {
			keyed = false
		}
		keyed = keyed || keyInMessage.Match(text)
		if keyed && bytes.Contains(bytes.ToLower(text), commit) {
			if strike, arrives := r.strikes(); strike {
				if arrives {
					lost.Lock()
					defer lost.Unlock()
					_, _ = server.Write(text)
					client.Close()
					if c, ok := server.(*net.UnixConn); ok {
						_ = c.CloseWrite() // the server ends once it has done what it was told
					}
					_, _ = io.Copy(io.Discard, server)
				}
				return
			}
		}
		if _, err := server.Write(text); err != nil {
			return
		}
	}
}

func (r *relay) strikes() (strike, arrives bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	strike = r.strike
	r.strike = false
	if strike && r.refuse {
		r.away()
	}
	return strike, r.arrives
}

// enter says whether a connection may be made.
func (r *relay) enter(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.down {
		r.conns[c] = struct{}{}
	}
	return !r.down
}

func (r *relay) leave(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}
