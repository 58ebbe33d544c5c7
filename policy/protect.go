package policy

import (
	"fmt"
	"slices"
	"time"
)

// Deletion is whether an image may be deleted, as protectSigned has it.
type Deletion struct {
	Protected bool   `json:"protected"`
	Would     bool   `json:"would"` // protected, were audit mode enforced; true whenever Protected is
	Policy    string `json:"policy,omitempty"`
	Authority string `json:"authority,omitempty"` // whose signature keeps it; "" when that could not be found out
	Reason    string `json:"reason,omitempty"`    // for the person who wanted to delete it
}

// DeletionNeeds says which facts [Bundle.Deletion] wants.
func (b *Bundle) DeletionNeeds(s Subject) Needs {
	n := Needs{Subject: s, Platforms: b.doc.Platforms}
	signers := map[string]bool{}
	for i := range b.policies {
		if p := &b.policies[i]; p.ProtectSigned && p.matchesImage(&s) {
			addAll(signers, b.protectors(p))
		}
	}
	n.Signatures = sortedKeys(signers)
	return n
}

// Deletion says whether the image is protected from being deleted: it is while
// one valid signature of a policy's authorities is on it or on a child of it,
// and also while that cannot be found out.
func (b *Bundle) Deletion(f Facts) Deletion {
	var audited Deletion
	for i := range b.policies {
		p := &b.policies[i]
		if !p.ProtectSigned || f.Kind == KindOther || !p.matchesImage(&f.Subject) {
			continue
		}
		d := b.protection(p, &f)
		switch {
		case !d.Would:
		case p.Mode == Enforce:
			d.Protected = true
			return d
		case !audited.Would:
			audited = d
		}
	}
	return audited
}

func (b *Bundle) protection(p *compiledPolicy, f *Facts) Deletion {
	failed := ""
	for _, name := range b.protectors(p) {
		fact, asked := f.Signatures[name]
		if len(fact.Valid) > 0 {
			return Deletion{Would: true, Policy: p.Name, Authority: name, Reason: fmt.Sprintf("policy %q protects it while it is signed, and it is signed by %s", p.Name, name)}
		}
		if failed == "" && !asked {
			failed = name + ": was not looked for"
		} else if failed == "" && fact.Err != "" {
			failed = name + ": " + clip(plain(fact.Err), 120)
		}
	}
	if failed == "" {
		return Deletion{}
	}
	return Deletion{Would: true, Policy: p.Name, Reason: fmt.Sprintf("policy %q protects it while it is signed, and whether it is could not be found out (%s)", p.Name, failed)}
}

// protectors are the authorities whose signature protects: those of the
// policy's signature rules, else all.
func (b *Bundle) protectors(p *compiledPolicy) []string {
	set := map[string]bool{}
	for i := range p.rules {
		if s := p.rules[i].Signature; s != nil {
			addAll(set, s.AnyOf)
		}
	}
	if len(set) == 0 {
		return slices.Sorted(slices.Values(namesOf(b.doc.Authorities, func(a *Authority) string { return a.Name })))
	}
	return sortedKeys(set)
}

// WithoutPolicy is the decision of a machine that has never been given a
// bundle: action is what it was installed to do then.
func WithoutPolicy(s Subject, at Point, action Action, now time.Time) Decision {
	or(&at, Pull)
	d := Decision{Subject: s, At: at, Outcome: action.outcome(), Would: action.outcome(), Mode: Enforce, Time: now}
	if d.Outcome == Allow {
		d.Note = "this node has been given no policy yet, and was installed to allow until then"
	} else {
		d.Policies = []PolicyResult{{Name: bootstrapName, Mode: Enforce, Outcome: Deny, Rules: []RuleResult{{
			Name: "bootstrap", Kind: KindPolicyAge, Verdict: VerdictError, Outcome: Deny,
			Reason: "this node has been given no policy yet, and was installed to refuse until then",
		}}}}
	}
	d.ID = decisionID(&d)
	return d
}
