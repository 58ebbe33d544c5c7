package ocitest

import (
	"context"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Fault is one thing that goes wrong. The zero value of the first group matches every request, always; the zero value
// of the rest leaves the upstream's answer as it is. Byte positions in CutAt, StallAt and CorruptAt start at 1, so
// that 0 can mean "off"; a negative one means right after the headers.
type Fault struct {
	Method string         // "" is any method; "GET" does not match HEAD
	Path   *regexp.Regexp // searched in the URL's path; nil is any
	After  int            // this many matching requests pass first
	Times  int            // then the fault strikes this often; 0 is always

	Delay time.Duration // before anything else is done with the request
	Hang  bool          // no answer at all, until the client leaves or the rules change

	Status int         // answer this instead of asking the upstream; 0 asks it
	Body   string      // of the answer that Status makes; JSON is labelled as JSON
	HTML   bool        // answer 200 with a web page, as a captive portal or a broken proxy does
	Header http.Header // set on the answer, whoever made it; a key without values is removed

	CutAt       int64  // close the connection when this many body bytes of this answer are out
	Reset       bool   // makes CutAt a TCP reset, not FIN; without CutAt there is a reset and no answer
	StallAt     int64  // send nothing more after this many body bytes, but keep the connection
	CorruptAt   int64  // flip the byte at this position of the object (a range's own offset counts)
	ShortBy     int64  // declare and send this many bytes less: complete to look at, but short
	Extra       []byte // declared and sent after the upstream's body
	BytesPerSec int64  // a trickle: the pace of this answer's body
}

// FaultProxy stands in front of a registry, writes down what it is asked, and fails as it is told. It can ask for
// credentials as Docker Hub does (Bearer) or plainly (Basic), and count pulls against a limit (RateLimit). Answers
// never carry a Content-Encoding. All methods may be called at any time, also while requests run.
//
// A request is checked in this order: Down, the faults, credentials, the pull limit, the upstream. So a fault can
// speak in the name of each of the later steps, the token endpoint included.
type FaultProxy struct {
	upstream http.Handler
	log      requestLog
	total    pacer // of all bodies together

	mu        sync.Mutex
	faults    []*armedFault
	changed   chan struct{} // closed when the rules change: hanging requests end
	down      bool
	tokenDown bool
	auth      authorizer // nil asks for nothing
	quota     *quota     // nil counts nothing
}

// armedFault is a Fault and how often it matched and struck.
type armedFault struct {
	Fault
	seen, struck int
}

// NewFaultProxy returns a proxy in front of upstream that does nothing but write down requests yet.
func NewFaultProxy(upstream http.Handler) *FaultProxy {
	return &FaultProxy{upstream: upstream, changed: make(chan struct{})}
}

// Forward returns a handler that passes requests on to the server at rawURL, byte for byte: without compression and
// with the Host header that came in, so that a Location in the answer leads back through the proxy.
// It panics when rawURL is not an absolute URL, which is a mistake in the test.
func Forward(rawURL string) http.Handler {
	target, err := url.Parse(rawURL)
	if err != nil || target.Host == "" {
		panic("ocitest: Forward needs an absolute URL, not " + rawURL)
	}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
			r.Out.Header.Del("Accept-Encoding")
		},
		Transport: &http.Transport{
			DisableCompression:  true,
			MaxIdleConnsPerHost: 64,
			IdleConnTimeout:     30 * time.Second,
		},
		FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
}

// Set replaces all faults by these; the first one that matches a request and is not used up strikes.
// Requests that hang or stall because of the old ones lose their connection, and a Delay is over at once.
func (p *FaultProxy) Set(faults ...Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
	p.addLocked(faults)
	close(p.changed)
	p.changed = make(chan struct{})
}

// Add puts faults behind those that are there. Their counts, and requests that hang, go on.
func (p *FaultProxy) Add(faults ...Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.addLocked(faults)
}

