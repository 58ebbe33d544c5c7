package ociserver_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

type ctx = context.Context

// conn is a TCP connection to a server, read through one buffer.
type conn struct {
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, srv *httptest.Server) *conn {
	t.Helper()
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &conn{c, bufio.NewReader(c)}
}

// readResponse reads an answer up to its body.
func readResponse(t *testing.T, c *conn, method string) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func readAnswer(t *testing.T, c *conn) (status int, body string) {
	t.Helper()
	resp := readResponse(t, c, http.MethodGet)
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// recorder keeps what is logged.
type recorder struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(p)
}

func (r *recorder) logger() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.String()
}

func (r *recorder) has(level string) bool { return strings.Contains(r.String(), "level="+level) }
