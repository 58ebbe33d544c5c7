package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/breakwater-oci/breakwater/policy"
)

// Authorities are the authorities of one policy document, ready to verify
// with. They are read-only and may be shared.
type Authorities struct {
	byName map[string]*authority
}

// id is what changes when what the authority called name accepts changes.
func (as *Authorities) id(name string) string {
	if a, ok := as.byName[name]; ok {
		return a.id
	}
	return ""
}

// authority verifies for one policy.Authority.
type authority struct {
	name string
	id   string // hash of all that its verdicts depend on

	bundles  *verify.Verifier
	identity []verify.PolicyOption // of bundles
	tags     cosign.CheckOpts      // of signatures under tags; copied for each use

	// Of a keyless authority:
	keyless *policy.Keyless
	root    root.TrustedMaterial
	dated   bool // its root has logs or time stampers; else certificates must be valid now
}

// Compile reads the keys and trusted roots of a document. Its error is all
// faults at once, as [policy.Faults] that policy.Bundle.Placed finds the lines
// of. A trusted root that is named by a file must have been read before
// (policy.Bundle.Resolve).
func Compile(doc *policy.Document) (*Authorities, error) {
	roots := map[string]trustedRoot{}
	var faults policy.Faults
	for i, r := range doc.TrustedRoots {
		t, err := parseRoot(r)
		if err != nil {
			faults = append(faults, policy.Fault{Path: fmt.Sprintf("trustedRoots[%d]", i), Message: err.Error()})
			continue
		}
		roots[r.Name] = t
	}
	as := &Authorities{byName: map[string]*authority{}}
	for i, def := range doc.Authorities {
		a, err := newAuthority(def, roots)
		if err != nil {
			faults = append(faults, policy.Fault{Path: fmt.Sprintf("authorities[%d]", i), Message: err.Error()})
			continue
		}
		as.byName[def.Name] = a
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return as, nil
}

// trustedRoot is a root and the hash of its text.
type trustedRoot struct {
	*root.TrustedRoot
	hash string
}

func parseRoot(r policy.TrustedRoot) (trustedRoot, error) {
	if r.JSON == "" {
		return trustedRoot{}, errors.New("its file was not read")
	}
	tr, err := root.NewTrustedRootFromJSON([]byte(r.JSON))
	if err != nil {
		return trustedRoot{}, fmt.Errorf("not a Sigstore trusted root: %w", err)
	}
	if len(tr.FulcioCertificateAuthorities()) == 0 {
		return trustedRoot{}, errors.New("it has no certificate authority")
	}
	return trustedRoot{tr, hashOf(r.JSON)}, nil
}

func newAuthority(def policy.Authority, roots map[string]trustedRoot) (*authority, error) {
	switch {
	case def.Key != nil && def.Keyless == nil:
		return newKeyed(def)
	case def.Keyless != nil && def.Key == nil:
		tr, ok := roots[def.Keyless.TrustedRoot]
		if !ok {
			return nil, fmt.Errorf("there is no trusted root %q", def.Keyless.TrustedRoot)
		}
		return newKeyless(def, tr)
	}
	return nil, errors.New("want either a key or keyless")
}

func newKeyed(def policy.Authority) (*authority, error) {
	key, err := parseKey(def.Key.PEM)
	if err != nil {
		return nil, err
	}
	a := &authority{name: def.Name, id: hashOf(def)}
	a.bundles, err = keyVerifier(key)
	a.identity = []verify.PolicyOption{verify.WithKey()}
	a.tags = cosign.CheckOpts{SigVerifier: key, IgnoreTlog: true, Offline: true}
	return a, err
}

// newKeyless makes an authority whose trusted root also says what is asked of
// a signature: an entry in a transparency log when the root has logs, a signed
// time when it has only time stampers, a certificate transparency proof when
// it has logs for those; and when it has no one who could tell the time of
// signing, the certificate must be valid now.
func newKeyless(def policy.Authority, tr trustedRoot) (*authority, error) {
	k := def.Keyless
	// Without both, cosign takes any certificate of the root for a signature
	// under a tag.
	if (k.Issuer == "" && k.IssuerRegExp == "") || (k.Subject == "" && k.SubjectRegExp == "") {
		return nil, errors.New("keyless wants an issuer and a subject")
	}
	who, err := verify.NewShortCertificateIdentity(k.Issuer, k.IssuerRegExp, k.Subject, k.SubjectRegExp)
	if err != nil {
		return nil, err
	}
	logs, stampers, ctLogs := len(tr.RekorLogs()) > 0, len(tr.TimestampingAuthorities()) > 0, len(tr.CTLogs()) > 0
	var opts []verify.VerifierOption
	switch {
	case logs: // entries of Rekor v2 carry no time; a time stamper does then
		opts = append(opts, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	case stampers:
		opts = append(opts, verify.WithSignedTimestamps(1))
	default:
		opts = append(opts, verify.WithCurrentTime())
	}
	if ctLogs {
		opts = append(opts, verify.WithSignedCertificateTimestamps(1))
	}
	a := &authority{name: def.Name, id: hashOf(def, tr.hash), keyless: k, root: tr, dated: logs || stampers}
	a.bundles, err = verify.NewVerifier(tr, opts...)
	a.identity = []verify.PolicyOption{verify.WithCertificateIdentity(who)}
	a.tags = cosign.CheckOpts{
		TrustedMaterial:     tr,
		Identities:          []cosign.Identity{{Issuer: k.Issuer, IssuerRegExp: k.IssuerRegExp, Subject: k.Subject, SubjectRegExp: k.SubjectRegExp}},
		IgnoreTlog:          !logs,
		UseSignedTimestamps: stampers,
		IgnoreSCT:           !ctLogs,
		Offline:             true,
	}
	return a, err
}

// hashOf is a hash of what its arguments are in JSON.
func hashOf(v ...any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and plain structs
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
