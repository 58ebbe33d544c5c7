package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
)

// decisionID is a name for what was decided (see [Decision.ID]). Every part is
// followed by a byte that no part has.
func decisionID(d *Decision) string {
	buf := make([]byte, 0, 1024)
	add := func(parts ...string) {
		for _, p := range parts {
			buf = append(append(buf, p...), 0)
		}
	}
	add("breakwater decision 1", d.Subject.Name, d.Subject.Digest.String(), string(d.At), strconv.FormatInt(d.Revision, 10), string(d.Outcome), string(d.Would))
	for _, p := range d.Policies {
		add("policy", p.Name, string(p.Mode))
		for i := range p.Rules {
			r := &p.Rules[i]
			add("rule", r.Name, string(r.Verdict), string(r.Outcome))
			add(r.blockedIDs...)
			for _, x := range r.Used {
				add("exception", x.ID)
			}
		}
	}
	sum := sha256.Sum256(buf)
	return "d-" + hex.EncodeToString(sum[:6])
}
