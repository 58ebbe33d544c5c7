// Package httpx is what every HTTP server of the project shares: handlers that
// return errors, the one middleware around them, listening, TLS and graceful
// stop, and the parts of RFC 9110 that net/http leaves to handlers (single
// ranges, entity tags, forwarded addresses).
//
// It knows no routes and no resources; pkg/ociserver, hub/api, hub/web and
// nodeagent/status bring theirs. A server is put together as
//
//	mw := httpx.Middleware{Log: log, Metrics: httpx.NewMetrics(reg, "manifest", "blob")}
//	ln, err := httpx.Listen(cfg.Listen)
//	err = httpx.Serve(ctx, ln, mw.Wrap(mux), httpx.Options{Log: log})
package httpx
