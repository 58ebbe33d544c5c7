package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/strictyaml"
)

// Tests is a document of cases that a policy is held to (kind: PolicyTest):
// an image, what is known of it, and what is to come of that.
type Tests struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Now        time.Time `json:"now,omitzero"` // zero: whatever time the cases are run at
	Cases      []Case    `json:"cases"`
}

// Case is one of them. What Facts leaves out is made up: an image manifest of
// an invented digest, nothing found for authorities that are not named, no scan.
type Case struct {
	Name  string    `json:"name"`
	Image string    `json:"image"` // as a person writes it: nginx, ghcr.io/acme/api:1
	Now   time.Time `json:"now,omitzero"`
	Facts CaseFacts `json:"facts,omitzero"`
	Want  Want      `json:"want"`
}

// CaseFacts is [Facts] as a test writes it: the subject comes from Image.
type CaseFacts struct {
	Kind         Kind                       `json:"kind,omitempty"`
	At           Point                      `json:"at,omitempty"`
	Children     []Child                    `json:"children,omitempty"`
	More         string                     `json:"more,omitempty"`
	Parents      []oci.Digest               `json:"parents,omitempty"`
	Platforms    []string                   `json:"platforms,omitempty"`
	Signatures   map[string]SignatureFact   `json:"signatures,omitempty"`
	Attestations map[string]AttestationFact `json:"attestations,omitempty"`
	Scans        []Scan                     `json:"scans,omitempty"`
	PolicyAt     time.Time                  `json:"policyAt,omitzero"`
}

// Want is what a case expects. What is not given is not looked at, apart from
// Outcome.
type Want struct {
	Outcome Outcome `json:"outcome"`
	Would   Outcome `json:"would,omitempty"`

	// Policy and Rule are those that decide, and Verdict is that rule's.
	Policy  string  `json:"policy,omitempty"`
	Rule    string  `json:"rule,omitempty"`
	Verdict Verdict `json:"verdict,omitempty"`

	CVEs    []string `json:"cves,omitempty"`    // all that block, in all rules
	Message string   `json:"message,omitempty"` // a part of the message
}

// CaseResult is how a case went.
type CaseResult struct {
	Name     string   `json:"name"`
	OK       bool     `json:"ok"`
	Problems []string `json:"problems,omitempty"` // what was not as wanted
	Decision Decision `json:"decision"`
}

