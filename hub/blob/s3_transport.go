package blob

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// transport cuts a request that stands still. How long one may take in all is
// not limited: nobody knows how large it is and how slow the network.
//
// It also sees to it that a request's body is left alone once RoundTrip has
// returned, which net/http does not promise: the memory it is read from is
// used again.
type transport struct {
	*http.Transport
	stall time.Duration
}

// newTransport trusts the certificates of caFile too, unless that is "".
func newTransport(stall time.Duration, caFile string) (*transport, error) {
	var trust *tls.Config
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("s3 caFile: %w", err)
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("s3 caFile %s: holds no certificate in PEM", caFile)
		}
		trust = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return &transport{stall: stall, Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		TLSClientConfig:     trust,
		TLSHandshakeTimeout: 10 * time.Second,
		// All go to one host; a connection costs a handshake.
		MaxIdleConns:        256,
		MaxIdleConnsPerHost: 256,
		IdleConnTimeout:     30 * time.Second,
		DisableCompression:  true,
		WriteBufferSize:     128 << 10,
		ReadBufferSize:      64 << 10,
	}}, nil
}

type patience struct{}

// patiently gives requests longer, for what a server may do at length before
// it says a word.
func patiently(ctx context.Context) context.Context {
	return context.WithValue(ctx, patience{}, true)
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	limit := t.stall
	if req.Context().Value(patience{}) != nil {
		limit *= 10
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	watch := &watch{limit: limit}
	watch.timer = time.AfterFunc(limit, func() { cancel(fmt.Errorf("%w for %v", oci.ErrStalled, limit)) })
	req = req.WithContext(ctx)
	var body *requestBody
	if req.Body != nil && req.Body != http.NoBody {
		body = &requestBody{ReadCloser: req.Body, watch: watch, left: req.ContentLength}
		req.Body = body
	}
	resp, err := t.Transport.RoundTrip(req)
	if body != nil {
		body.end()
	}
	watch.timer.Stop()
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, oci.ErrStalled) {
			err = cause
		}
		cancel(nil)
		return nil, err
	}
	resp.Body = &responseBody{ReadCloser: resp.Body, watch: watch, ctx: ctx, cancel: cancel}
	return resp, nil
}

// watch is a timer that is put off by progress.
type watch struct {
	timer *time.Timer
	limit time.Duration
}

// requestBody notes what is sent.
type requestBody struct {
	io.ReadCloser
	watch *watch

	mu    sync.Mutex
	left  int64
	ended bool
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		if b.left <= 0 {
			return 0, io.EOF
		}
		return 0, errors.New("the request is over")
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	b.watch.timer.Reset(b.watch.limit)
	return n, err
}

func (b *requestBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
}

// responseBody is watched while it is read: who reads it may be slow.
type responseBody struct {
	io.ReadCloser
	watch  *watch
	ctx    context.Context // the request's
	cancel context.CancelCauseFunc
}

func (b *responseBody) Read(p []byte) (int, error) {
	b.watch.timer.Reset(b.watch.limit)
	n, err := b.ReadCloser.Read(p)
	b.watch.timer.Stop()
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); errors.Is(cause, oci.ErrStalled) {
			err = cause
		}
	}
	return n, err
}

func (b *responseBody) Close() error {
	b.cancel(nil)
	return b.ReadCloser.Close()
}
