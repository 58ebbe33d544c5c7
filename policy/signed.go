package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// signature asks whether one of the rule's authorities has signed the subject.
func (e *evaluation) signature(r *compiledRule, res *RuleResult) {
	signed := map[oci.Digest]bool{}
	var found []AuthorityEvidence
	for _, name := range r.Signature.AnyOf {
		fact, asked := e.f.Signatures[name]
		if !asked {
			fact.Err = "was not looked for"
		}
		for _, v := range fact.Valid {
			signed[v.On] = true
		}
		found = append(found, AuthorityEvidence{name, sortedEvidence(fact.Valid), sortedEvidence(fact.Rejected), fact.Err})
	}
	e.judge(r, res, found, signed, "signature")
}

// attestation asks whether one of the rule's authorities has attested what the
// rule wants of the subject.
func (e *evaluation) attestation(r *compiledRule, res *RuleResult) {
	signed := map[oci.Digest]bool{}
	var found []AuthorityEvidence
	for _, name := range r.Attestation.AnyOf {
		fact, asked := e.f.Attestations[name]
		if !asked {
			fact.Err = "was not looked for"
		}
		ev := AuthorityEvidence{Authority: name, Err: fact.Err}
		for _, rejected := range fact.Rejected {
			if rejected.PredicateType == "" || rejected.PredicateType == r.Attestation.PredicateType {
				ev.Rejected = append(ev.Rejected, rejected)
			}
		}
		for i := range fact.Valid {
			st := &fact.Valid[i]
			if st.predicateType() != r.Attestation.PredicateType {
				continue
			}
			one := st.Evidence
			if r.condition != nil {
				if ok, reason := r.condition.holds(st); !ok {
					one.Reason = reason
					ev.Rejected = append(ev.Rejected, one)
					continue
				}
			}
			ev.Valid = append(ev.Valid, one)
			signed[st.On] = true
		}
		ev.Valid, ev.Rejected = sortedEvidence(ev.Valid), sortedEvidence(ev.Rejected)
		found = append(found, ev)
	}
	if e.judge(r, res, found, signed, "attestation"); res.Verdict != VerdictPass {
		res.Condition = r.Attestation.Condition
	}
}

// judge makes a verdict of what was found. A failure to find out matters only
// where what was found is not enough.
func (e *evaluation) judge(r *compiledRule, res *RuleResult, found []AuthorityEvidence, signed map[oci.Digest]bool, what string) {
	res.Evidence = found
	if e.covers(func(d oci.Digest) bool { return signed[d] }) {
		return
	}
	failed := slices.ContainsFunc(found, func(a AuthorityEvidence) bool { return a.Err != "" })
	res.Verdict, res.Outcome = VerdictFail, Deny
	if failed {
		res.Verdict, res.Outcome = VerdictError, r.OnError.outcome()
	}
	parts := make([]string, len(found))
	for i, a := range found {
		parts[i] = a.Authority + ": " + e.summary(a)
	}
	prefix := "no valid " + what
	if failed {
		prefix = "could not look for a valid " + what
	}
	if more := e.more(); more != "" {
		prefix += " on the index itself, which holds " + clip(plain(more), 120)
	}
	res.Reason = fmt.Sprintf("%s (%s)", prefix, strings.Join(parts, "; "))
}

// summary is what was found of one authority, in a few words.
func (e *evaluation) summary(a AuthorityEvidence) string {
	switch {
	case a.Err != "":
		return clip(plain(a.Err), 120)
	case len(a.Valid) > 0:
		return "only for " + strings.Join(e.signedPlatforms(a.Valid), ", ")
	case len(a.Rejected) > 0:
		reason := a.Rejected[0].Reason
		if reason == "" {
			reason = "not valid"
		}
		return fmt.Sprintf("%d found, %s", len(a.Rejected), clip(plain(reason), 120))
	}
	return "none found"
}

// signedPlatforms are those of the children that have evidence; where they are
// no judged children, their digests.
func (e *evaluation) signedPlatforms(valid []Evidence) []string {
	var names []string
	for _, v := range valid {
		name := clip(v.On.String(), 19)
		for _, c := range e.children {
			if c.Digest == v.On && c.Platform != "" {
				name = c.Platform
			}
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// sortedEvidence is a sorted copy, so that the order of facts shows nowhere.
func sortedEvidence(list []Evidence) []Evidence {
	if len(list) < 2 {
		return list
	}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Evidence) int {
		return cmp.Or(
			strings.Compare(string(a.Digest), string(b.Digest)), strings.Compare(string(a.On), string(b.On)), strings.Compare(a.Reason, b.Reason),
			strings.Compare(a.Form, b.Form), strings.Compare(a.Identity, b.Identity), strings.Compare(a.Issuer, b.Issuer), strings.Compare(a.PredicateType, b.PredicateType), a.Time.Compare(b.Time),
		)
	})
	return list
}
