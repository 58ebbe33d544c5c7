package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Names of results that are no policy of the document's; no policy can be
// called so.
const (
	defaultName   = "(default)"
	policyAgeName = "(policy age)"
	bootstrapName = "(bootstrap)"
)

// Evaluate judges f by the bundle at that time. It neither changes f nor keeps
// parts of it apart from what the decision shows.
func (b *Bundle) Evaluate(f Facts, now time.Time) Decision {
	or(&f.At, Pull)
	d := Decision{
		Subject: f.Subject, At: f.At, Outcome: Allow, Would: Allow, Mode: Enforce,
		Revision: b.doc.Revision, SignaturesAt: f.SignaturesAt, Time: now,
	}
	e := &evaluation{b: b, f: &f, now: now, d: &d}
	switch {
	case f.Exempt != "":
		d.Note, d.exempt = "never gated: "+f.Exempt, true
	case f.Kind == KindOther:
		d.Note = "never gated: this is no image and cannot run"
	default:
		e.children = e.judgedChildren()
		d.judged = e.children
		e.policyAge()
		e.policies()
		e.settle()
	}
	d.ID = decisionID(&d)
	return d
}

// An evaluation is one call of Evaluate.
type evaluation struct {
	b        *Bundle
	f        *Facts
	now      time.Time
	d        *Decision
	children []Child // of an index: those that are judged

	wait     time.Time // when the first of the waits ends
	dbOldest time.Time
}

// until notes a time at which the answer may change.
func (e *evaluation) until(t time.Time) {
	if t.After(e.now) && (e.d.ValidUntil.IsZero() || t.Before(e.d.ValidUntil)) {
		e.d.ValidUntil = t
	}
}

// platforms are those that are judged; none means all.
func (e *evaluation) platforms() []string {
	if len(e.b.doc.Platforms) > 0 {
		return e.b.doc.Platforms
	}
	return e.f.Platforms
}

// more is what an index holds beside the children that are known.
func (e *evaluation) more() string {
	if e.f.Kind != KindIndex {
		return ""
	}
	return e.f.More
}

// judgedChildren are the children that machines of the judged platforms may run
// (see [taken]), and those that do not say what they are for, by platform. Where
// the index has none of these it is judged whole: what runs then is unknown.
func (e *evaluation) judgedChildren() []Child {
	if e.f.Kind != KindIndex {
		return nil
	}
	all := slices.DeleteFunc(slices.Clone(e.f.Children), func(c Child) bool { return c.Platform == NoPlatform })
	wanted := e.platforms()
	judge := make([]bool, len(all))
	for i, c := range all {
		judge[i] = len(wanted) == 0 || parseMachine(c.Platform).arch == ""
	}
	for _, p := range wanted {
		for i, ok := range taken(p, all) {
			judge[i] = judge[i] || ok
		}
	}
	judged := make([]Child, 0, len(all))
	for i, c := range all {
		if judge[i] {
			judged = append(judged, c)
		}
	}
	if len(judged) == 0 {
		judged = all
	}
	slices.SortFunc(judged, func(a, b Child) int {
		return cmp.Or(strings.Compare(a.Platform, b.Platform), strings.Compare(string(a.Digest), string(b.Digest)))
	})
	seen := make(map[oci.Digest]bool, len(judged))
	return slices.DeleteFunc(judged, func(c Child) bool {
		again := seen[c.Digest] && c.Digest != ""
		seen[c.Digest] = true
		return again
	})
}

// policyAge refuses where the document itself is too old to go by.
func (e *evaluation) policyAge() {
	doc := &e.b.doc
	if doc.MaxPolicyAge == 0 || e.f.PolicyAt.IsZero() || e.f.At != Pull {
		return
	}
	stale := e.f.PolicyAt.Add(time.Duration(doc.MaxPolicyAge))
	if e.now.Before(stale) {
		e.until(stale)
		return
	}
	e.d.StalePolicy = true
	if doc.OnStalePolicy != StaleDeny {
		return
	}
	e.d.Policies = append(e.d.Policies, PolicyResult{Name: policyAgeName, Mode: Enforce, Outcome: Deny, Rules: []RuleResult{{
		Name: "maxPolicyAge", Kind: KindPolicyAge, Verdict: VerdictStale, Outcome: Deny,
		Reason: fmt.Sprintf("no word from the hub since %s, so no policy younger than %s", e.f.PolicyAt.UTC().Format(time.RFC3339), doc.MaxPolicyAge),
	}}})
}

