package ocitest

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// errCut ends the upstream's copy loop when a fault has ended the answer.
var errCut = errors.New("ocitest: the answer was cut by a fault")

// faultWriter is the ResponseWriter that the upstream writes to: it bends the answer as the fault says and counts
// what went out. One request, one goroutine.
type faultWriter struct {
	http.ResponseWriter
	req      *http.Request
	fault    Fault
	released <-chan struct{} // closed when stalled and hanging answers shall end
	total    *pacer
	own      pacer

	status int
	base   int64  // where in the object the body starts: not 0 for a range
	got    int64  // body bytes taken from the upstream
	sent   int64  // body bytes given to the client
	tail   []byte // held back for ShortBy
	broken bool   // the answer ended before its end
}

// Unwrap lets http.ResponseController reach the connection.
func (w *faultWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// FlushError implements what http.ResponseController flushes by; a connection that was reset is not flushed.
func (w *faultWriter) FlushError() error {
	if w.broken {
		return errCut
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// WriteHeader implements http.ResponseWriter.
func (w *faultWriter) WriteHeader(status int) {
	if status < 200 {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	if w.status != 0 {
		return
	}
	w.status = status
	h := w.Header()
	if status == http.StatusPartialContent {
		w.base = rangeStart(h.Get("Content-Range"))
	}
	h.Del("Content-Encoding")
	if n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64); err == nil {
		n = max(n-w.fault.ShortBy, 0) + int64(len(w.fault.Extra))
		h.Set("Content-Length", strconv.FormatInt(n, 10))
	}
	for k, values := range w.fault.Header {
		if len(values) == 0 {
			h.Del(k)
		} else {
			h[http.CanonicalHeaderKey(k)] = values
		}
	}
	w.own.setRate(w.fault.BytesPerSec)
	w.ResponseWriter.WriteHeader(status)
	if w.fault.CutAt < 0 || w.fault.StallAt < 0 {
		w.breakOff()
	}
}

// Write implements io.Writer. It takes all of p unless the answer is cut.
func (w *faultWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	body := w.corrupt(p)
	w.got += int64(len(p))
	if w.fault.ShortBy > 0 {
		w.tail = append(w.tail, body...)
		ready := max(len(w.tail)-int(w.fault.ShortBy), 0)
		body, w.tail = w.tail[:ready], w.tail[ready:]
	}
	if err := w.send(body); err != nil {
		return 0, err
	}
	return len(p), nil
}

// finish completes an answer whose handler has returned.
func (w *faultWriter) finish() {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if len(w.fault.Extra) > 0 && w.req.Method != http.MethodHead && !w.broken {
		_ = w.send(w.fault.Extra) // a failure is the client's leaving
	}
	if w.broken {
		panic(http.ErrAbortHandler) // net/http flushes and closes: FIN
	}
}

// corrupt returns p, or a copy of it with the byte at CorruptAt flipped when it holds that byte.
func (w *faultWriter) corrupt(p []byte) []byte {
	if w.fault.CorruptAt == 0 {
		return p
	}
	i := max(w.fault.CorruptAt, 1) - 1 - w.base - w.got
	if i < 0 || i >= int64(len(p)) {
		return p
	}
	p = append([]byte(nil), p...)
	p[i] ^= 0xff
	return p
}

// send passes body bytes to the client up to where the fault cuts or stalls.
func (w *faultWriter) send(body []byte) error {
	if w.broken {
		return errCut
	}
	stop := max(w.fault.CutAt, w.fault.StallAt)
	if stop <= 0 || w.sent+int64(len(body)) <= stop {
		return w.pace(body)
	}
	err := w.pace(body[:stop-w.sent])
	w.breakOff()
	return errors.Join(errCut, err)
}

// pace writes body no faster than the fault's and the proxy's limits, in slices of about 50 ms.
func (w *faultWriter) pace(body []byte) error {
	for len(body) > 0 {
		slice := body
		rate := w.own.slower(w.total)
		if rate > 0 {
			slice = body[:min(int64(len(body)), max(rate/20, 1), 32<<10)]
			d := max(w.own.reserve(len(slice)), w.total.reserve(len(slice)))
			if d > 0 && !wait(w.req.Context(), d, nil) {
				return w.req.Context().Err()
			}
		}
		n, err := w.ResponseWriter.Write(slice)
		w.sent += int64(n)
		if err != nil {
			return err
		}
		if rate > 0 {
			_ = w.FlushError()
		}
		body = body[len(slice):]
	}
	return nil
}

// breakOff ends the answer here: what was written goes out, then the connection stalls, resets, or is left for
// finish to close.
func (w *faultWriter) breakOff() {
	_ = w.FlushError()
	w.broken = true
	if w.fault.StallAt != 0 {
		w.hold()
	}
	if w.fault.Reset {
		w.reset()
	}
}

// hold keeps the connection silent until the client leaves or the rules change.
func (w *faultWriter) hold() {
	select {
	case <-w.req.Context().Done():
	case <-w.released:
	}
}

// reset closes the TCP connection with RST: linger 0 drops what the kernel still holds.
func (w *faultWriter) reset() {
	conn, _, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return // HTTP/2: finish resets the stream
	}
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetLinger(0)
	}
	_ = conn.Close()
}

// rangeStart returns N of "bytes N-M/size"; 0 when the header says nothing.
func rangeStart(contentRange string) int64 {
	first, _, _ := strings.Cut(strings.TrimPrefix(contentRange, "bytes "), "-")
	n, _ := strconv.ParseInt(first, 10, 64)
	return n
}

// pacer spreads bytes over time; the zero value does not slow anything.
// A sender that comes late may catch up by 20 ms, so that coarse timers do not lower the rate.
type pacer struct {
	mu   sync.Mutex
	rate int64     // bytes per second; 0 is unlimited
	free time.Time // when all that was reserved has gone out
}

const catchUp = 20 * time.Millisecond

func (p *pacer) setRate(bytesPerSec int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate, p.free = bytesPerSec, time.Time{}
}

// reserve books n bytes and returns how long the caller waits until they have their time.
func (p *pacer) reserve(n int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate <= 0 {
		return 0
	}
	now := time.Now()
	if earliest := now.Add(-catchUp); p.free.Before(earliest) {
		p.free = earliest
	}
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	return p.free.Sub(now)
}

// slower returns the lower of the two rates that are set, 0 when none is.
func (p *pacer) slower(q *pacer) int64 {
	a, b := p.current(), q.current()
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

func (p *pacer) current() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rate
}