// LoadTests reads a test document, as strictly as [Load] reads a policy.
func LoadTests(file string, data []byte) (*Tests, error) {
	var t Tests
	d := decode(file, data, &t)
	if !d.readable {
		return nil, d.err()
	}
	c := &checker{d: d, known: len(d.Faults)}
	if t.APIVersion != APIVersion {
		c.fault("apiVersion", "got %q, want %s", clip(t.APIVersion, 60), APIVersion)
	}
	if t.Kind != KindTest {
		c.fault("kind", "got %q, want %s", clip(t.Kind, 60), KindTest)
	}
	if len(t.Cases) == 0 {
		c.fault("cases", "must be given: a list of name, image, facts and want")
	}
	for i := range t.Cases {
		path, tc := fmt.Sprintf("cases[%d]", i), &t.Cases[i]
		c.required(path+".name", tc.Name, "a few words")
		if tc.Image == "" {
			c.fault(path+".image", "must be given: an image like ghcr.io/acme/api:1")
		} else if _, err := ParseSubject(tc.Image); err != nil {
			c.fault(path+".image", "%v", err)
		}
		c.required(path+".want.outcome", string(tc.Want.Outcome), "allow, wait or deny")
		for j, s := range tc.Facts.Scans {
			c.required(fmt.Sprintf("%s.facts.scans[%d].state", path, j), string(s.State), "none, pending, done, unscannable or error")
		}
		c.platforms(path+".facts.platforms", tc.Facts.Platforms)
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	return &t, nil
}

// Run judges each case by b. now is for the cases that say no time.
func (t *Tests) Run(b *Bundle, now time.Time) []CaseResult {
	if !t.Now.IsZero() {
		now = t.Now
	}
	results := make([]CaseResult, len(t.Cases))
	for i := range t.Cases {
		results[i] = t.Cases[i].run(b, now)
	}
	return results
}

func (c *Case) run(b *Bundle, now time.Time) CaseResult {
	if !c.Now.IsZero() {
		now = c.Now
	}
	res := CaseResult{Name: c.Name}
	res.Problems = c.unknownNames(b)
	res.Decision = b.Evaluate(c.facts(b), now)
	res.Problems = append(res.Problems, c.Want.problems(&res.Decision)...)
	res.OK = len(res.Problems) == 0
	return res
}

// unknownNames says which authorities the facts name that the policy has not:
// a case about them would prove nothing.
func (c *Case) unknownNames(b *Bundle) []string {
	var problems []string
	known := sortedKeys(b.authorities)
	for _, name := range slices.Compact(slices.Sorted(slices.Values(append(sortedKeys(c.Facts.Signatures), sortedKeys(c.Facts.Attestations)...)))) {
		if b.authorities[name] != nil {
			continue
		}
		msg := fmt.Sprintf("the policy has no authority %q", name)
		if near := strictyaml.Nearest(name, known); near != "" {
			msg += fmt.Sprintf("; did you mean %q?", near)
		}
		problems = append(problems, msg)
	}
	return problems
}

// facts are the case's, with what is left out made up.
func (c *Case) facts(b *Bundle) Facts {
	s, err := ParseSubject(c.Image)
	if err != nil {
		panic(err) // LoadTests has parsed it
	}
	if s.Digest == "" {
		s.Digest = oci.FromBytes([]byte(s.Name + ":" + s.Tag))
	}
	cf := &c.Facts
	f := Facts{
		Subject: s, Kind: cf.Kind, At: cf.At, Children: cf.Children, More: cf.More, Parents: cf.Parents, Platforms: cf.Platforms,
		Signatures: map[string]SignatureFact{}, Attestations: map[string]AttestationFact{}, Scans: cf.Scans, PolicyAt: cf.PolicyAt,
	}
	or(&f.Kind, KindImage)
	for name := range b.authorities {
		f.Signatures[name] = cf.Signatures[name]
		f.Attestations[name] = cf.Attestations[name]
	}
	return f
}

func (w *Want) problems(d *Decision) []string {
	var problems []string
	differ := func(what, want, got string) {
		if want != "" && want != got {
			problems = append(problems, fmt.Sprintf("%s is %q, want %q", what, got, want))
		}
	}
	differ("outcome", string(w.Outcome), string(d.Outcome))
	differ("would", string(w.Would), string(d.Would))
	p, r := d.deciding()
	if r == nil && w.Policy+w.Rule+string(w.Verdict) != "" {
		p, r = w.find(d)
	}
	if r == nil {
		p, r = &PolicyResult{}, &RuleResult{}
	}
	differ("policy", w.Policy, p.Name)
	differ("rule", w.Rule, r.Name)
	differ("verdict", string(w.Verdict), string(r.Verdict))
	if w.CVEs != nil {
		differ("cves", strings.Join(slices.Sorted(slices.Values(w.CVEs)), " "), strings.Join(blockedIDs(d), " "))
	}
	if w.Message != "" && !strings.Contains(d.Message(), w.Message) {
		problems = append(problems, fmt.Sprintf("message is %q, want %q in it", d.Message(), w.Message))
	}
	return problems
}

// find is the rule that was named, when none decides because all is well.
func (w *Want) find(d *Decision) (*PolicyResult, *RuleResult) {
	for i := range d.Policies {
		for j := range d.Policies[i].Rules {
			p, r := &d.Policies[i], &d.Policies[i].Rules[j]
			if (w.Policy == "" || w.Policy == p.Name) && (w.Rule == "" || w.Rule == r.Name) {
				return p, r
			}
		}
	}
	return nil, nil
}

func blockedIDs(d *Decision) []string {
	set := map[string]bool{}
	for i := range d.Policies {
		for j := range d.Policies[i].Rules {
			addAll(set, d.Policies[i].Rules[j].blockedIDs)
		}
	}
	return sortedKeys(set)
}
