package pullthrough

import (
	"cmp"
	"context"
	"errors"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Known is what was last learnt of a reference.
type Known struct {
	oci.Descriptor
	Visibility oci.Visibility
	CheckedAt  time.Time     // when the authority last confirmed it
	FreshFor   time.Duration // from CheckedAt: not asked again
	ServeStale time.Duration // past that: served while the authority cannot answer
}

// Memory keeps what references resolved to. repo and ref are as given to
// [Resolver.Resolve].
type Memory interface {
	// Recall returns what is known; ok is false when nothing is.
	Recall(ctx context.Context, repo string, ref oci.Reference) (k Known, ok bool, err error)
	// Learn records an answer of the authority. m.Bytes may be in hand.
	Learn(ctx context.Context, repo string, ref oci.Reference, k Known, m oci.Manifest) error
	// Forget drops what the authority says is gone.
	Forget(ctx context.Context, repo string, ref oci.Reference) error
}

// Ask is one question to the authority. fallback says that there is an older
// answer to fall back on: do not wait long, and not at all while the authority
// is known to be away.
type Ask func(ctx context.Context, repo string, ref oci.Reference, fallback bool) (oci.Manifest, error)

// Resolver answers what a tag or digest is now, from memory while it is fresh,
// else from the authority; concurrent asks for one reference are one question.
type Resolver struct {
	Memory Memory
	Ask    Ask
	// KeepRemoved serves what the authority says is gone.
	KeepRemoved bool
	// Timeout bounds one question, FallbackTimeout one that has an older
	// answer to fall back on. Default 10 s and 2 s.
	Timeout, FallbackTimeout time.Duration
	Now                      func() time.Time // nil: time.Now

	asks singleflight.Group
}

// Resolve returns the descriptor of ref and how long it holds. The rules:
//
//	fresh                        → what is known, nobody asked
//	confirmed or changed         → what the authority says
//	cannot answer, within stale  → what is known, marked Stale
//	cannot answer, else          → the error
//	removed or refused           → the error, and forgotten; with KeepRemoved
//	                               what is known, marked Stale
func (r *Resolver) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	k, ok, err := r.Memory.Recall(ctx, repo, ref)
	if err != nil {
		return oci.Manifest{}, err
	}
	if ok && r.fresh(k) {
		return r.answer(k, oci.FromCache, false), nil
	}
	m, err := r.ask(ctx, repo, ref, ok && r.usable(k))
	switch {
	case err == nil:
		return m, nil
	case ctx.Err() != nil:
		return oci.Manifest{}, context.Cause(ctx)
	}
	// An earlier question may have ended since: what it made us forget is gone.
	k, ok, rerr := r.Memory.Recall(ctx, repo, ref)
	switch {
	case rerr != nil:
		return oci.Manifest{}, errors.Join(err, rerr)
	case ok && oci.IsAbsent(err) && r.KeepRemoved, ok && oci.IsUnavailable(err) && r.usable(k):
		return r.answer(k, oci.FromCache, true), nil
	}
	return oci.Manifest{}, err
}

// ask puts the question, once for all who want to know it at the time. It goes
// on when the first of them leaves.
func (r *Resolver) ask(ctx context.Context, repo string, ref oci.Reference, fallback bool) (oci.Manifest, error) {
	done := r.asks.DoChan(repo+"\x00"+ref.String(), func() (any, error) {
		timeout := cmp.Or(r.Timeout, 10*time.Second)
		if fallback {
			timeout = cmp.Or(r.FallbackTimeout, 2*time.Second)
		}
		actx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		m, err := r.Ask(actx, repo, ref, fallback)
		late := actx.Err() != nil
		// An answer that took all its time is remembered all the same.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), memoryTimeout)
		defer cancel()
		switch {
		case oci.IsAbsent(err) && !r.KeepRemoved: // gone, whether or not that can be noted
			return m, errors.Join(err, r.Memory.Forget(ctx, repo, ref))
		case err != nil && late && !oci.IsAbsent(err):
			return m, &oci.Error{Code: oci.Unavailable, Message: "no answer within " + timeout.String(), Err: err}
		case err != nil:
			return m, err
		}
		k := Known{
			Descriptor: m.Descriptor, Visibility: m.Visibility,
			CheckedAt: r.now().Add(-m.Age), FreshFor: m.MaxAge, ServeStale: m.StaleIfError,
		}
		return m, r.Memory.Learn(ctx, repo, ref, k, m)
	})
	select {
	case res := <-done:
		m, _ := res.Val.(oci.Manifest)
		return m, res.Err
	case <-ctx.Done():
		return oci.Manifest{}, context.Cause(ctx)
	}
}

// memoryTimeout bounds the noting of an answer.
const memoryTimeout = 10 * time.Second

// fresh says whether k holds without asking. What was confirmed in the future,
// by a clock since put right, does not.
func (r *Resolver) fresh(k Known) bool {
	age := r.now().Sub(k.CheckedAt)
	return 0 <= age && age < k.FreshFor
}

// usable says whether k may still stand in for an authority that cannot answer.
func (r *Resolver) usable(k Known) bool { return r.age(k) < k.FreshFor+k.ServeStale }

func (r *Resolver) age(k Known) time.Duration { return max(0, r.now().Sub(k.CheckedAt)) }

func (r *Resolver) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

func (r *Resolver) answer(k Known, from oci.Source, stale bool) oci.Manifest {
	return oci.Manifest{Descriptor: k.Descriptor, Answer: oci.Answer{
		Source: from, Visibility: k.Visibility, Stale: stale,
		Age: r.age(k), MaxAge: k.FreshFor, StaleIfError: k.ServeStale,
	}}
}
