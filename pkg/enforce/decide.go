package enforce

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// A verdict is a decision that is remembered.
type verdict struct {
	decision policy.Decision
	followed bool // it is that of an index which holds the image
	parents  []oci.Digest
	until    time.Time
}

// get is the decision; of nothing gated, none.
func (v *verdict) get() (d policy.Decision) {
	if v != nil {
		d = v.decision
	}
	return d
}

// refuses says that a pull is not let through.
func (v *verdict) refuses() bool { return v != nil && v.decision.Outcome != policy.Allow }

// maxParents is how many indexes are asked about before an image is judged by
// itself.
const maxParents = 4

// maxGenerations is how far up indexes of indexes are followed.
const maxGenerations = 3

// decide returns the verdict on a manifest that is there; nil when it is not
// gated. m has its digest.
func (g *Gate) decide(ctx context.Context, repo string, ref oci.Reference, m oci.Manifest) (*verdict, error) {
	return g.decideIn(ctx, repo, ref, m, 0)
}

func (g *Gate) decideIn(ctx context.Context, repo string, ref oci.Reference, m oci.Manifest, depth int) (*verdict, error) {
	subject, err := g.o.Subject(repo, ref)
	if err != nil {
		return nil, err
	}
	if g.o.Gated != nil && !g.o.Gated(ctx, subject.Name) {
		return nil, nil
	}
	subject.Digest = m.Digest
	k := key(repo, m.Digest)
	if v, ok := g.verdicts.Get(k); ok && g.o.Now().Before(v.until) {
		return v, nil
	}
	q := Question{Repo: repo, Subject: subject, At: policy.Pull, Manifest: m, Caller: oci.CallerFrom(ctx), gate: g}
	flight := fmt.Sprint(k, "#", g.generation.Load()) // not one that began before a Reset
	done := g.flights.DoChan(flight, func() (any, error) {
		ctx := context.WithValue(context.WithoutCancel(ctx), deadlineKey{}, nil) // who asked need not wait for it
		ctx, cancel := context.WithTimeout(ctx, g.o.Timeout)
		defer cancel()
		return g.ask(ctx, q, depth)
	})
	late, stop := patience(ctx)
	defer stop()
	select {
	case res := <-done:
		v, _ := res.Val.(*verdict)
		return v, res.Err
	case <-late:
		return nil, ErrLate
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrLate, context.Cause(ctx))
	}
}

// ErrLate is the error of a decision that takes longer than who asks can wait:
// the judge is still at work.
var ErrLate = errors.New("the image is being checked")

type deadlineKey struct{}

// begin sets the time by which containerd must have its answer.
func (g *Gate) begin(ctx context.Context) context.Context {
	if g.o.AnswerWithin <= 0 || !oci.ForContainerd(ctx) {
		return ctx
	}
	return context.WithValue(ctx, deadlineKey{}, time.Now().Add(g.o.AnswerWithin))
}

// patience is a channel that is ready at that time, nil for never.
func patience(ctx context.Context) (<-chan time.Time, func() bool) {
	at, ok := ctx.Value(deadlineKey{}).(time.Time)
	if !ok {
		return nil, func() bool { return false }
	}
	t := time.NewTimer(time.Until(at))
	return t.C, t.Stop
}

// ask makes a verdict and remembers it.
func (g *Gate) ask(ctx context.Context, q Question, depth int) (*verdict, error) {
	generation := g.generation.Load()
	var err error
	if q.Parents, err = g.parentsOf(ctx, q.Repo, q.Manifest.Digest); err != nil {
		return nil, err
	}
	v := g.follow(ctx, q, depth)
	if v == nil {
		d, err := g.judge.Judge(ctx, q)
		if err != nil {
			return nil, err
		}
		v = &verdict{decision: d, until: g.until(d)}
		g.metrics.count(d)
	}
	v.parents = q.Parents
	if g.generation.Load() == generation {
		g.verdicts.Add(key(q.Repo, q.Manifest.Digest), v)
	}
	return v, nil
}

