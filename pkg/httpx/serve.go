package httpx

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 120 * time.Second
	maxHeaderBytes    = 64 << 10
	closeTimeout      = 5 * time.Second // for handlers to see that their connection is gone
)

// Options of [Serve]. The zero value works: HTTP, 30 s of grace, no log.
type Options struct {
	// Delay is how long connections are still taken when stopping, for whoever
	// sends them to notice that this server is not ready any more. 0 is none.
	Delay time.Duration
	Grace time.Duration // for running requests when stopping; 0 means 30 s
	TLS   TLSFiles      // HTTPS when a certificate is named
	Log   *slog.Logger  // of what net/http and the certificates have to say; nil: none
}

// Serve answers connections of ln with h until ctx ends, and for o.Delay after
// that, each answer telling its client to use another connection next time
// ("Connection: close", or GOAWAY). Then it accepts no more, lets running
// requests finish for o.Grace, cuts those that have not (their contexts end),
// and closes ln. It returns when all handlers have, or a few seconds after they
// were cut: nil when none had to be.
//
// There is no limit to the time of a whole request, since layers are large and
// links slow; handlers set deadlines as they make progress. Request contexts
// have the values of ctx, and not its end.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Grace == 0 {
		o.Grace = 30 * time.Second
	}
	base, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var running atomic.Int64
	var stopping atomic.Bool
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			running.Add(1)
			defer running.Add(-1)
			if stopping.Load() {
				w.Header().Set("Connection", "close")
			}
			h.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return base },
	}
	serve := srv.Serve
	if o.TLS.CertFile != "" {
		certs, err := newCertificates(o.TLS, o.Log)
		if err != nil {
			ln.Close()
			return err
		}
		srv.TLSConfig = &tls.Config{GetConfigForClient: certs.config, MinVersion: tls.VersionTLS12}
		serve = func(ln net.Listener) error { return srv.ServeTLS(ln, "", "") }
	}

	failed := make(chan error, 1)
	go func() { failed <- serve(ln) }()
	ended := func(err error) error {
		srv.Close()
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	}
	select {
	case err := <-failed:
		return ended(err)
	case <-ctx.Done():
	}
	if o.Delay > 0 {
		stopping.Store(true)
		select {
		case err := <-failed:
			return ended(err)
		case <-time.After(o.Delay):
		}
	}
	grace, cancel := context.WithTimeout(base, o.Grace)
	defer cancel()
	err := srv.Shutdown(grace)
	if err != nil {
		cut()
		srv.Close()
		waitFor(&running, closeTimeout)
	}
	if closed := <-failed; err == nil && !errors.Is(closed, http.ErrServerClosed) {
		err = closed
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("serve %s: requests that ran longer than the %v of grace were cut", ln.Addr(), o.Grace)
	}
	return err
}

// waitFor waits for running to be zero, limit at most.
func waitFor(running *atomic.Int64, limit time.Duration) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); running.Load() > 0 && time.Now().Before(end); {
		<-tick.C
	}
}
