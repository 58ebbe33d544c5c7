package enforce

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// entitled says that who asks has another right to what is in a repository, and
// is not containerd, which takes us for another registry.
func (g *Gate) entitled(ctx context.Context, repo string) bool {
	return g.o.Exempt != nil && !oci.ForContainerd(ctx) && g.o.Exempt(ctx, repo)
}

// exempt says that who asks is given what is refused to others: to look at it,
// not to run it.
func (g *Gate) exempt(ctx context.Context, repo string) bool {
	return ctx.Err() == nil && !oci.CallerFrom(ctx).Runtime && g.entitled(ctx, repo)
}

// letThrough tells of who is let through in spite of a verdict, and returns the
// id of its decision. v is nil when none could be had, because of err: the
// decision then says so, and is told of itself.
func (g *Gate) letThrough(ctx context.Context, repo string, ref oci.Reference, m oci.Manifest, v *verdict, err error) (id string) {
	d, caller := v.get(), oci.CallerFrom(ctx)
	if v == nil {
		subject, serr := g.o.Subject(repo, ref)
		if serr != nil {
			subject.Name = repo
		}
		subject.Digest = m.Digest
		d = unasked(subject, err, g.o.Now())
	}
	k := caller.Name + " " + key(repo, m.Digest)
	if last, ok := g.exempted.Get(k); ok && last == d.ID {
		return d.ID
	}
	g.exempted.Add(k, d.ID)
	subject := d.Subject
	subject.Tag = ref.Tag
	q := Question{Repo: repo, Subject: subject, At: policy.Pull, Manifest: m, Caller: caller, gate: g}
	if v == nil {
		g.tell(q, d)
	}
	if g.o.Exempted != nil {
		g.o.Exempted(q, d)
	}
	return d.ID
}

// unasked is the decision on an image about which the judge could not be asked:
// nobody is given it who is not exempt. Its id is of the image alone, for the
// error may have other words each time.
func unasked(s policy.Subject, err error, now time.Time) policy.Decision {
	why := "the policy could not be asked"
	if e := told(err); e != nil {
		why += ": " + e.Text()
	}
	sum := sha256.Sum256([]byte("breakwater unasked\x00" + key(s.Name, s.Digest)))
	return policy.Decision{
		ID: "d-" + hex.EncodeToString(sum[:6]), Subject: s, At: policy.Pull, Outcome: policy.Deny, Would: policy.Deny, Mode: policy.Enforce, Time: now,
		Policies: []policy.PolicyResult{{Name: "(none)", Mode: policy.Enforce, Outcome: policy.Deny, Rules: []policy.RuleResult{{
			Name: "asked", Verdict: policy.VerdictError, Outcome: policy.Deny, Reason: why,
		}}}},
	}
}
