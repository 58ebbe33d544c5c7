package httpx

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"
)

// Middleware is what is around every handler: a request id, one line in the
// access log, one observation, and an answer in place of a panic. The zero
// value works, silently.
type Middleware struct {
	Log       *slog.Logger // nil: no log
	Metrics   *Metrics     // nil: not counted
	Forwarded Forwarded    // tells the client's address from a proxy's
}

// Wrap puts the middleware around h. Wrap once, outermost.
//
// The log line is "request" with method path status bytes dur remote id, ns
// when the query has it (nothing else of the query is ever logged), and err.
// Its level is Info; Warn when the answer was an error of ours or was cut
// short; Error when a person should look.
func (m Middleware) Wrap(h http.Handler) http.Handler {
	if m.Log == nil {
		m.Log = slog.New(slog.DiscardHandler)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		rec := newRecord(w, r)
		id := requestID(r)
		rec.Header().Set(requestIDHeader, id)
		defer func() {
			// First the panic, then the line about what came of it, and that
			// also when the panic goes on from here.
			defer m.observe(rec, r, id, began)
			if p := recover(); p != nil {
				m.recovered(rec, r, id, p)
			}
		}()
		h.ServeHTTP(rec, r)
		rec.sent() // net/http sends 200 for a handler that wrote nothing
	})
}

// recovered ends the response of a handler that panicked. http.ErrAbortHandler
// is how a handler cuts the connection, and goes on to net/http.
func (m Middleware) recovered(rec *record, r *http.Request, id string, p any) {
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		if rec.err == nil { // it is the handler's own; Handle has noted its reasons
			rec.err = http.ErrAbortHandler
			if rec.cut = r.Context().Err() == nil; !rec.cut && rec.status == 0 {
				rec.status = statusClientGone
			}
		}
		panic(http.ErrAbortHandler)
	}
	m.Log.Error("panic", "value", fmt.Sprint(p), "stack", string(debug.Stack()), "method", r.Method, "path", r.URL.Path, "id", id)
	rec.err = errPanic
	rec.fail(r, func() { RenderError(rec, r, errPanic) })
}

var errPanic = errors.New("the handler panicked")

func (m Middleware) observe(rec *record, r *http.Request, id string, began time.Time) {
	dur := time.Since(began)
	m.Metrics.observe(rec, r, dur)

	level := slog.LevelInfo
	switch {
	case rec.status == http.StatusInternalServerError, rec.status == http.StatusInsufficientStorage, rec.err == errPanic:
		level = slog.LevelError
	case rec.status >= 500, rec.cut:
		level = slog.LevelWarn
	}
	h := m.Log.Handler()
	if !h.Enabled(r.Context(), level) {
		return
	}
	line := slog.NewRecord(time.Now(), level, "request", 0) // by the Logger it would cost a walk of the stack, for a source that no line shows
	line.AddAttrs(
		slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("status", rec.status),
		slog.Int64("bytes", rec.bytes), slog.Duration("dur", dur), slog.String("remote", m.remote(r)), slog.String("id", id),
	)
	if strings.Contains(r.URL.RawQuery, "ns=") {
		if ns := r.URL.Query().Get("ns"); ns != "" {
			line.AddAttrs(slog.String("ns", ns))
		}
	}
	if rec.err != nil {
		line.AddAttrs(slog.Any("err", rec.err))
	}
	_ = h.Handle(r.Context(), line) // the Logger, too, would not say
}

// remote is the client's address, without a port; as net/http has it where
// that is no address (a Unix socket).
func (m Middleware) remote(r *http.Request) string {
	if ip := m.Forwarded.ClientIP(r); ip != (netip.Addr{}) {
		return ip.String()
	}
	return r.RemoteAddr
}
