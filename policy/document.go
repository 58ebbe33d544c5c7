package policy

import "time"

// APIVersion and the kinds of documents this package reads.
const (
	APIVersion = "breakwater.dev/v1alpha1"
	KindBundle = "PolicyBundle"
	KindTest   = "PolicyTest"
)

// Document is a policy bundle as it is written: one document is one revision.
// A [Bundle] hands it out; it is shared, so do not change what it holds.
type Document struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Revision   int64  `json:"revision"` // from 1 to MaxRevision; each change raises it

	// Default is what becomes of an image that no enforced policy matches.
	Default Default `json:"default"`

	// MaxPolicyAge is how long a node may judge by this document without
	// having heard of the hub; 0 is for ever. OnStalePolicy is what it does
	// then: keep on judging by it (the default), or refuse all pulls.
	MaxPolicyAge  Duration    `json:"maxPolicyAge,omitzero"`
	OnStalePolicy StaleAction `json:"onStalePolicy,omitempty"`

	// Platforms are those of an index that are judged: linux/amd64, or
	// linux/arm for all variants of it. None means those the machines use. With
	// these is judged what such machines make do with where an index has nothing
	// plainer, as 386 on amd64.
	Platforms []string `json:"platforms,omitempty"`

	TrustedRoots []TrustedRoot `json:"trustedRoots,omitempty"`
	Authorities  []Authority   `json:"authorities,omitempty"`
	Policies     []Policy      `json:"policies,omitempty"`
	Exceptions   []Exception   `json:"exceptions,omitempty"`
}

// TrustedRoot is a Sigstore trusted_root.json: the certificate authorities,
// logs and time stampers that keyless authorities are held to. Exactly one of
// JSON and File is in the document; File is for whoever loads it to read (see
// [Bundle.Resolve]), which puts the text into JSON.
type TrustedRoot struct {
	Name string `json:"name"`
	JSON string `json:"json,omitempty"`
	File string `json:"file,omitempty"`
}

// Authority is who may sign. Exactly one of Key and Keyless is set.
type Authority struct {
	Name    string   `json:"name"`
	Key     *Key     `json:"key,omitempty"`
	Keyless *Keyless `json:"keyless,omitempty"`
}

// Key is a public key: ECDSA, RSA or Ed25519, "-----BEGIN PUBLIC KEY-----".
type Key struct {
	PEM string `json:"pem"`
}

// Keyless is an identity that a certificate authority of TrustedRoot vouches
// for. One of Issuer and IssuerRegExp, and one of Subject and SubjectRegExp,
// is set. Regular expressions are RE2 and match anywhere: anchor them.
type Keyless struct {
	TrustedRoot   string `json:"trustedRoot"`
	Issuer        string `json:"issuer,omitempty"`
	IssuerRegExp  string `json:"issuerRegExp,omitempty"`
	Subject       string `json:"subject,omitempty"`
	SubjectRegExp string `json:"subjectRegExp,omitempty"`
}

// Policy is a set of rules for the images it matches; all of them must hold.
type Policy struct {
	Name  string  `json:"name"`
	Mode  Mode    `json:"mode"`
	Match Match   `json:"match"`
	At    []Point `json:"at,omitempty"` // none: pull
	Rules []Rule  `json:"rules,omitempty"`

	// ProtectSigned keeps the images this policy matches from being deleted
	// while one of the authorities of its signature rules (of the whole
	// document, when it has no such rule) has a valid signature on them.
	ProtectSigned bool `json:"protectSigned,omitempty"`
}

// Match is which images: those of one of Images that are of none of Exclude.
type Match struct {
	Images  []string `json:"images"`
	Exclude []string `json:"exclude,omitempty"`
}

// Rule is one demand. Exactly one of Signature, Attestation and
// Vulnerabilities is set.
type Rule struct {
	Name            string             `json:"name"`
	Signature       *SignatureRule     `json:"signature,omitempty"`
	Attestation     *AttestationRule   `json:"attestation,omitempty"`
	Vulnerabilities *VulnerabilityRule `json:"vulnerabilities,omitempty"`

	// OnError is what happens when it could not be found out; default deny.
	OnError Action `json:"onError,omitempty"`
}

// SignatureRule wants a valid signature by one of the named authorities.
type SignatureRule struct {
	AnyOf []string `json:"anyOf"`
}

// AttestationRule wants a statement of PredicateType, signed by one of the
// named authorities, for which Condition is true. Condition is CEL over
// predicate and statement; none means that there is such a statement.
type AttestationRule struct {
	PredicateType string   `json:"predicateType"`
	AnyOf         []string `json:"anyOf"`
	Condition     string   `json:"condition,omitempty"`
}

// VulnerabilityRule wants no vulnerability of severity Block or above.
type VulnerabilityRule struct {
	Block     Severity `json:"block"`
	UnknownAs Severity `json:"unknownAs"`           // what a vulnerability without a severity counts as
	FixedOnly bool     `json:"fixedOnly,omitempty"` // those without a fixed version do not count

	// GraceAfterPublish is how long a vulnerability does not count after its
	// advisory was published (after it was first found, where the advisory
	// has no date).
	GraceAfterPublish Duration `json:"graceAfterPublish,omitzero"`

	Unscanned   Unscanned `json:"unscanned,omitzero"`
	Unscannable Action    `json:"unscannable,omitempty"` // default deny

	// StaleAfter is how old the vulnerability database behind the findings may
	// be; 0 is for ever. OnStale is what happens to an image without known
	// faults when it is older; default deny.
	StaleAfter Duration `json:"staleAfter,omitzero"`
	OnStale    Action   `json:"onStale,omitempty"`
}

// Unscanned is what becomes of a pull before the first scan is done: wait so
// long for it (default 10s), and then (default) deny.
type Unscanned struct {
	Wait *Duration `json:"wait,omitempty"`
	Then Action    `json:"then,omitempty"`
}

// Exception takes images out of a rule until it expires. With CVEs it makes
// just those not count; without, it waives the whole rule.
type Exception struct {
	ID      string    `json:"id"`
	Policy  string    `json:"policy"`
	Rule    string    `json:"rule"`
	Images  []string  `json:"images"`
	CVEs    []string  `json:"cves,omitempty"`
	Reason  string    `json:"reason"`
	Owner   string    `json:"owner"`
	Expires time.Time `json:"expires"`
}

// Mode is whether a policy refuses, or only says what it would refuse.
type Mode string

// The modes.
const (
	Enforce Mode = "enforce"
	Audit   Mode = "audit"
)

// Action is what a rule does with an image it has no answer for.
type Action string

// The actions.
const (
	ActionAllow Action = "allow"
	ActionDeny  Action = "deny"
)

// Default is [Document.Default].
type Default string

// What becomes of images that no policy is about.
const (
	DefaultAllow Default = "allow"
	DefaultAudit Default = "audit" // allowed, and told of as a refusal of audit mode
	DefaultDeny  Default = "deny"
)

// StaleAction is [Document.OnStalePolicy].
type StaleAction string

// What becomes of pulls under a document that is too old.
const (
	StaleKeep StaleAction = "keep"
	StaleDeny StaleAction = "deny"
)
