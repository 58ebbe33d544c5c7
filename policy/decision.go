package policy

import (
	"slices"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Decision is the answer about one image, with all that led to it. It travels
// as JSON: in the log, as the detail of a refusal, at the API.
type Decision struct {
	// ID is "d-" and 12 hex digits of a hash over what decided: the subject's
	// name and digest, the revision, each rule's verdict, what it is blocked by
	// and the exceptions used. No clock and no tag is in it, so hub and node
	// give the same decision the same id.
	ID      string  `json:"id"`
	Subject Subject `json:"subject"`
	At      Point   `json:"at"`

	Outcome Outcome `json:"outcome"` // what to do
	Would   Outcome `json:"would"`   // what to do if audit mode refused too; never less strict
	Mode    Mode    `json:"mode"`    // audit when Would is stricter than Outcome

	Revision     int64     `json:"revision"` // of the document
	DBRevision   string    `json:"dbRevision,omitempty"`
	SignaturesAt time.Time `json:"signaturesAt,omitzero"` // when they were looked at; zero: no rule is about any
	Time         time.Time `json:"time"`

	// Note is why no rule was asked, when none was.
	Note     string         `json:"note,omitempty"`
	Policies []PolicyResult `json:"policies,omitempty"` // in the document's order

	// ValidUntil is when passing time alone may change the answer (a grace, an
	// exception or a wait ends, findings grow stale); zero: never. Until then
	// the same facts give the same id.
	ValidUntil time.Time `json:"validUntil,omitzero"`

	// RetryAfter is how much longer to wait for facts, when Outcome is wait.
	RetryAfter Duration `json:"retryAfter,omitzero"`

	// StalePolicy says that the document is older than its maxPolicyAge.
	StalePolicy bool `json:"stalePolicy,omitempty"`

	judged []Child // of an index: the images in it that were judged; see Holds
	exempt bool
}

// Holds says that the decision on an index is also that on an image in it which
// is asked for by its own digest. It is not of those that were not judged with
// it, being said to be of another platform: what an index says of an image
// proves nothing, and no platform at all is needed for what is asked for by its
// digest. A decision that has travelled as JSON holds for nothing else.
func (d *Decision) Holds(image oci.Digest) bool {
	return d.exempt || slices.ContainsFunc(d.judged, func(c Child) bool { return c.Digest == image })
}

// Outcome is what to do with an image, or what a rule asks to do.
type Outcome string

// The outcomes.
const (
	Allow Outcome = "allow"
	Wait  Outcome = "wait" // for a scan: ask again, RetryAfter at most
	Deny  Outcome = "deny"
)

// PolicyResult is what one policy says.
type PolicyResult struct {
	Name    string       `json:"name"`
	Mode    Mode         `json:"mode"`
	Outcome Outcome      `json:"outcome"` // of its rules, the strictest
	Rules   []RuleResult `json:"rules,omitempty"`
}

// RuleResult is what one rule says. Verdict is what was found, Outcome what the
// rule makes of it.
type RuleResult struct {
	Name    string   `json:"name"`
	Kind    RuleKind `json:"kind"`
	Verdict Verdict  `json:"verdict"`
	Outcome Outcome  `json:"outcome"`
	Reason  string   `json:"reason,omitempty"`

	Evidence  []AuthorityEvidence `json:"evidence,omitempty"`
	Condition string              `json:"condition,omitempty"` // of an attestation rule that does not pass: what an attestation must say

	// Blocked are the vulnerabilities that refuse the image, the worst first
	// and MaxBlocked at most; BlockedCount is how many there are.
	Blocked      []BlockedVuln `json:"blocked,omitempty"`
	BlockedCount int           `json:"blockedCount,omitempty"`
	InGrace      int           `json:"inGrace,omitempty"`  // would be blocked but for graceAfterPublish
	Excepted     int           `json:"excepted,omitempty"` // would be blocked but for exceptions

	Used   []ExceptionUse `json:"exceptions,omitempty"` // exceptions without which the rule would refuse, or refuse for more
	Lapsed []ExceptionUse `json:"lapsed,omitempty"`     // expired ones that would have helped

	blockedIDs []string // of all of them, sorted: for Decision.ID
}

// MaxBlocked bounds [RuleResult.Blocked], and with it the size of a refusal.
const MaxBlocked = 20

// RuleKind is which sort of demand a rule is.
type RuleKind string

// The kinds of rules.
const (
	KindSignature       RuleKind = "signature"
	KindAttestation     RuleKind = "attestation"
	KindVulnerabilities RuleKind = "vulnerabilities"
	KindDefault         RuleKind = "default"   // the document's default
	KindPolicyAge       RuleKind = "policyAge" // the document's maxPolicyAge
)

// Verdict is what a rule found. The answers that are none are told apart.
type Verdict string

// The verdicts.
const (
	VerdictPass        Verdict = "pass"
	VerdictFail        Verdict = "fail"
	VerdictError       Verdict = "error"       // could not find out
	VerdictUnscanned   Verdict = "unscanned"   // no scan yet
	VerdictUnscannable Verdict = "unscannable" // never will be
	VerdictStale       Verdict = "stale"       // nothing found, but by an old database
	VerdictSkipped     Verdict = "skipped"     // waived by an exception, or not asked at a push
)

// AuthorityEvidence is what was looked at of one authority.
type AuthorityEvidence struct {
	Authority string     `json:"authority"`
	Valid     []Evidence `json:"valid,omitempty"`
	Rejected  []Evidence `json:"rejected,omitempty"`
	Err       string     `json:"error,omitempty"`
}

// BlockedVuln is a vulnerability that refuses an image.
type BlockedVuln struct {
	ID        string   `json:"id"`
	Severity  Severity `json:"severity"`
	Package   string   `json:"package,omitempty"`
	Installed string   `json:"installed,omitempty"`
	Fixed     string   `json:"fixed,omitempty"`
	Platform  string   `json:"platform,omitempty"`
}

// ExceptionUse is an exception that a decision met.
type ExceptionUse struct {
	ID      string    `json:"id"`
	Owner   string    `json:"owner"`
	Reason  string    `json:"reason"`
	Expires time.Time `json:"expires"`
	CVEs    []string  `json:"cves,omitempty"` // those of this image
}
