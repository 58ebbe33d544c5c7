package policy

import (
	"encoding/json"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Facts is all that is known of one image at one time: the input of
// [Bundle.Evaluate] beside the rules. It travels as JSON, in golden files, test
// documents and the API. The order of its lists decides nothing.
type Facts struct {
	Subject Subject `json:"subject"`
	Kind    Kind    `json:"kind,omitempty"`

	// At is what is being asked; "" is a pull.
	At Point `json:"at,omitempty"`

	// Children are the platform manifests of an index. Those of the platform
	// unknown/unknown (build attestations) are skipped.
	Children []Child `json:"children,omitempty"`

	// More says that an index may hold further images that were not looked at,
	// and what it holds: "more than 200 images". Nothing is known of them, so
	// that what was found on children does not stand for the index, and no scan
	// does.
	More string `json:"more,omitempty"`

	// Parents are indexes known to hold the subject, when a child is asked for
	// by its own digest: what is signed on them is signed on it.
	Parents []oci.Digest `json:"parents,omitempty"`

	// Platforms are those that the asking machines use; none means all of the
	// image's. A document that has a list of its own wins.
	Platforms []string `json:"platforms,omitempty"`

	// Signatures by the name of the authority that was asked about. One that
	// was looked for and not found has an empty entry; an authority without an
	// entry counts as a failure to find out.
	Signatures map[string]SignatureFact `json:"signatures,omitempty"`

	// Attestations by the name of the authority, as Signatures.
	Attestations map[string]AttestationFact `json:"attestations,omitempty"`

	// Scans has one entry for each platform manifest (for an image without an
	// index: one, of that image). A judged platform without one is not scanned.
	Scans []Scan `json:"scans,omitempty"`

	// Exempt says why this image is never gated, "" for all others. It is for
	// Breakwater's own images and the pause image, known by digest.
	Exempt string `json:"exempt,omitempty"`

	// PolicyAt is when the hub last confirmed the bundle this is judged by;
	// zero when the bundle cannot be old, as at the hub itself.
	PolicyAt time.Time `json:"policyAt,omitzero"`

	// SignaturesAt is when signatures and attestations were looked at: the answer
	// may be remembered. It is for people and decides nothing.
	SignaturesAt time.Time `json:"signaturesAt,omitzero"`
}

// Kind is what a manifest is, by its structure.
type Kind string

// The kinds of manifests.
const (
	KindImage Kind = "image" // an image manifest; "" counts as this
	KindIndex Kind = "index" // an index, or Docker's manifest list, of images
	KindOther Kind = "other" // cannot run (signature, SBOM, chart, …): never gated
)

// Point is the occasion of a question.
type Point string

// The occasions.
const (
	Pull Point = "pull"
	Push Point = "push"
)

// Child is a platform manifest of an index.
type Child struct {
	Digest   oci.Digest `json:"digest"`
	Platform string     `json:"platform,omitempty"` // linux/amd64, linux/arm64/v8; "" where it does not say

	// Conditional says that its platform alone does not tell which machines take
	// it: it is in an index of the index, or wants a version or features of the
	// operating system.
	Conditional bool `json:"conditional,omitempty"`
}

// SignatureFact is what was found of one authority's signatures. Err is set
// when it could not be found out (network, timeout, too large); what is in Valid
// counts even so.
type SignatureFact struct {
	Valid    []Evidence `json:"valid,omitempty"`
	Rejected []Evidence `json:"rejected,omitempty"`
	Err      string     `json:"error,omitempty"`
}

// AttestationFact is what was found of one authority's attestations, of every
// predicate type that was wanted.
type AttestationFact struct {
	Valid    []Statement `json:"valid,omitempty"`
	Rejected []Evidence  `json:"rejected,omitempty"`
	Err      string      `json:"error,omitempty"`
}

// Evidence is one signature that was looked at.
type Evidence struct {
	Digest oci.Digest `json:"digest,omitempty"` // of the manifest or layer it was read from
	On     oci.Digest `json:"on,omitempty"`     // what it signs; "" is the subject itself

	Form          string    `json:"form,omitempty"`          // where it was found: "tag" (sha256-….sig) or "bundle" (a referrer)
	PredicateType string    `json:"predicateType,omitempty"` // of a rejected attestation, when it could be read
	Identity      string    `json:"identity,omitempty"`      // subject of the certificate; "" for a key
	Issuer        string    `json:"issuer,omitempty"`
	Time          time.Time `json:"time,omitzero"` // of signing, when something trusted says it

	Reason string `json:"reason,omitempty"` // why it was rejected, a few words: "subject mismatch"
}

// Statement is a verified attestation: an in-toto statement with its predicate.
type Statement struct {
	Evidence
	JSON json.RawMessage `json:"statement"` // the whole statement: {"predicateType", "predicate", "subject", …}

	value any // JSON decoded, when DecodeStatement made it
}

// Scan is the state of one platform manifest's scan, and its findings.
type Scan struct {
	Digest   oci.Digest `json:"digest,omitempty"`   // of the platform manifest
	Platform string     `json:"platform,omitempty"` // "" when the image does not say
	State    ScanState  `json:"state"`
	Reason   string     `json:"reason,omitempty"` // for unscannable and error: why

	Since      time.Time `json:"since,omitzero"`       // none, pending: when it was first asked for; zero: just now
	At         time.Time `json:"at,omitzero"`          // done: when the packages were last matched
	DBRevision string    `json:"dbRevision,omitempty"` // of the vulnerability database they were matched against
	DBTime     time.Time `json:"dbTime,omitzero"`      // when that database was made; zero: At

	Vulns []Vuln `json:"vulns,omitempty"`
}

// ScanState is how far a scan is. "" counts as none.
type ScanState string

// The states of a scan.
const (
	ScanNone        ScanState = "none"        // nobody has begun
	ScanPending     ScanState = "pending"     // queued or running; or done, and not matched yet
	ScanDone        ScanState = "done"        // Vulns is the answer
	ScanUnscannable ScanState = "unscannable" // it has no packages that could be read, and never will
	ScanError       ScanState = "error"       // could not find out; another try may
)

// What the hub may lack for a scan that is not done: a [Scan.Reason].
const (
	NoDatabase = "no vulnerability database yet"
	NoScanner  = "the hub has no scanner"
)

// Vuln is one vulnerability of one package.
type Vuln struct {
	ID        string `json:"id"` // CVE-2026-1234, GHSA-…
	Package   string `json:"package,omitempty"`
	Installed string `json:"installed,omitempty"`
	Fixed     string `json:"fixed,omitempty"` // version that has it no more; "" when there is none

	Severity   Severity            `json:"severity"`
	Severities map[string]Severity `json:"severities,omitempty"` // by source: "nvd", "debian", …; shown, not judged

	Published time.Time `json:"published,omitzero"` // of the advisory
	FirstSeen time.Time `json:"firstSeen,omitzero"` // when it was first found in this image
}
