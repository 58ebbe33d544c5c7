package policy

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// A world makes documents, facts and times at random, few of each kind, so
// that they meet.
type world struct{ *rand.Rand }

func pick[T any](w world, list ...T) T { return list[w.IntN(len(list))] }

func (w world) yes(percent int) bool { return w.IntN(100) < percent }

var worldStart = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// when is a whole hour in a fortnight, so that times coincide.
func (w world) when() time.Time { return worldStart.Add(time.Duration(w.IntN(14*24)) * time.Hour) }

func (w world) digest() oci.Digest {
	return oci.Digest("sha256:" + strings.Repeat(pick(w, "1", "2", "3", "4"), 64))
}

func (w world) some(names ...string) []string {
	var out []string
	for _, n := range names {
		if w.yes(50) {
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		return names[:1]
	}
	return out
}

func (w world) images() []string {
	return w.some("**", "ghcr.io/acme/**", "ghcr.io/acme/api", "docker.io/**", "*/acme/*")
}

const worldHead = `apiVersion: breakwater.dev/v1alpha1
kind: PolicyBundle
authorities:
- {name: one, key: {pem: "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"}}
- {name: two, key: {pem: "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"}}
revision: 7
default: allow
`

func (w world) document(t *testing.T) Document {
	d := decode("world", []byte(worldHead), new(Document))
	if d.err() != nil {
		t.Fatal(d.err())
	}
	var doc Document
	decode("world", []byte(worldHead), &doc)
	doc.Default = pick(w, DefaultAllow, DefaultAudit, DefaultDeny)
	if w.yes(30) {
		doc.MaxPolicyAge, doc.OnStalePolicy = Duration(72*time.Hour), pick(w, StaleKeep, StaleDeny)
	}
	if w.yes(30) {
		doc.Platforms = w.some("linux/amd64", "linux/arm64")
	}
	for i := range w.IntN(4) {
		doc.Policies = append(doc.Policies, w.policy(fmt.Sprintf("p%d", i)))
	}
	for i := range w.IntN(4) {
		if x, ok := w.exception(&doc, fmt.Sprintf("EX-%d", i)); ok {
			doc.Exceptions = append(doc.Exceptions, x)
		}
	}
	return doc
}

func (w world) policy(name string) Policy {
	p := Policy{Name: name, Mode: pick(w, Enforce, Enforce, Audit), Match: Match{Images: w.images()}, At: pick(w, []Point{Pull}, []Point{Pull, Push})}
	if w.yes(20) {
		p.Match.Exclude = w.images()
	}
	for i := range w.IntN(3) {
		p.Rules = append(p.Rules, w.rule(fmt.Sprintf("r%d", i)))
	}
	return p
}

func (w world) rule(name string) Rule {
	r := Rule{Name: name, OnError: pick(w, ActionAllow, ActionDeny)}
	switch w.IntN(3) {
	case 0:
		r.Signature = &SignatureRule{AnyOf: w.some("one", "two")}
	case 1:
		r.Attestation = &AttestationRule{PredicateType: pick(w, "a", "b"), AnyOf: w.some("one", "two"), Condition: pick(w, "", "predicate.ok", "predicate.n > 1")}
	default:
		wait := Duration(pick(w, 0, 10*time.Second, time.Hour))
		r.Vulnerabilities = &VulnerabilityRule{
			Block: pick(w, Low, Medium, High, Critical), UnknownAs: pick(w, Low, Critical), FixedOnly: w.yes(50),
			GraceAfterPublish: Duration(pick(w, 0, 48*time.Hour)), Unscanned: Unscanned{Wait: &wait, Then: pick(w, ActionAllow, ActionDeny)},
			Unscannable: pick(w, ActionAllow, ActionDeny), StaleAfter: Duration(pick(w, 0, 72*time.Hour)), OnStale: pick(w, ActionAllow, ActionDeny),
		}
	}
	return r
}

func (w world) exception(doc *Document, id string) (Exception, bool) {
	var with []*Policy
	for i := range doc.Policies {
		if len(doc.Policies[i].Rules) > 0 {
			with = append(with, &doc.Policies[i])
		}
	}
	if len(with) == 0 {
		return Exception{}, false
	}
	p := pick(w, with...)
	r := pick(w, p.Rules...)
	x := Exception{ID: id, Policy: p.Name, Rule: r.Name, Images: w.images(), Reason: "reason", Owner: "owner", Expires: w.when()}
	if r.Vulnerabilities != nil && w.yes(80) {
		x.CVEs = w.some("CVE-1-1", "CVE-1-2", "CVE-1-3")
	}
	return x, true
}

func (w world) bundle(t *testing.T, doc Document) *Bundle {
	t.Helper()
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	var own Document // defaults are filled into it
	if err := json.Unmarshal(text, &own); err != nil {
		t.Fatal(err)
	}
	fillDefaults(&own)
	b, err := compile(own)
	if err != nil {
		t.Fatal(err)
	}
	if w.yes(1) { // the way through YAML is slow, and has its own tests
		loaded, err := Load("world", text)
		if err != nil || loaded.Digest() != b.Digest() {
			t.Fatalf("%v in %s", err, text)
		}
	}
	return b
}

func (w world) facts() Facts {
	f := Facts{
		Subject:    Subject{Name: pick(w, "ghcr.io/acme/api", "ghcr.io/acme/web", "docker.io/library/demo"), Digest: w.digest()},
		Kind:       pick(w, KindImage, KindIndex, KindIndex),
		At:         pick(w, Pull, Pull, Pull, Push),
		Signatures: map[string]SignatureFact{}, Attestations: map[string]AttestationFact{},
	}
	if w.yes(20) {
		f.Parents = []oci.Digest{w.digest()}
	}
	if w.yes(30) {
		f.PolicyAt = w.when()
	}
	if f.Kind == KindIndex {
		for i, p := range []string{"linux/amd64", "linux/arm64/v8", "windows/amd64", "unknown/unknown"} {
			if w.yes(70) {
				f.Children = append(f.Children, Child{Digest: oci.Digest("sha256:" + strings.Repeat(fmt.Sprint(i+1), 64)), Platform: p})
			}
		}
	}
	for _, a := range []string{"one", "two"} {
		if w.yes(90) {
			f.Signatures[a] = SignatureFact{Valid: w.evidence(), Rejected: w.evidence(), Err: pick(w, "", "", "timeout")}
		}
		if w.yes(90) {
			fact := AttestationFact{Rejected: w.evidence(), Err: pick(w, "", "", "timeout")}
			for _, e := range w.evidence() {
				fact.Valid = append(fact.Valid, Statement{Evidence: e, JSON: json.RawMessage(fmt.Sprintf(`{"predicateType":%q,"predicate":{"ok":%v,"n":%d}}`, pick(w, "a", "b"), w.yes(50), w.IntN(4)))})
			}
			f.Attestations[a] = fact
		}
	}
	for i, p := range []string{"linux/amd64", "linux/arm64/v8", "windows/amd64"} {
		if w.yes(80) {
			f.Scans = append(f.Scans, w.scan(oci.Digest("sha256:"+strings.Repeat(fmt.Sprint(i+1), 64)), p))
		}
	}
	return f
}

func (w world) evidence() []Evidence {
	var list []Evidence
	for range w.IntN(3) {
		list = append(list, Evidence{Digest: w.digest(), On: w.digest(), Form: pick(w, "tag", "bundle"), Reason: pick(w, "", "subject mismatch", "wrong key")})
	}
	return list
}

func (w world) scan(d oci.Digest, platform string) Scan {
	s := Scan{Digest: d, Platform: platform, State: pick(w, ScanDone, ScanDone, ScanDone, ScanPending, ScanNone, ScanUnscannable, ScanError), Reason: pick(w, "", "why")}
	if s.State != ScanDone {
		s.Since = w.when()
		return s
	}
	s.At, s.DBTime, s.DBRevision = w.when(), w.when(), pick(w, "", "db1", "db2")
	for range w.IntN(6) {
		v := Vuln{ID: fmt.Sprintf("CVE-1-%d", 1+w.IntN(4)), Package: pick(w, "a", "b"), Fixed: pick(w, "", "2"), Severity: Severity(w.IntN(5))}
		if w.yes(50) {
			v.Published = w.when()
		}
		if w.yes(50) {
			v.FirstSeen = w.when()
		}
		s.Vulns = append(s.Vulns, v)
	}
	return s
}

func worlds(t *testing.T, n int, f func(w world)) {
	for i := range n {
		f(world{rand.New(rand.NewPCG(uint64(i), 99))})
		if t.Failed() {
			t.Fatalf("in world %d", i)
		}
	}
}

// A further policy, wherever it stands, only tightens. Where the default is to
// refuse what no policy matches, that is said of images that one matches.
func TestPropertyPoliciesTighten(t *testing.T) {
	tightened := 0
	worlds(t, 500, func(w world) {
		doc, f, now := w.document(t), w.facts(), w.when()
		before := w.bundle(t, doc).Evaluate(f, now)
		if doc.Default == DefaultDeny && slices.ContainsFunc(before.Policies, func(p PolicyResult) bool { return p.Name == defaultName }) {
			return
		}
		doc.Policies = slices.Insert(slices.Clone(doc.Policies), w.IntN(len(doc.Policies)+1), w.policy("further"))
		after := w.bundle(t, doc).Evaluate(f, now)
		if stricter(before.Outcome, after.Outcome) != after.Outcome {
			t.Errorf("a further policy made %s of %s:\n%s%s", after.Outcome, before.Outcome, before.Explain(), after.Explain())
		}
		if after.Outcome != before.Outcome {
			tightened++
		}
	})
	if tightened < 25 {
		t.Fatalf("only %d worlds were tightened: this shows little", tightened)
	}
}

// What of an index was not looked at, or may be taken before the rest, only
// tightens.
func TestPropertyMoreTightens(t *testing.T) {
	tightened := 0
	worlds(t, 500, func(w world) {
		doc, f, now := w.document(t), w.facts(), w.when()
		if f.Kind != KindIndex {
			return
		}
		b := w.bundle(t, doc)
		before := b.Evaluate(f, now)
		more := f
		more.More = "more than 200 images"
		conditional := f
		conditional.Children = slices.Clone(f.Children)
		for i := range conditional.Children {
			conditional.Children[i].Conditional = w.yes(50)
		}
		for _, f := range []Facts{more, conditional} {
			after := b.Evaluate(f, now)
			if stricter(before.Outcome, after.Outcome) != after.Outcome || stricter(before.Would, after.Would) != after.Would {
				t.Errorf("more of an index made %s of %s:\n%s%s", after.Outcome, before.Outcome, before.Explain(), after.Explain())
			}
			if after.Would != before.Would {
				tightened++
			}
		}
	})
	if tightened < 10 {
		t.Fatalf("only %d worlds were tightened: this shows little", tightened)
	}
}

// Exceptions only loosen, and an exception that has lapsed does nothing.
func TestPropertyExceptionsLoosen(t *testing.T) {
	loosened := 0
	worlds(t, 500, func(w world) {
		doc, f, now := w.document(t), w.facts(), w.when()
		before := w.bundle(t, doc).Evaluate(f, now)
		x, ok := w.exception(&doc, "further")
		if !ok {
			return
		}
		doc.Exceptions = append(slices.Clone(doc.Exceptions), x)
		after := w.bundle(t, doc).Evaluate(f, now)
		if stricter(before.Outcome, after.Outcome) != before.Outcome || stricter(before.Would, after.Would) != before.Would {
			t.Errorf("a further exception made %s of %s:\n%s%s", after.Outcome, before.Outcome, before.Explain(), after.Explain())
		}
		if !now.Before(x.Expires) && after.ID != before.ID {
			t.Errorf("an exception that has lapsed made a difference:\n%s%s", before.Explain(), after.Explain())
		}
		if after.Would != before.Would {
			loosened++
		}
	})
	if loosened < 10 {
		t.Fatalf("only %d worlds were loosened: this shows little", loosened)
	}
}

// Exceptions are the only way to loosen: a rule without one in use says what
// it says when the document has no exceptions at all.
func TestPropertyOnlyExceptionsLoosen(t *testing.T) {
	worlds(t, 500, func(w world) {
		doc, f, now := w.document(t), w.facts(), w.when()
		with := w.bundle(t, doc).Evaluate(f, now)
		doc.Exceptions = nil
		without := w.bundle(t, doc).Evaluate(f, now)
		for i, p := range with.Policies {
			for j, r := range p.Rules {
				bare := without.Policies[i].Rules[j]
				if len(r.Used) == 0 && (r.Verdict != bare.Verdict || r.Outcome != bare.Outcome || r.BlockedCount != bare.BlockedCount) {
					t.Errorf("rule %s is %s, %s without exceptions, and used none", r.Name, r.Verdict, bare.Verdict)
				}
				if len(r.Used) > 0 && bare.Outcome == Allow {
					t.Errorf("rule %s used exceptions it had no need of", r.Name)
				}
			}
		}
	})
}

// Audit mode computes the same: what is refused when all is enforced is what
// would be.
func TestPropertyAudit(t *testing.T) {
	worlds(t, 500, func(w world) {
		doc, f, now := w.document(t), w.facts(), w.when()
		doc.Default = DefaultAllow
		audited := w.bundle(t, doc).Evaluate(f, now)
		for i := range doc.Policies {
			doc.Policies[i].Mode = Enforce
		}
		enforced := w.bundle(t, doc).Evaluate(f, now)
		if audited.Would != enforced.Outcome {
			t.Errorf("audit says it would be %s; enforced it is %s", audited.Would, enforced.Outcome)
		}
		if stricter(audited.Outcome, audited.Would) != audited.Would {
			t.Errorf("it is %s and would be %s", audited.Outcome, audited.Would)
		}
	})
}

// The same facts in another order are the same decision.
func TestPropertyOrder(t *testing.T) {
	worlds(t, 500, func(w world) {
		b, f, now := w.bundle(t, w.document(t)), w.facts(), w.when()
		want := b.Evaluate(f, now)
		shuffleLists(w, reflect.ValueOf(&f).Elem())
		got := b.Evaluate(f, now)
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Decision{}, RuleResult{})); diff != "" {
			t.Errorf("in another order (-want +got):\n%s", diff)
		}
	})
}