// policies asks every policy that matches, and the default where none does.
// A policy in audit mode does not lift the default: it changes nothing.
func (e *evaluation) policies() {
	enforced, any := false, false
	for i := range e.b.policies {
		p := &e.b.policies[i]
		if !p.matches(&e.f.Subject, e.f.At) {
			continue
		}
		any = true
		enforced = enforced || p.Mode == Enforce
		res := PolicyResult{Name: p.Name, Mode: p.Mode, Outcome: Allow, Rules: make([]RuleResult, 0, len(p.rules))}
		for j := range p.rules {
			r := e.rule(&p.rules[j])
			res.Outcome = stricter(res.Outcome, r.Outcome)
			res.Rules = append(res.Rules, r)
		}
		e.d.Policies = append(e.d.Policies, res)
	}
	if !enforced && e.f.At == Pull {
		e.byDefault(any)
	}
	if len(e.d.Policies) == 0 {
		e.d.Note = "no policy matches, and the default is to allow"
		if e.f.At != Pull {
			e.d.Note = "no policy is asked at a push of this image"
		}
	}
}

func (e *evaluation) byDefault(audited bool) {
	mode := Enforce
	switch e.b.doc.Default {
	case DefaultAllow:
		return
	case DefaultAudit:
		if audited {
			return // with audit enforced there would be a policy
		}
		mode = Audit
	}
	reason := "no matching policy"
	if audited {
		reason = "no matching policy that is enforced"
	}
	e.d.Policies = append(e.d.Policies, PolicyResult{Name: defaultName, Mode: mode, Outcome: Deny, Rules: []RuleResult{{
		Name: "default", Kind: KindDefault, Verdict: VerdictFail, Outcome: Deny, Reason: reason,
	}}})
}

// settle makes one answer of all policies'.
func (e *evaluation) settle() {
	for _, p := range e.d.Policies {
		e.d.Would = stricter(e.d.Would, p.Outcome)
		if p.Mode == Enforce {
			e.d.Outcome = stricter(e.d.Outcome, p.Outcome)
		}
	}
	if e.d.Would != e.d.Outcome {
		e.d.Mode = Audit
	}
	if e.d.Outcome == Wait {
		e.d.RetryAfter = Duration(e.wait.Sub(e.now))
	}
}

func (o Outcome) strictness() int {
	switch o {
	case Wait:
		return 1
	case Deny:
		return 2
	}
	return 0
}

func stricter(a, b Outcome) Outcome {
	if b.strictness() > a.strictness() {
		return b
	}
	return a
}

// rule asks one rule, and its exceptions where it does not allow.
func (e *evaluation) rule(r *compiledRule) RuleResult {
	res := RuleResult{Name: r.Name, Kind: r.kind, Verdict: VerdictPass, Outcome: Allow}
	switch {
	case r.Signature != nil:
		e.signature(r, &res)
	case r.Attestation != nil:
		e.attestation(r, &res)
	case e.f.At != Pull:
		res.Verdict, res.Reason = VerdictSkipped, "images are scanned once they are stored"
		return res
	default:
		e.vulnerabilities(r, &res)
	}
	if res.Outcome != Allow {
		e.waive(r, &res)
	}
	return res
}

// waive lets an exception from the whole rule hold.
func (e *evaluation) waive(r *compiledRule, res *RuleResult) {
	for _, x := range r.exceptions {
		if x.cves != nil || !x.images.match(&e.f.Subject) {
			continue
		}
		if !e.now.Before(x.Expires) {
			res.Lapsed = append(res.Lapsed, x.use(nil))
			continue
		}
		res.Used = append(res.Used, x.use(nil))
	}
	waiver := slices.IndexFunc(res.Used, func(u ExceptionUse) bool { return u.CVEs == nil })
	if waiver < 0 {
		return
	}
	res.Reason = fmt.Sprintf("waived by %s; it was: %s", res.Used[waiver].ID, res.Reason)
	res.Verdict, res.Outcome = VerdictSkipped, Allow
	for _, u := range res.Used {
		e.until(u.Expires)
	}
}

func (x *compiledException) use(cves []string) ExceptionUse {
	return ExceptionUse{ID: x.ID, Owner: x.Owner, Reason: x.Reason, Expires: x.Expires, CVEs: cves}
}

// outcome is what an action asks for.
func (a Action) outcome() Outcome {
	if a == ActionAllow {
		return Allow
	}
	return Deny
}

// covers says that what stands on the digests in signed stands for the
// subject: on itself, on an index that holds it, or on each judged child of it,
// if these are all that it may run.
func (e *evaluation) covers(signed func(oci.Digest) bool) bool {
	if signed("") || e.f.Subject.Digest != "" && signed(e.f.Subject.Digest) || slices.ContainsFunc(e.f.Parents, signed) {
		return true
	}
	return e.more() == "" && len(e.children) > 0 && !slices.ContainsFunc(e.children, func(c Child) bool { return !signed(c.Digest) })
}
