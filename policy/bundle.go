package policy

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/strictyaml"
)

// Bundle is a document that was found right, made ready to judge by. It never
// changes and is safe for concurrent use.
type Bundle struct {
	doc    Document
	json   []byte
	digest oci.Digest

	policies    []compiledPolicy
	exceptions  []compiledException
	authorities map[string]*Authority
	roots       map[string]*TrustedRoot

	file   string
	places strictyaml.Places // of each field, for Lint
}

type compiledPolicy struct {
	*Policy
	images, exclude patterns
	rules           []compiledRule
}

type compiledRule struct {
	*Rule
	kind       RuleKind
	condition  *condition           // nil: none
	exceptions []*compiledException // of this rule, in the document's order
}

type compiledException struct {
	*Exception
	images patterns
	cves   map[string]bool // folded; nil: the whole rule
}

// Document is what was loaded, defaults filled in and patterns as written. It
// is shared: do not change it.
func (b *Bundle) Document() *Document { return &b.doc }

// Revision is the document's.
func (b *Bundle) Revision() int64 { return b.doc.Revision }

// JSON is the document in one canonical form, which [Load] reads again: what
// the hub signs and nodes are sent. It is shared: do not change it.
func (b *Bundle) JSON() []byte { return b.json }

// Digest is the sha256 of [Bundle.JSON].
func (b *Bundle) Digest() oci.Digest { return b.digest }

// Authority gives the authority of that name.
func (b *Bundle) Authority(name string) (*Authority, bool) {
	a, ok := b.authorities[name]
	return a, ok
}

// TrustedRoot gives the text of the trusted root of that name: a
// trusted_root.json. ok is false when there is none, or it has not been
// resolved.
func (b *Bundle) TrustedRoot(name string) (text []byte, ok bool) {
	r := b.roots[name]
	if r == nil || r.JSON == "" {
		return nil, false
	}
	return []byte(r.JSON), true
}

// Placed is err with the file of the document and the lines of the fields that
// it is about, where err is [Faults].
func (b *Bundle) Placed(err error) error {
	faults, ok := errors.AsType[Faults](err)
	if !ok {
		return err
	}
	out := make(Faults, len(faults))
	for i, f := range faults {
		out[i] = b.place(f)
	}
	return out
}

func (b *Bundle) place(f Fault) Fault {
	return f.At(b.places.Near(f.Path))
}

// Resolve gives a bundle whose trusted roots are all in the document itself:
// read is called with each File. The result can be sent elsewhere. Its error is
// [Faults] where files are missing or no trusted roots.
func (b *Bundle) Resolve(read func(file string) ([]byte, error)) (*Bundle, error) {
	doc := b.doc
	doc.TrustedRoots = slices.Clone(doc.TrustedRoots)
	var faults Faults
	for i := range doc.TrustedRoots {
		r := &doc.TrustedRoots[i]
		if r.File == "" {
			continue
		}
		text, err := read(r.File)
		if err == nil {
			if err = checkTrustedRoot(text); err != nil {
				err = fmt.Errorf("%s: %w", r.File, err)
			}
		}
		if err != nil {
			faults = append(faults, b.place(Fault{Path: fmt.Sprintf("trustedRoots[%d].file", i), Message: err.Error()}))
			continue
		}
		r.JSON, r.File = string(text), ""
	}
	if len(faults) > 0 {
		return nil, faults
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("write the document: %w", err)
	}
	out, err := Load(b.file, text)
	if err != nil {
		return nil, err
	}
	out.places = b.places // of the file that people have
	return out, nil
}

// compile makes a bundle of a document without faults.
func compile(doc Document) (*Bundle, error) {
	b := &Bundle{doc: doc, authorities: map[string]*Authority{}, roots: map[string]*TrustedRoot{}}
	var err error
	if b.json, err = json.Marshal(doc); err != nil {
		return nil, fmt.Errorf("write the document: %w", err)
	}
	b.digest = oci.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(b.json)))
	for i := range b.doc.Authorities {
		b.authorities[b.doc.Authorities[i].Name] = &b.doc.Authorities[i]
	}
	for i := range b.doc.TrustedRoots {
		b.roots[b.doc.TrustedRoots[i].Name] = &b.doc.TrustedRoots[i]
	}
	b.exceptions = make([]compiledException, len(b.doc.Exceptions))
	for i := range b.exceptions {
		b.exceptions[i] = compileException(&b.doc.Exceptions[i])
	}
	for i := range b.doc.Policies {
		p := &b.doc.Policies[i]
		cp := compiledPolicy{Policy: p, images: mustPatterns(p.Match.Images), exclude: mustPatterns(p.Match.Exclude)}
		for j := range p.Rules {
			cp.rules = append(cp.rules, b.compileRule(p, &p.Rules[j]))
		}
		b.policies = append(b.policies, cp)
	}
	return b, nil
}

func (b *Bundle) compileRule(p *Policy, r *Rule) compiledRule {
	cr := compiledRule{Rule: r, kind: r.Kind()}
	if r.Attestation != nil && r.Attestation.Condition != "" {
		c, err := compileCondition(r.Attestation.Condition)
		if err != nil {
			panic(err) // Load has compiled it before
		}
		cr.condition = c
	}
	for i := range b.exceptions {
		if e := &b.exceptions[i]; e.Policy == p.Name && e.Rule == r.Name {
			cr.exceptions = append(cr.exceptions, e)
		}
	}
	return cr
}

func compileException(e *Exception) compiledException {
	ce := compiledException{Exception: e, images: mustPatterns(e.Images)}
	for _, id := range e.CVEs {
		if ce.cves == nil {
			ce.cves = map[string]bool{}
		}
		ce.cves[foldID(id)] = true
	}
	return ce
}

// mustPatterns parses patterns that Load has parsed before.
func mustPatterns(texts []string) patterns {
	ps := make(patterns, len(texts))
	for i, t := range texts {
		p, err := parsePattern(t)
		if err != nil {
			panic(err)
		}
		ps[i] = p
	}
	return ps
}

// Kind is which of its fields the rule has.
func (r *Rule) Kind() RuleKind {
	switch {
	case r.Signature != nil:
		return KindSignature
	case r.Attestation != nil:
		return KindAttestation
	}
	return KindVulnerabilities
}

// matches says whether the policy is for s at that occasion.
func (p *compiledPolicy) matches(s *Subject, at Point) bool {
	return slices.Contains(p.At, at) && p.matchesImage(s)
}

func (p *compiledPolicy) matchesImage(s *Subject) bool {
	return p.images.match(s) && !p.exclude.match(s)
}
