package telemetry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	checkTimeout = 2 * time.Second // of one check
	checkMaxAge  = time.Second     // how long results are served again
	noAnswer     = "no answer within 2s"
)

// A Check says whether a dependency can be used now. It should return when its
// context ends; one that does not is reported as failed all the same, and is
// not started again before it has returned. The text of its error is shown to
// whoever reaches the metrics port.
type Check func(context.Context) error

// Health answers whether this process lives and whether it can serve. The zero
// value is ready to use, alive, and has no dependencies. It is safe for
// concurrent use.
type Health struct {
	draining atomic.Bool

	mu    sync.Mutex
	deps  []*dependency
	round *round // the last one; nil before the first
}

// A round is one run of all checks, shared by all who ask meanwhile.
type round struct {
	done  chan struct{} // closed when res and ended are set
	res   readiness
	ended time.Time
}

type dependency struct {
	name     string
	check    Check
	optional bool
	running  chan checkResult // of the run that has not ended; nil when none; rounds do not overlap
}

// Add makes this process ready only while check succeeds. Adding a name a
// second time replaces the first. It counts from the next round of checks.
func (h *Health) Add(name string, check Check) { h.add(&dependency{name: name, check: check}) }

// AddOptional shows check's result in /readyz, and serves without it: an
// upstream that is away is no reason to take traffic from us.
func (h *Health) AddOptional(name string, check Check) {
	h.add(&dependency{name: name, check: check, optional: true})
}

func (h *Health) add(d *dependency) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, old := range h.deps {
		if old.name == d.name {
			h.deps[i] = d
			return
		}
	}
	h.deps = append(h.deps, d)
}

// Drain makes the process not ready from now on, so that load balancers send
// no new requests while it finishes those it has.
func (h *Health) Drain() { h.draining.Store(true) }

// Alive serves /healthz: 200 as long as the process answers at all. It looks
// at no dependency: a restart would not mend one.
func (h *Health) Alive(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	fmt.Fprintln(w, "ok")
}

// Ready serves /readyz: 200 when every required check succeeds, else 503, with
// JSON of all of them:
//
//	{"ready":false,"checks":{"database":{"ok":true,"ms":1},
//	 "storage":{"ok":false,"ms":2000,"error":"no answer within 2s"},
//	 "upstream":{"ok":false,"ms":3,"optional":true,"error":"…"}}}
//
// While draining it is 503 with "reason":"draining" and runs no checks.
func (h *Health) Ready(w http.ResponseWriter, _ *http.Request) {
	res := readiness{Reason: "draining", Checks: map[string]checkResult{}}
	if !h.draining.Load() {
		res = h.results()
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !res.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(res) // a reader that went away needs no answer
}

type readiness struct {
	Ready  bool                   `json:"ready"`
	Reason string                 `json:"reason,omitempty"`
	Checks map[string]checkResult `json:"checks"`
}

type checkResult struct {
	OK       bool   `json:"ok"`
	Millis   int64  `json:"ms"`
	Optional bool   `json:"optional,omitempty"`
	Error    string `json:"error,omitempty"`
}

// results gives what the checks say now, or said within the last second.
func (h *Health) results() readiness {
	h.mu.Lock()
	r := h.round
	if r == nil || r.stale() {
		r = &round{done: make(chan struct{})}
		h.round = r
		go r.run(slices.Clone(h.deps))
	}
	h.mu.Unlock()
	<-r.done // which takes no longer than checkTimeout
	return r.res
}

func (r *round) stale() bool {
	select {
	case <-r.done:
		return time.Since(r.ended) >= checkMaxAge
	default:
		return false
	}
}

func (r *round) run(deps []*dependency) {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout) // not a request's: others share it
	defer cancel()
	for _, d := range deps {
		d.start(ctx)
	}
	r.res = readiness{Ready: true, Checks: map[string]checkResult{}}
	for _, d := range deps {
		c := d.wait(ctx)
		r.res.Checks[d.name] = c
		r.res.Ready = r.res.Ready && (c.OK || d.optional)
	}
	r.ended = time.Now()
	close(r.done)
}

// start begins a run, unless the last one still hangs.
func (d *dependency) start(ctx context.Context) {
	if d.running != nil {
		select {
		case <-d.running: // ended since, but what it found is old
		default:
			return
		}
	}
	done := make(chan checkResult, 1) // holds the result when nobody waits any more
	d.running = done
	began := time.Now()
	go func() {
		err := d.check(ctx)
		r := checkResult{OK: err == nil, Millis: time.Since(began).Milliseconds(), Optional: d.optional}
		switch {
		case err != nil && ctx.Err() != nil:
			r.Error = noAnswer
		case err != nil:
			r.Error = err.Error()
		}
		done <- r
	}()
}

func (d *dependency) wait(ctx context.Context) checkResult {
	select {
	case r := <-d.running:
		d.running = nil
		return r
	default:
	}
	select {
	case r := <-d.running:
		d.running = nil
		return r
	case <-ctx.Done():
		return checkResult{
			Millis: checkTimeout.Milliseconds(), Optional: d.optional, Error: noAnswer,
		}
	}
}
