package nodeagent

import (
	"context"
	"encoding/json"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/nodeagent/judge"
	"github.com/breakwater-oci/breakwater/nodeagent/mirror"
	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

const (
	// judgeWithin bounds one judgement, a wait for a first scan included.
	judgeWithin = 15 * time.Second
	// answerJudgedWithin is the longest containerd waits where a policy is asked:
	// had it an error before, it would go on to a host that asks none.
	answerJudgedWithin = 25 * time.Second
)

// gated is the mirror behind the node's policy.
//
// In advisory mode containerd goes on to the registry itself with whatever
// error it gets here, and so past the policy. So what cannot be had here is
// looked at once more: as the agent itself sees it, when it is private; and
// where it cannot be seen at all the document says by onError whether that is
// a refusal.
type gated struct {
	*enforce.Gate
	judge  *judge.Judge
	mirror *mirror.Mirror
	view   *view
}

func newGated(m *mirror.Mirror, inside *mirror.Inside, j *judge.Judge, reg prometheus.Registerer) *gated {
	g := &gated{judge: j, mirror: m}
	g.view = &view{g: g, m: m, inside: inside}
	g.Gate = enforce.New(g.view, j, enforce.Options{
		Subject: g.subject, Gated: j.Gated, Decided: j.Decided, Pulled: j.Pulled, Timeout: judgeWithin, Metrics: reg,
	})
	return g
}

// subject is what a policy calls an image of the mirror.
func (g *gated) subject(repo string, ref oci.Reference) (policy.Subject, error) {
	registry, name, err := g.mirror.Split(repo)
	if err != nil {
		return policy.Subject{}, err
	}
	return policy.NewSubject(registry, name, ref)
}

// Resolve implements [oci.Puller].
func (g *gated) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	m, err := g.Gate.Resolve(ctx, repo, ref)
	if !g.again(ctx, repo, ref, err) {
		return m, err
	}
	seen, second := g.Gate.Resolve(context.WithValue(ctx, unhad{}, err), repo, ref)
	if second == nil && seen.Digest == "" || refusal(second) {
		return seen, second
	}
	return m, err
}

// Manifest implements [oci.Puller].
func (g *gated) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	m, err := g.Gate.Manifest(ctx, repo, ref)
	if !g.again(ctx, repo, ref, err) {
		return m, err
	}
	if _, second := g.Gate.Manifest(context.WithValue(ctx, unhad{}, err), repo, ref); refusal(second) {
		return oci.Manifest{}, second
	}
	return m, err
}

// again says that err is one with which containerd would get by the policy. A
// tag under which clients look for a signature is as good as any: an image may
// have it at the next host.
func (g *gated) again(ctx context.Context, repo string, ref oci.Reference, err error) bool {
	if err == nil || ctx.Err() != nil || refusal(err) {
		return false
	}
	s, serr := g.subject(repo, ref)
	return serr == nil && g.judge.Gated(ctx, s.Name)
}

// refusal says that err is a policy's. Any other 403, such as one by an allow
// list of the hub, says nothing about the image.
func refusal(err error) bool {
	_, ok := enforce.DecisionIn(err)
	return ok && oci.CodeOf(err) == oci.Denied
}

// unhad is the key of the error in a context by which the [view] is the agent's
// own.
type unhad struct{}

// view is what the gate stands in front of.
type view struct {
	oci.RefuseAll
	g      *gated
	m      *mirror.Mirror
	inside *mirror.Inside
}

var _ oci.Registry = (*view)(nil)

func (v *view) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	cause, own := ctx.Value(unhad{}).(error)
	if !own {
		m, err := within(ctx, answerWithin, func(ctx context.Context) (oci.Manifest, error) { return v.m.Resolve(ctx, repo, ref) }, nothing)
		return m, v.heard(repo, ref, err)
	}
	return v.look(ctx, repo, ref, cause, v.inside.Resolve)
}

func (v *view) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	cause, own := ctx.Value(unhad{}).(error)
	if !own {
		m, err := within(ctx, answerWithin, func(ctx context.Context) (oci.Manifest, error) { return v.m.Manifest(ctx, repo, ref) }, nothing)
		return m, v.heard(repo, ref, err)
	}
	return v.look(ctx, repo, ref, cause, v.inside.Manifest)
}

// heard records what the hub refuses.
func (v *view) heard(repo string, ref oci.Reference, err error) error {
	if err == nil {
		return nil
	}
	if d, ok := enforce.DecisionIn(err); ok {
		if s, serr := v.g.subject(repo, ref); serr == nil {
			v.g.judge.Heard(s, d)
		}
	}
	return err
}

// look looks at what is private, or else judges what cannot be looked at.
func (v *view) look(ctx context.Context, repo string, ref oci.Reference, cause error, ask func(context.Context, string, oci.Reference) (oci.Manifest, error)) (oci.Manifest, error) {
	err := cause
	if code := oci.CodeOf(cause); code == oci.Unauthorized || code == oci.Denied { // the upstream's own, or an allow list's
		var m oci.Manifest
		m, err = within(ctx, answerWithin, func(ctx context.Context) (oci.Manifest, error) { return ask(ctx, repo, ref) }, nothing)
		if err == nil || refusal(err) {
			return m, err
		}
	}
	if d, ok := enforce.DecisionIn(err); ok { // the hub's, which holds the image back until it is scanned
		return oci.Manifest{}, denied(d)
	}
	s, serr := v.g.subject(repo, ref)
	if serr != nil {
		return oci.Manifest{}, err
	}
	d, judged, jerr := v.g.judge.DecideUnseen(ctx, s, err)
	if jerr != nil || !judged || d.Outcome == policy.Allow {
		return oci.Manifest{}, err
	}
	return oci.Manifest{}, denied(d)
}

// denied is the refusal that a decision is, as a hub would send it.
func denied(d policy.Decision) error {
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return &oci.Error{Code: oci.Denied, Message: d.Message(), Detail: json.RawMessage(text)}
}

func (v *view) Stat(ctx context.Context, repo string, d oci.Digest) (oci.BlobInfo, error) {
	return within(ctx, answerWithin, func(ctx context.Context) (oci.BlobInfo, error) { return v.m.Stat(ctx, repo, d) }, nothing)
}

func (v *view) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	return within(ctx, answerWithin, func(ctx context.Context) (*oci.Blob, error) { return v.m.Blob(ctx, repo, d) }, func(b *oci.Blob) { b.Close() })
}
