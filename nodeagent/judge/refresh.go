package judge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

const (
	refreshWithin = 10 * time.Second
	// saveEvery is how far the time on disk may be behind.
	saveEvery = time.Minute
)

var errNoPolicy = errors.New("the hub has no policy")

// An unsignedError says that no key of the hub's that this node knows has signed
// what the hub sent. Err is how that was found out.
type unsignedError struct{ err error }

func (unsignedError) Error() string {
	return "what the hub sent is not signed by a key in policy.keysFile"
}

func (e unsignedError) Unwrap() error { return e.err }

// refreshForever looks for a newer policy from time to time, not all nodes at
// once.
func (j *Judge) refreshForever(ctx context.Context) {
	for {
		if err := j.Refresh(ctx); err != nil && ctx.Err() == nil {
			j.o.Log.Debug("no policy from the hub", "err", err)
		}
		every := time.Duration(float64(j.o.Every) * (0.8 + 0.4*rand.Float64())) //nolint:gosec // no secret
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
	}
}

// Refresh looks for a newer policy now.
func (j *Judge) Refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, refreshWithin)
	defer cancel()
	defer j.looked()
	var err error
	switch {
	case j.o.File != "":
		err = j.loadFile()
	case j.o.Hub == nil:
		err = errors.New("there is no hub to ask for a policy (hub.url)")
	default:
		err = j.ask(ctx)
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return err // at a stop
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.askedAt = j.o.Now()
	if err != nil && (j.err == nil || j.err.Error() != err.Error()) {
		level := slog.LevelWarn
		if h := j.held.Load(); errors.Is(err, errNoPolicy) && (h == nil || h.bundle == nil) {
			level = slog.LevelInfo // nobody has written one: the metric says so
		}
		j.o.Log.Log(ctx, level, "the policy could not be brought up to date", "err", err)
	}
	j.err = err
	return err
}

// ask takes the hub's policy, if it is genuine and no step back.
func (j *Judge) ask(ctx context.Context) error {
	if err := j.loadKeys(); err != nil {
		j.o.Log.Warn("the hub's keys cannot be read again, the old ones stay", "err", err)
	}
	j.mu.Lock()
	etag := j.etag
	j.mu.Unlock()
	now := j.o.Now() // before the answer, which may be about then
	cur := j.held.Load()
	if cur == nil || cur.bundle == nil {
		etag = ""
	}
	sealed, newETag, err := j.o.Hub.NodePolicy(ctx, etag)
	if problem, ok := errors.AsType[*hubapi.Error](err); ok && problem.Status == http.StatusNotFound {
		return errNoPolicy
	}
	if err != nil {
		return err
	}
	if sealed == nil {
		again := *cur
		return j.confirmed(&again, etag, now)
	}
	var mark verify.PolicyMark
	if cur != nil {
		mark = cur.mark
	}
	p, err := verify.OpenPolicy(sealed, j.trusted(), mark)
	if err != nil {
		j.metrics.refused.Inc()
		if errors.Is(err, verify.ErrUnsigned) {
			return unsignedError{err}
		}
		return fmt.Errorf("what the hub sent is not taken: %w", err)
	}
	if cur != nil && cur.bundle != nil && p.Mark() == cur.mark {
		again := *cur // sealed again as it is, by whichever replica
		again.issuedAt, again.sealed = p.IssuedAt, sealed
		return j.confirmed(&again, newETag, now)
	}
	h, err := j.hold(p, sealed)
	if err != nil {
		return fmt.Errorf("the hub's policy of epoch %d cannot be used: %w", p.Epoch, err)
	}
	if err := j.take(h, newETag, now); err != nil {
		return err
	}
	j.o.Log.Info("policy taken", "revision", h.bundle.Revision(), "epoch", h.mark.Epoch)
	j.o.Changed()
	return nil
}

// take judges by h from now on, once it is on disk: after a restart there is no
// way back behind it.
func (j *Judge) take(h *held, etag string, now time.Time) error {
	h.confirm(now)
	err := j.save(h, etag)
	j.held.Store(h) // a full disk is no reason to judge by an old policy
	if err != nil {
		return fmt.Errorf("keep the policy: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.etag, j.saved = etag, h.confirmedAt
	return nil
}

// confirmed notes that the hub has no other than h, which is judged by already.
// The disk is not written each time.
func (j *Judge) confirmed(h *held, etag string, now time.Time) error {
	h.confirm(now)
	j.held.Store(h)
	j.mu.Lock()
	j.etag = etag
	due := h.confirmedAt.Sub(j.saved) >= saveEvery
	j.mu.Unlock()
	if !due {
		return nil
	}
	if err := j.save(h, etag); err != nil {
		return fmt.Errorf("keep the policy: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.saved = h.confirmedAt
	return nil
}