// shuffleLists puts every list in v in another order, in a copy of it.
func shuffleLists(w world, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				shuffleLists(w, v.Field(i))
			}
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			elem := reflect.New(v.Type().Elem()).Elem()
			elem.Set(v.MapIndex(k))
			shuffleLists(w, elem)
			v.SetMapIndex(k, elem)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		list := reflect.AppendSlice(reflect.Zero(v.Type()), v)
		swap := reflect.Swapper(list.Interface())
		w.Shuffle(list.Len(), swap)
		for i := range list.Len() {
			shuffleLists(w, list.Index(i))
		}
		v.Set(list)
	}
}

// Until ValidUntil the same facts give the same id, and the outcome never
// changes at a time that no decision named.
func TestPropertyValidUntil(t *testing.T) {
	changed := 0
	worlds(t, 800, func(w world) {
		b, f, now := w.bundle(t, w.document(t)), w.facts(), w.when()
		d := b.Evaluate(f, now)
		end := worldStart.Add(60 * 24 * time.Hour)
		if !d.ValidUntil.IsZero() {
			if !d.ValidUntil.After(now) {
				t.Fatalf("valid until %s at %s", d.ValidUntil, now)
			}
			end = d.ValidUntil.Add(-1)
			if b.Evaluate(f, d.ValidUntil).Outcome != d.Outcome {
				changed++
			}
		}
		for range 5 {
			at := now.Add(time.Duration(w.Int64N(int64(end.Sub(now)) + 1)))
			if got := b.Evaluate(f, at); got.ID != d.ID {
				t.Errorf("at %s, before %s, it is\n%snot\n%s", at, end, got.Explain(), d.Explain())
			}
		}
		if got := b.Evaluate(f, end); got.ID != d.ID {
			t.Errorf("at its end, %s, it is\n%snot\n%s", end, got.Explain(), d.Explain())
		}
	})
	if changed < 8 {
		t.Fatalf("only %d decisions changed at the time they named: this shows little", changed)
	}
}