// until is how long d is remembered: while an image waits for its scan, hardly.
func (g *Gate) until(d policy.Decision) time.Time {
	now := g.o.Now()
	t := now.Add(g.o.RememberFor)
	if d.Outcome == policy.Wait {
		t = now.Add(time.Second)
	}
	if !d.ValidUntil.IsZero() && d.ValidUntil.Before(t) {
		t = d.ValidUntil
	}
	return t
}

// follow returns the verdict on an index that is allowed and was judged with
// the image in question, nil for none: an index is judged once, for all that is
// judged in it.
func (g *Gate) follow(ctx context.Context, q Question, depth int) *verdict {
	if depth >= maxGenerations {
		return nil
	}
	for _, d := range q.Parents[:min(len(q.Parents), maxParents)] {
		m := oci.Manifest{Descriptor: oci.Descriptor{Digest: d}}
		s, err := g.shapes.Look(ctx, q.Repo, m)
		if err != nil || !slices.ContainsFunc(s.Children, func(c policy.Child) bool { return c.Digest == q.Manifest.Digest }) {
			continue
		}
		v, err := g.decideIn(ctx, q.Repo, oci.Digested(d), m, depth+1)
		if err == nil && v != nil && !v.refuses() && v.decision.Holds(q.Manifest.Digest) {
			return &verdict{decision: v.decision, followed: true, until: v.until}
		}
	}
	return nil
}

// parentsOf lists indexes that hold an image: first those that were let through
// here, for who asks for the image has often just got one of them.
func (g *Gate) parentsOf(ctx context.Context, repo string, d oci.Digest) ([]oci.Digest, error) {
	seen, _ := g.parents.Get(key(repo, d))
	if g.o.Parents == nil {
		return seen, nil
	}
	listed, err := g.o.Parents(ctx, repo, d)
	all := slices.Clone(seen)
	for _, p := range listed {
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all, err
}

// A telling is what was last told of an image.
type telling struct {
	id string
	at time.Time
}

// tellAgain is after how long a refusal is told of again, when somebody still
// asks: what is refused now is not to look like what was refused once.
const tellAgain = time.Minute

// tellBy tells of a verdict by which somebody is answered.
func (g *Gate) tellBy(ctx context.Context, repo string, v *verdict) {
	if v != nil {
		g.tell(Question{Repo: repo, Subject: v.decision.Subject, At: policy.Pull, Manifest: oci.Manifest{Descriptor: oci.Descriptor{Digest: v.decision.Subject.Digest}}, Caller: oci.CallerFrom(ctx), gate: g}, v.decision)
	}
}

// tell tells of a decision when it is not the one before, or was last told of a
// while ago.
func (g *Gate) tell(q Question, d policy.Decision) {
	if g.o.Decided == nil || len(d.Policies) == 0 {
		return
	}
	k, now := string(q.At)+" "+key(q.Repo, q.Subject.Digest), g.o.Now()
	g.telling.Lock()
	last, ok := g.told.Get(k)
	if ok && last.id == d.ID && (d.Would == policy.Allow || now.Sub(last.at) < tellAgain) {
		g.telling.Unlock()
		return
	}
	g.told.Add(k, telling{d.ID, now})
	g.telling.Unlock()
	g.o.Decided(q, d)
}

// pulled tells of a pull. What is in an index is not pulled by itself.
func (g *Gate) pulled(ctx context.Context, repo string, ref oci.Reference, m oci.Manifest, v *verdict) {
	if g.o.Pulled == nil || v != nil && v.followed {
		return
	}
	subject, err := g.o.Subject(repo, ref)
	if err != nil {
		return
	}
	subject.Digest = m.Digest
	g.o.Pulled(Question{Repo: repo, Subject: subject, At: policy.Pull, Manifest: m, Caller: oci.CallerFrom(ctx), gate: g}, v.get())
}