func (p *FaultProxy) addLocked(faults []Fault) {
	for _, f := range faults {
		p.faults = append(p.faults, &armedFault{Fault: f})
	}
}

// Clear takes all faults away. Credentials, the pull limit, Down and the pace of Limit stay as they are.
func (p *FaultProxy) Clear() { p.Set() }

// Down makes the proxy close every connection without an answer, or ends that. Answers that run already go on.
func (p *FaultProxy) Down(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

// TokenDown is Down for the token endpoint of Bearer alone.
func (p *FaultProxy) TokenDown(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tokenDown = down
}

// Limit caps the bytes per second of all bodies together; 0 takes the cap away.
func (p *FaultProxy) Limit(bytesPerSec int64) { p.total.setRate(bytesPerSec) }

// ServeHTTP implements http.Handler.
func (p *FaultProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	down := p.down || p.tokenDown && r.URL.Path == tokenPath
	var fault Fault
	struck := false
	if !down {
		fault, struck = p.strikeLocked(r)
	}
	changed, auth, quota := p.changed, p.auth, p.quota
	p.mu.Unlock()

	fw := &faultWriter{ResponseWriter: w, req: r, fault: fault, released: changed, total: &p.total}
	entry := p.log.begin(r, struck)
	defer func() { p.log.end(entry, fw.status, fw.sent) }() // also when a cut panics
	if down {
		panic(http.ErrAbortHandler)
	}
	if answered := inject(fw, r, fault); !answered {
		p.serve(fw, r, entry, auth, quota)
	}
	fw.finish()
}

// strikeLocked returns the fault that this request meets, if any, and counts it.
func (p *FaultProxy) strikeLocked(r *http.Request) (Fault, bool) {
	for _, f := range p.faults {
		if f.Method != "" && f.Method != r.Method || f.Path != nil && !f.Path.MatchString(r.URL.Path) {
			continue
		}
		f.seen++
		if f.seen <= f.After || f.Times > 0 && f.struck >= f.Times {
			continue
		}
		f.struck++
		return f.Fault, true
	}
	return Fault{}, false
}

// inject does the part of a fault that comes before the upstream, and reports whether that was the answer.
func inject(w *faultWriter, r *http.Request, f Fault) (answered bool) {
	if f.Delay > 0 && !wait(r.Context(), f.Delay, w.released) {
		panic(http.ErrAbortHandler)
	}
	switch {
	case f.Hang:
		w.hold()
		panic(http.ErrAbortHandler)
	case f.Reset && f.CutAt == 0:
		w.reset()
		panic(http.ErrAbortHandler)
	case f.HTML:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		writeBody(w, http.StatusOK, "<!DOCTYPE html><html><head><title>Sign in</title></head>"+
			"<body>Please sign in to use this network.</body></html>\n")
	case f.Status != 0:
		if strings.HasPrefix(f.Body, "{") {
			w.Header().Set("Content-Type", "application/json")
		}
		writeBody(w, f.Status, f.Body)
	default:
		return false
	}
	return true
}

// serve answers as the registry would: after credentials and quota, from the upstream.
func (p *FaultProxy) serve(w *faultWriter, r *http.Request, entry *Request, auth authorizer, quota *quota) {
	if auth != nil {
		user, answered := auth.authorize(w, r)
		p.log.setUser(entry, user)
		if answered {
			return
		}
		r = r.Clone(r.Context())
		r.Header.Del("Authorization") // it was for us
	}
	if quota != nil && quota.refuse(w, r) {
		return
	}
	p.upstream.ServeHTTP(w, r)
}

// wait sleeps for d, or until the rules change; it returns false when the client left first.
func wait(ctx context.Context, d time.Duration, released <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-released:
		return true
	case <-ctx.Done():
		return false
	}
}

// writeBody sends a whole answer; a client that has gone away is no matter of ours.
func writeBody(w *faultWriter, status int, body string) {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if w.req.Method != http.MethodHead {
		_, _ = io.WriteString(w, body)
	}
}
