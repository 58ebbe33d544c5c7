package policy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/strictyaml"
)

// A checker finds what is wrong in a document that decoded: fields that are
// missing, that do not go together, that name what is not there.
type checker struct {
	d     *decoder
	known int // so many of d.Faults are the decoder's own
}

// fault notes that the value at path is wrong, unless the decoder already said
// something of it: a field that could not be read looks as if it were missing.
func (c *checker) fault(path, format string, args ...any) {
	for _, f := range c.d.Faults[:c.known] {
		if f.Path != "" && strictyaml.Related(f.Path, path) && f.Path != strictyaml.Parent(path) {
			return
		}
	}
	c.d.Faultf(c.d.Places.Near(path), path, format, args...)
}

func (c *checker) required(path, value, want string) {
	if value == "" {
		c.fault(path, "must be given: %s", want)
	}
}

var (
	nameRE      = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)
	exceptionRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	cveRE       = regexp.MustCompile(`^[A-Za-z]+[A-Za-z0-9]*-[A-Za-z0-9:._-]+$`)
	platformRE  = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9.]+)?$`)
)

// names notes names that are missing, misspelt, or given twice.
func (c *checker) names(list, key string, names []string, re *regexp.Regexp, want string) {
	first := map[string]int{}
	for i, name := range names {
		path := fmt.Sprintf("%s[%d].%s", list, i, key)
		switch j, twice := first[name]; {
		case name == "":
			c.fault(path, "must be given: %s", want)
		case !re.MatchString(name):
			c.fault(path, "got %q, want %s", clip(name, 80), want)
		case twice:
			c.fault(path, "%q is the %s of %s[%d] already", name, key, list, j)
		default:
			first[name] = i
		}
	}
}

const wantName = "a name of up to 63 lower-case letters, digits, - and ."

func namesOf[T any](list []T, name func(*T) string) []string {
	names := make([]string, len(list))
	for i := range list {
		names[i] = name(&list[i])
	}
	return names
}

// MaxRevision is the greatest revision of a document: it leaves room for the
// epochs of a hub that was restored, see hub/meta.
const MaxRevision = 999_999_999_999_999

func (c *checker) document(doc *Document) {
	if doc.APIVersion != APIVersion {
		c.fault("apiVersion", "got %q, want %s", clip(doc.APIVersion, 60), APIVersion)
	}
	if doc.Kind != KindBundle {
		c.fault("kind", "got %q, want %s", clip(doc.Kind, 60), KindBundle)
	}
	if doc.Revision < 1 {
		c.fault("revision", "must be given: a whole number from 1, higher with each change")
	}
	if doc.Revision > MaxRevision {
		c.fault("revision", "must be %d at most", int64(MaxRevision))
	}
	c.required("default", string(doc.Default), "what becomes of an image that no policy matches: allow, audit or deny")
	if doc.OnStalePolicy == StaleDeny && doc.MaxPolicyAge == 0 {
		c.fault("onStalePolicy", "says what happens after maxPolicyAge, which is not given")
	}
	c.platforms("platforms", doc.Platforms)

	c.names("trustedRoots", "name", namesOf(doc.TrustedRoots, func(r *TrustedRoot) string { return r.Name }), nameRE, wantName)
	c.names("authorities", "name", namesOf(doc.Authorities, func(a *Authority) string { return a.Name }), nameRE, wantName)
	c.names("policies", "name", namesOf(doc.Policies, func(p *Policy) string { return p.Name }), nameRE, wantName)
	c.names("exceptions", "id", namesOf(doc.Exceptions, func(e *Exception) string { return e.ID }), exceptionRE, "an id of up to 63 letters, digits, . _ and -")

	for i := range doc.TrustedRoots {
		c.trustedRoot(fmt.Sprintf("trustedRoots[%d]", i), &doc.TrustedRoots[i])
	}
	for i := range doc.Authorities {
		c.authority(fmt.Sprintf("authorities[%d]", i), doc, &doc.Authorities[i])
	}
	for i := range doc.Policies {
		c.policy(fmt.Sprintf("policies[%d]", i), doc, &doc.Policies[i])
	}
	for i := range doc.Exceptions {
		c.exception(fmt.Sprintf("exceptions[%d]", i), doc, &doc.Exceptions[i])
	}
}

func (c *checker) platforms(path string, list []string) {
	for i, p := range list {
		if !platformRE.MatchString(p) {
			c.fault(fmt.Sprintf("%s[%d]", path, i), "got %q, want a platform like linux/amd64 or linux/arm64/v8", clip(p, 60))
		}
	}
}

func (c *checker) trustedRoot(path string, r *TrustedRoot) {
	switch {
	case r.JSON == "" && r.File == "":
		c.fault(path, "one of json (the text of a trusted_root.json) and file (its name) must be given")
	case r.JSON != "" && r.File != "":
		c.fault(path, "json and file are both given, want one")
	case r.JSON != "":
		if err := checkTrustedRoot([]byte(r.JSON)); err != nil {
			c.fault(path+".json", "%v", err)
		}
	}
}

// checkTrustedRoot tells a trusted_root.json from anything else; package
// policy/verify reads it whole.
func checkTrustedRoot(text []byte) error {
	var head struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return errors.New("this is not JSON; want the text of a Sigstore trusted_root.json")
	}
	if !strings.HasPrefix(head.MediaType, "application/vnd.dev.sigstore.trustedroot") {
		return fmt.Errorf("the mediaType is %q; a Sigstore trusted_root.json has application/vnd.dev.sigstore.trustedroot+json;version=0.1", clip(head.MediaType, 80))
	}
	return nil
}

func (c *checker) authority(path string, doc *Document, a *Authority) {
	switch {
	case a.Key == nil && a.Keyless == nil:
		c.fault(path, "one of key and keyless must be given")
	case a.Key != nil && a.Keyless != nil:
		c.fault(path, "key and keyless are both given, want one: make two authorities, and name both in a rule's anyOf")
	case a.Key != nil:
		if err := checkKey(a.Key.PEM); err != nil {
			c.fault(path+".key.pem", "%v", err)
		}
	default:
		c.keyless(path+".keyless", doc, a.Keyless)
	}
}

func checkKey(text string) error {
	const want = "want a public key, -----BEGIN PUBLIC KEY----- (cosign public-key prints it)"
	if text == "" {
		return errors.New("must be given: " + want)
	}
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return errors.New("this is not PEM; " + want)
	case strings.Contains(block.Type, "PRIVATE KEY"):
		return errors.New("this is a PRIVATE key, and belongs in no document; " + want)
	case block.Type != "PUBLIC KEY" && block.Type != "RSA PUBLIC KEY":
		return fmt.Errorf("this is a %s; %s", clip(plain(block.Type), 60), want)
	case len(bytes.TrimSpace(rest)) > 0:
		return errors.New("there is more after the first key; one authority has one key")
	}
	var key any
	var err error
	if block.Type == "RSA PUBLIC KEY" {
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	} else {
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	}
	if err != nil {
		return fmt.Errorf("the key cannot be read: %w", err)
	}
	switch key := key.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
	case *rsa.PublicKey:
		if key.N.BitLen() < 2048 {
			return fmt.Errorf("an RSA key of %d bits; want 2048 at least", key.N.BitLen())
		}
	default:
		return fmt.Errorf("a key of type %T; want ECDSA, Ed25519 or RSA", key)
	}
	return nil
}

func (c *checker) keyless(path string, doc *Document, k *Keyless) {
	roots := namesOf(doc.TrustedRoots, func(r *TrustedRoot) string { return r.Name })
	c.reference(path+".trustedRoot", k.TrustedRoot, roots, "trusted root", "trustedRoots")
	c.oneOrRegExp(path, "issuer", k.Issuer, k.IssuerRegExp)
	c.oneOrRegExp(path, "subject", k.Subject, k.SubjectRegExp)
}

func (c *checker) oneOrRegExp(path, key, exact, re string) {
	switch {
	case exact == "" && re == "":
		c.fault(strictyaml.Join(path, key), "%s or %sRegExp must be given: any other way, whoever the authority knows could sign", key, key)
	case exact != "" && re != "":
		c.fault(strictyaml.Join(path, key), "%s and %sRegExp are both given, want one", key, key)
	case re != "":
		if _, err := regexp.Compile(re); err != nil {
			c.fault(strictyaml.Join(path, key+"RegExp"), "not a regular expression (RE2): %v", err)
		}
	}
}

// reference notes a name that is not among those known.
func (c *checker) reference(path, name string, known []string, what, list string) {
	switch {
	case name == "":
		c.fault(path, "must be given: the name of one of %s", list)
	case !slices.Contains(known, name):
		msg := fmt.Sprintf("no %s is called %q", what, clip(name, 80))
		if near := strictyaml.Nearest(name, known); near != "" {
			msg += fmt.Sprintf("; did you mean %q?", near)
		} else if len(known) > 0 && len(known) <= 8 {
			msg += "; there is " + strings.Join(known, ", ")
		} else if len(known) == 0 {
			msg += "; " + list + " has none"
		}
		c.fault(path, "%s", msg)
	}
}

func (c *checker) policy(path string, doc *Document, p *Policy) {
	c.required(path+".mode", string(p.Mode), "enforce, or audit to only see what would be refused")
	c.patterns(path+".match.images", p.Match.Images, true)
	c.patterns(path+".match.exclude", p.Match.Exclude, false)
	c.names(path+".rules", "name", namesOf(p.Rules, func(r *Rule) string { return r.Name }), nameRE, wantName)
	for i := range p.Rules {
		c.rule(fmt.Sprintf("%s.rules[%d]", path, i), doc, &p.Rules[i])
	}
}

func (c *checker) patterns(path string, texts []string, needed bool) {
	if needed && len(texts) == 0 {
		c.fault(path, "must be given: patterns like ghcr.io/acme/**, or ** for all images")
	}
	for i, text := range texts {
		if _, err := parsePattern(text); err != nil {
			c.fault(fmt.Sprintf("%s[%d]", path, i), "%v", err)
		}
	}
}

func (c *checker) rule(path string, doc *Document, r *Rule) {
	var kinds []string
	if r.Signature != nil {
		kinds = append(kinds, "signature")
		c.authorities(path+".signature.anyOf", doc, r.Signature.AnyOf)
	}
	if r.Attestation != nil {
		kinds = append(kinds, "attestation")
		c.attestation(path+".attestation", doc, r.Attestation)
	}
	if r.Vulnerabilities != nil {
		kinds = append(kinds, "vulnerabilities")
		c.vulnerabilities(path+".vulnerabilities", r.Vulnerabilities)
	}
	switch len(kinds) {
	case 1:
	case 0:
		c.fault(path, "one of signature, attestation and vulnerabilities must be given")
	default:
		c.fault(path, "%s are given, want one: a rule is one demand, and all rules of a policy must hold", strings.Join(kinds, " and "))
	}
}

func (c *checker) authorities(path string, doc *Document, names []string) {
	known := namesOf(doc.Authorities, func(a *Authority) string { return a.Name })
	if len(names) == 0 {
		c.fault(path, "must be given: names of authorities, one of which is enough")
	}
	for i, name := range names {
		at := fmt.Sprintf("%s[%d]", path, i)
		c.reference(at, name, known, "authority", "authorities")
		if slices.Contains(names[:i], name) {
			c.fault(at, "%q stands here twice", clip(name, 80))
		}
	}
}

func (c *checker) attestation(path string, doc *Document, a *AttestationRule) {
	c.required(path+".predicateType", a.PredicateType, "a URI like https://slsa.dev/provenance/v1")
	c.authorities(path+".anyOf", doc, a.AnyOf)
	if a.Condition == "" {
		return
	}
	if _, err := compileCondition(a.Condition); err != nil {
		where := ""
		var ce conditionError
		if errors.As(err, &ce) && ce.line > 0 {
			where = fmt.Sprintf(" (line %d, column %d of the expression)", ce.line, ce.column)
		}
		c.fault(path+".condition", "not a condition: %s%s; want CEL over predicate and statement, as predicate.runDetails.builder.id == \"…\"", clip(plain(err.Error()), 200), where)
	}
}

func (c *checker) vulnerabilities(path string, v *VulnerabilityRule) {
	const some = "LOW, MEDIUM, HIGH or CRITICAL"
	if v.Block == Unknown {
		c.fault(path+".block", "must be given: the least severity that is refused, %s", some)
	}
	if v.UnknownAs == Unknown {
		c.fault(path+".unknownAs", "must be given: what a vulnerability without a severity, as many new ones are, counts as: %s", some)
	}
}

func (c *checker) exception(path string, doc *Document, e *Exception) {
	c.required(path+".reason", e.Reason, "why this is no danger, or where that is written")
	c.required(path+".owner", e.Owner, "who answers for it")
	if e.Expires.IsZero() {
		c.fault(path+".expires", "must be given: a time like 2026-12-31T00:00:00Z, 180 days ahead at most")
	}
	c.patterns(path+".images", e.Images, true)
	for i, id := range e.CVEs {
		if !cveRE.MatchString(id) || len(id) > 64 {
			c.fault(fmt.Sprintf("%s.cves[%d]", path, i), "got %q, want an id like CVE-2026-12345 or GHSA-xxxx-xxxx-xxxx", clip(id, 80))
		}
	}
	c.reference(path+".policy", e.Policy, namesOf(doc.Policies, func(p *Policy) string { return p.Name }), "policy", "policies")
	i := slices.IndexFunc(doc.Policies, func(p Policy) bool { return p.Name == e.Policy })
	if i < 0 {
		return
	}
	p := &doc.Policies[i]
	c.reference(path+".rule", e.Rule, namesOf(p.Rules, func(r *Rule) string { return r.Name }), "rule of "+p.Name, "its rules")
	if j := slices.IndexFunc(p.Rules, func(r Rule) bool { return r.Name == e.Rule }); j >= 0 && len(e.CVEs) > 0 && p.Rules[j].Vulnerabilities == nil {
		c.fault(path+".cves", "%s is a rule about %ss, which knows no CVEs", e.Rule, p.Rules[j].Kind())
	}
}
