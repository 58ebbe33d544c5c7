package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

const (
	// tries is how often a registry is asked that cannot answer: for a minute and
	// a half, or for as long as it asks us to wait.
	tries      = 10
	firstPause = 250 * time.Millisecond
	maxPause   = 30 * time.Second
	// maxAsked is how long a registry may ask us to wait at a time, asks how often
	// it may do so to one request.
	maxAsked = 6 * time.Hour
	asks     = 100
	// toldFrom is from which wait on people hear of it.
	toldFrom = 5 * time.Second
)

// patience asks one registry again, and keeps all who ask it back for as long
// as it wants (Retry-After).
type patience struct {
	who  string
	told func(who string, d time.Duration) // hears that it is waited for; may be nil

	mu       sync.Mutex
	until    time.Time
	answered bool // it did, once: what is wrong now may be over soon
}

func newPatience(who string) *patience { return &patience{who: who} }

// again runs fn until it succeeds, fails for good, or has been given every
// chance.
func (p *patience) again(ctx context.Context, fn func() error) error {
	for try, asked := 0, 0; ; try++ {
		if err := p.hold(ctx); err != nil {
			return err
		}
		err := fn()
		if err == nil {
			p.mu.Lock()
			p.answered = true
			p.mu.Unlock()
			return nil
		}
		if wanted(err) > 0 && asked < asks {
			try, asked = try-1, asked+1 // it said when to come back: that is no failure
		}
		if try == tries-1 || !p.worth(ctx, try, err) {
			return err
		}
		if err := p.pause(ctx, max(try, 0), err); err != nil {
			return err
		}
	}
}

// worth says whether there may be another answer than err the next time. A
// registry that never gave one is more likely asked the wrong way.
func (p *patience) worth(ctx context.Context, try int, err error) bool {
	if ctx.Err() != nil || unsupported(err) != "" {
		return false
	}
	p.mu.Lock()
	answered := p.answered
	p.mu.Unlock()
	switch oci.CodeOf(err) {
	case oci.TooManyRequests:
		return true
	case oci.Unavailable, oci.Unknown:
		return answered || try < 2
	}
	return false
}

// wanted is how long a registry that is asked too much wants us to wait; 0 is
// unsaid.
func wanted(err error) time.Duration {
	if e, ok := errors.AsType[*oci.Error](err); ok && e.Code == oci.TooManyRequests {
		return e.RetryAfter
	}
	return 0
}

// pause waits after the try-th failure, counted from 0.
func (p *patience) pause(ctx context.Context, try int, err error) error {
	d := min(firstPause<<try, maxPause)
	d += rand.N(d / 2) //nolint:gosec // spreads clients, no secret
	if e, ok := errors.AsType[*oci.Error](err); ok && e.RetryAfter > 0 {
		d = min(e.RetryAfter, maxAsked)
		p.mu.Lock()
		more := time.Until(p.until) < d-time.Second
		if until := time.Now().Add(d); until.After(p.until) {
			p.until = until
		}
		p.mu.Unlock()
		if more && d >= toldFrom && p.told != nil {
			p.told(p.who, d)
		}
		d += apart(d)
	}
	return sleep(ctx, d)
}

// hold waits for as long as the registry wants no requests.
func (p *patience) hold(ctx context.Context) error {
	p.mu.Lock()
	d := time.Until(p.until)
	p.mu.Unlock()
	if d > 0 {
		d += apart(d)
	}
	return sleep(ctx, d)
}

// apart is by how much longer than d one waits, so that all who do not come
// back at once.
func apart(d time.Duration) time.Duration {
	return rand.N(min(d/2, 2*time.Second) + 1) //nolint:gosec // no secret
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// unsupported says why a manifest that was read whole cannot be in the hub, ""
// when err is of another kind.
func unsupported(err error) string {
	for err != nil {
		if e, ok := err.(*oci.Error); ok && e.Code == oci.ManifestInvalid { //nolint:errorlint // each of the chain is looked at
			if strings.Contains(e.Message, "schemaVersion is 1") {
				return "it is of Docker's schema 1, which is not supported"
			}
			return e.Text()
		}
		err = errors.Unwrap(err)
	}
	return ""
}
