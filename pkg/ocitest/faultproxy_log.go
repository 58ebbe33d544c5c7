package ocitest

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"sync"
	"time"
)

// Request is one request that a FaultProxy got. It is written down when it arrives; Status, Bytes and Dur are known,
// and Done true, once its answer has ended.
type Request struct {
	Method string
	Host   string
	Path   string
	Query  url.Values
	Header http.Header
	User   string // whose credentials it carried, when the proxy asks for any; "" is anonymous or unknown
	Start  time.Time

	Done    bool
	Faulted bool          // a Fault matched it
	Status  int           // 0: no answer was given
	Bytes   int64         // of the body that was sent
	Dur     time.Duration // from arrival to the last byte
}

// requestLog holds the requests in the order in which they came.
type requestLog struct {
	mu      sync.Mutex
	entries []*Request
	grown   chan struct{} // closed at the next change; nil while nobody waits
}

func (l *requestLog) begin(r *http.Request, faulted bool) *Request {
	e := &Request{
		Method: r.Method, Host: r.Host, Path: r.URL.Path, Query: r.URL.Query(), Header: r.Header.Clone(),
		Start: time.Now(), Faulted: faulted,
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, e)
	l.wakeLocked()
	return e
}

func (l *requestLog) setUser(e *Request, user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.User = user
}

func (l *requestLog) end(e *Request, status int, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Done, e.Status, e.Bytes, e.Dur = true, status, bytes, time.Since(e.Start)
	l.wakeLocked()
}

func (l *requestLog) wakeLocked() {
	if l.grown != nil {
		close(l.grown)
		l.grown = nil
	}
}

// Requests returns what was asked since the start or the last ResetLog, in the order of arrival.
func (p *FaultProxy) Requests() []Request {
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	all := make([]Request, len(p.log.entries))
	for i, e := range p.log.entries {
		all[i] = *e
	}
	return all
}

// ResetLog forgets the requests so far. One that still runs is not seen again.
func (p *FaultProxy) ResetLog() {
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	p.log.entries = nil
}

// Count returns how many requests had this method ("" is any) and a path in which the regular expression is found.
// It panics when path does not compile.
func (p *FaultProxy) Count(method, path string) int {
	n, _ := p.tally(method, path)
	return n
}

// Sent returns how many body bytes the requests that Count counts were sent so far; of one that runs, none yet.
func (p *FaultProxy) Sent(method, path string) int64 {
	_, sent := p.tally(method, path)
	return sent
}

func (p *FaultProxy) tally(method, path string) (n int, sent int64) {
	re := regexp.MustCompile(path)
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	for _, e := range p.log.entries {
		if (method == "" || method == e.Method) && re.MatchString(e.Path) {
			n++
			sent += e.Bytes
		}
	}
	return n, sent
}

// Wait returns when n requests match as in Count, or ctx's error with what was asked instead.
func (p *FaultProxy) Wait(ctx context.Context, n int, method, path string) error {
	err := p.log.until(ctx, func() bool { return p.Count(method, path) >= n })
	if err != nil {
		return fmt.Errorf("%d of %d requests %s %s came, all: %v: %w", p.Count(method, path), n, method, path, p.lines(), err)
	}
	return nil
}

// Idle returns when every request of the log has ended, or ctx's error.
func (p *FaultProxy) Idle(ctx context.Context) error {
	running := func(r Request) bool { return !r.Done }
	err := p.log.until(ctx, func() bool { return !slices.ContainsFunc(p.Requests(), running) })
	if err != nil {
		return fmt.Errorf("requests still run: %v: %w", p.lines(), err)
	}
	return nil
}

// until returns when the log, asked again after each change, meets cond.
func (l *requestLog) until(ctx context.Context, cond func() bool) error {
	for {
		l.mu.Lock()
		if l.grown == nil {
			l.grown = make(chan struct{})
		}
		grown := l.grown
		l.mu.Unlock()
		if cond() {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lines returns the log in short, for messages.
func (p *FaultProxy) lines() []string {
	return slices.Collect(func(yield func(string) bool) {
		for _, r := range p.Requests() {
			if !yield(fmt.Sprintf("%s %s %d", r.Method, r.Path, r.Status)) {
				return
			}
		}
	})
}