// Facts and decisions survive their JSON; the tag decides nothing; and what is
// not asked for by Needs is not missed.
func TestPropertyTravel(t *testing.T) {
	worlds(t, 500, func(w world) {
		b, f, now := w.bundle(t, w.document(t)), w.facts(), w.when()
		want := b.Evaluate(f, now)
		text, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		var sent Facts
		if err := json.Unmarshal(text, &sent); err != nil {
			t.Fatal(err)
		}
		sent.Subject.Tag = "v1"
		got := b.Evaluate(sent, now)
		got.Subject.Tag = ""
		ignore := cmp.Options{cmpopts.IgnoreUnexported(Decision{}, RuleResult{}), cmpopts.EquateEmpty()}
		if diff := cmp.Diff(want, got, ignore); diff != "" {
			t.Errorf("after JSON (-want +got):\n%s", diff)
		}
		text, err = json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var told Decision
		if err := json.Unmarshal(text, &told); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, told, ignore); diff != "" || told.Message() != want.Message() || told.Explain() != want.Explain() {
			t.Errorf("told (-want +got):\n%s%s\n%s", diff, told.Message(), want.Message())
		}

		n := b.Needs(f.Subject, f.At)
		for name := range f.Signatures {
			if !slices.Contains(n.Signatures, name) {
				delete(f.Signatures, name)
			}
		}
		for name := range f.Attestations {
			if !slices.ContainsFunc(n.Attestations, func(a AttestationNeed) bool { return slices.Contains(a.Authorities, name) }) {
				delete(f.Attestations, name)
			}
		}
		if n.Scan == nil {
			f.Scans = nil
		}
		if less := b.Evaluate(f, now); less.ID != want.ID {
			t.Errorf("with what is needed it is\n%snot\n%s", less.Explain(), want.Explain())
		}
	})
}

