package rig

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"sync/atomic"
	"testing"
	"time"
)

// Balancer gives each request to the next of several servers in turn, whether that one is well or not. Only where
// nobody listens it goes on to the one after.
type Balancer struct {
	URL  string // http://127.0.0.1:PORT
	Host string // 127.0.0.1:PORT

	heeded atomic.Pointer[[]string] // who is ready, see [Balancer.Heed]
}

// Heed makes the balancer do as those of Kubernetes do: it asks each server every so often whether it is ready, gives
// requests to those alone that were so when it asked last, and tries nobody in another's place.
func (b *Balancer) Heed(t testing.TB, every time.Duration, hubs []*Hub) {
	t.Helper()
	ask := func() {
		var ready []string
		for _, h := range hubs {
			if status, err := get(h.MetricsURL + "/readyz"); err == nil && status == http.StatusOK {
				ready = append(ready, h.Host)
			}
		}
		b.heeded.Store(&ready)
	}
	ask()
	tick := time.NewTicker(every)
	t.Cleanup(tick.Stop)
	go func() {
		for {
			select {
			case <-t.Context().Done():
				return
			case <-tick.C:
				ask()
			}
		}
	}()
}

// get is the status of an answer.
func get(url string) (int, error) {
	c := http.Client{Timeout: 5 * time.Second}
	res, err := c.Get(url) //nolint:noctx // it has a timeout
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}

// Balance starts a balancer before the servers at hosts.
func Balance(t testing.TB, hosts ...string) *Balancer {
	t.Helper()
	b := &Balancer{Host: FreeAddr(t)}
	b.URL = "http://" + b.Host
	var turn atomic.Uint64
	dial := func(ctx context.Context, network, _ string) (conn net.Conn, err error) {
		first := turn.Add(1)
		hosts := hosts
		if ready := b.heeded.Load(); ready != nil && len(*ready) > 0 {
			hosts = []string{(*ready)[first%uint64(len(*ready))]}
		}
		for i := range uint64(len(hosts)) {
			var d net.Dialer
			if conn, err = d.DialContext(ctx, network, hosts[(first+i)%uint64(len(hosts))]); err == nil {
				return conn, nil
			}
		}
		return nil, err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "hubs" // dial says which
			r.Out.Host = r.In.Host                            // a Location leads back through here
			r.Out.Header.Del("Accept-Encoding")
		},
		// A connection for each request: one that is kept would go to the server it went to before.
		Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true, DisableCompression: true},
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // an answer that breaks off
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", b.Host)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: proxy, ReadHeaderTimeout: 10 * time.Second, ErrorLog: proxy.ErrorLog}
	go func() { _ = srv.Serve(l) }() // until Close
	t.Cleanup(func() { _ = srv.Close() })
	return b
}
