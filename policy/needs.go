package policy

import (
	"maps"
	"slices"
)

// Needs is which facts a decision about a subject wants, so that nothing is
// looked for in vain. Lists are sorted and without doubles.
type Needs struct {
	Subject Subject `json:"subject"`
	At      Point   `json:"at"`

	Signatures   []string          `json:"signatures,omitempty"` // names of authorities
	Attestations []AttestationNeed `json:"attestations,omitempty"`
	Scan         *ScanNeed         `json:"scan,omitempty"` // nil: no rule asks for vulnerabilities

	// Platforms is the document's list; none means those that the asking
	// machines use. Children of other platforms need no facts.
	Platforms []string `json:"platforms,omitempty"`
}

// AttestationNeed is one predicate type and the authorities who may have
// attested it.
type AttestationNeed struct {
	PredicateType string   `json:"predicateType"`
	Authorities   []string `json:"authorities"`
}

// ScanNeed says that findings are wanted.
type ScanNeed struct {
	Wait Duration `json:"wait"` // the longest that a rule is willing to wait for a first scan
}

// None says that the decision wants no facts beside the subject.
func (n Needs) None() bool { return len(n.Signatures)+len(n.Attestations) == 0 && n.Scan == nil }

// Needs says which facts a decision about s wants on that occasion; at "" is a
// pull. Policies in audit mode want theirs as those that are enforced.
func (b *Bundle) Needs(s Subject, at Point) Needs {
	or(&at, Pull)
	n := Needs{Subject: s, At: at, Platforms: b.doc.Platforms}
	signers, attesters := map[string]bool{}, map[string]map[string]bool{}
	for i := range b.policies {
		p := &b.policies[i]
		if !p.matches(&s, at) {
			continue
		}
		for j := range p.rules {
			switch r := &p.rules[j]; {
			case r.Signature != nil:
				addAll(signers, r.Signature.AnyOf)
			case r.Attestation != nil:
				of := attesters[r.Attestation.PredicateType]
				if of == nil {
					of = map[string]bool{}
					attesters[r.Attestation.PredicateType] = of
				}
				addAll(of, r.Attestation.AnyOf)
			case at == Pull:
				if n.Scan == nil {
					n.Scan = &ScanNeed{}
				}
				n.Scan.Wait = max(n.Scan.Wait, *r.Vulnerabilities.Unscanned.Wait)
			}
		}
	}
	n.Signatures = sortedKeys(signers)
	for _, typ := range sortedKeys(attesters) {
		n.Attestations = append(n.Attestations, AttestationNeed{typ, sortedKeys(attesters[typ])})
	}
	return n
}

func addAll(set map[string]bool, names []string) {
	for _, n := range names {
		set[n] = true
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