// A change is called tightening or loosening only if no image shows otherwise.
func TestPropertyDiff(t *testing.T) {
	effects := map[Effect]int{}
	worlds(t, 500, func(w world) {
		doc := w.document(t)
		other := doc
		other.Policies = slices.Clone(doc.Policies)
		switch w.IntN(4) {
		case 0:
			other.Policies = append(other.Policies, w.policy("further"))
		case 1:
			other.Default = pick(w, DefaultAllow, DefaultAudit, DefaultDeny)
		case 2:
			if x, ok := w.exception(&other, "further"); ok {
				other.Exceptions = append(slices.Clone(doc.Exceptions), x)
			}
		default:
			if len(other.Policies) == 0 {
				return
			}
			p := &other.Policies[0]
			fresh := w.policy(p.Name)
			switch w.IntN(3) {
			case 0:
				p.Mode = fresh.Mode
			case 1:
				p.Match = fresh.Match
			default:
				if len(p.Rules) == 0 {
					return
				}
				p.Rules = slices.Clone(p.Rules)
				changed := w.rule(p.Rules[0].Name)
				if changed.Kind() != p.Rules[0].Kind() {
					return
				}
				p.Rules[0] = changed
			}
		}
		prev, next := w.bundle(t, doc), w.bundle(t, other)
		changes := Diff(prev, next)
		tightens, loosens := false, false
		for _, c := range changes.List {
			effects[c.Effect]++
			tightens = tightens || c.Effect == Tightens || c.Effect == Either
			loosens = loosens || c.Effect == Loosens || c.Effect == Either
		}
		for range 20 {
			f, now := w.facts(), w.when()
			a, b := prev.Evaluate(f, now), next.Evaluate(f, now)
			// How long a rule waits is no change of what it allows.
			if a.Outcome == Wait || b.Outcome == Wait {
				continue
			}
			switch {
			case a.Outcome == b.Outcome:
			case b.Outcome.strictness() > a.Outcome.strictness() && !tightens, b.Outcome.strictness() < a.Outcome.strictness() && !loosens:
				t.Fatalf("%s became %s by\n%s%s%s", a.Outcome, b.Outcome, changes, a.Explain(), b.Explain())
			}
		}
	})
	for _, e := range []Effect{Tightens, Loosens, Either, Neutral} {
		if effects[e] < 10 {
			t.Errorf("only %d changes were %s: this shows little", effects[e], e)
		}
	}
}
