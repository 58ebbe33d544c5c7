package ociclient

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// NewTransport is the transport that a client with these options has, for what
// else is asked of the same host: its CA file is followed, its timeouts hold for
// connecting. It sends no credentials.
func NewTransport(o Options) (http.RoundTripper, error) {
	o.DialTimeout = cmp.Or(o.DialTimeout, 3*time.Second)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return newTransport(o)
}

// newTransport makes the transport that o describes.
func newTransport(o Options) (*renewable, error) {
	build := func(roots *x509.CertPool) *http.Transport {
		return &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: o.DialTimeout}).DialContext,
			TLSHandshakeTimeout: o.DialTimeout,
			TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:   true,
			// A connection that dies in silence under a running body is noticed.
			HTTP2:               &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
			DisableCompression:  true, // digests are of the bytes as they are
			MaxIdleConns:        64,
			MaxIdleConnsPerHost: 64,
			IdleConnTimeout:     90 * time.Second,
		}
	}
	t := &renewable{file: o.CAFile, build: build, cur: build(nil), log: o.Log}
	if o.CAFile == "" {
		return t, nil
	}
	info, err := os.Stat(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	roots, err := loadRoots(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	t.seen, t.roots, t.cur = info, roots, build(roots)
	return t, nil
}

// loadRoots is the system's roots and those of file.
func loadRoots(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("system roots: %w", err)
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", file)
	}
	return roots, nil
}

// renewable is a transport that can be built anew while it is used: when its CA
// file changes, or to leave behind connections that may be dead. A file that is
// gone or broken leaves the roots as they were, and is logged once.
type renewable struct {
	file  string // "" is none
	build func(*x509.CertPool) *http.Transport
	log   *slog.Logger

	mu    sync.Mutex
	seen  os.FileInfo // of the file as it was last looked at; nil when it was gone
	roots *x509.CertPool
	cur   *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (t *renewable) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.current().RoundTrip(r)
}

// CloseIdleConnections is what http.Client looks for.
func (t *renewable) CloseIdleConnections() { t.current().CloseIdleConnections() }

// renew makes later requests use new connections. Requests that run go on.
func (t *renewable) renew() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.renewLocked()
}

func (t *renewable) renewLocked() {
	old := t.cur
	t.cur = t.build(t.roots)
	old.CloseIdleConnections()
}

func (t *renewable) current() *http.Transport {
	if t.file != "" {
		t.reload()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cur
}

// reload looks at the CA file, which costs a stat with each request.
func (t *renewable) reload() {
	info, err := os.Stat(t.file)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil && t.seen != nil && sameFile(info, t.seen) || err != nil && t.seen == nil {
		return
	}
	t.seen = info // nil on error
	roots, err := loadRoots(t.file)
	if err != nil {
		t.log.Warn("CA file cannot be reloaded, its old certificates stay in use", "file", t.file, "err", err)
		return
	}
	t.roots = roots
	t.renewLocked()
	t.log.Info("CA file reloaded", "file", t.file)
}

func sameFile(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}
