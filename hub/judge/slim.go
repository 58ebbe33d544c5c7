package judge

import (
	"encoding/json"
	"slices"

	"github.com/breakwater-oci/breakwater/policy"
)

// maxToldBytes is how large a node's decision is that is kept whole: the node
// has its evidence in its own log.
const maxToldBytes = 8 << 10

// slim is a node's decision as it is kept, and its JSON. ok is false for one that
// is too large even without evidence and findings.
func slim(d policy.Decision) (_ policy.Decision, body []byte, ok bool) {
	for _, cut := range []func(*policy.RuleResult){
		func(*policy.RuleResult) {},
		func(r *policy.RuleResult) { r.Evidence = nil },
		func(r *policy.RuleResult) { r.Blocked = r.Blocked[:min(1, len(r.Blocked))] }, // BlockedCount stays
	} {
		d.Policies = slices.Clone(d.Policies)
		for i := range d.Policies {
			p := &d.Policies[i]
			p.Rules = slices.Clone(p.Rules)
			for k := range p.Rules {
				cut(&p.Rules[k])
			}
		}
		var err error
		if body, err = json.Marshal(d); err != nil {
			return d, nil, false
		}
		if len(body) <= maxToldBytes {
			return d, body, true
		}
	}
	return d, nil, false
}
