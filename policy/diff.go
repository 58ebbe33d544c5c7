package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Changes is what differs between two revisions of a document.
type Changes struct {
	From int64    `json:"from"` // revision
	To   int64    `json:"to"`
	List []Change `json:"changes"`
}

// Change is one difference. Path names things, not their places in a list:
// policies[prod-signed].rules[cve].block.
type Change struct {
	Path   string `json:"path"`
	Kind   string `json:"kind"` // added, removed, changed
	Text   string `json:"text"` // in words
	Effect Effect `json:"effect"`
	Old    any    `json:"old,omitempty"`
	New    any    `json:"new,omitempty"`
}

// Effect is what a change does to what is refused.
type Effect string

// The effects.
const (
	Tightens Effect = "tightens" // some images may be refused that were not
	Loosens  Effect = "loosens"  // some images may be allowed that were not
	Either   Effect = "either"   // both may be
	Neutral  Effect = "none"     // neither: audit mode, names, reasons
)

// Loosens says that some image may be allowed after the change that was not.
func (c Changes) Loosens() bool {
	return slices.ContainsFunc(c.List, func(c Change) bool { return c.Effect == Loosens || c.Effect == Either })
}

// String has a line for each change, what it does first.
func (c Changes) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "revision %d to %d: ", c.From, c.To)
	if len(c.List) == 0 {
		b.WriteString("nothing changes\n")
		return b.String()
	}
	fmt.Fprintf(&b, "%d %s\n", len(c.List), plural(len(c.List), "change"))
	for _, ch := range c.List {
		fmt.Fprintf(&b, "  %-8s  %s\n", ch.Effect, plain(ch.Text))
	}
	return b.String()
}

// Diff says what becomes different when the document next takes the place of
// prev. The order of lists means nothing, so moving an entry is no change.
func Diff(prev, next *Bundle) Changes {
	d := &differ{}
	a, b := &prev.doc, &next.doc
	d.scalar("default", "the default", a.Default, b.Default, order([]Default{DefaultAllow, DefaultAudit, DefaultDeny}, a.Default, b.Default))
	d.scalar("maxPolicyAge", "maxPolicyAge", a.MaxPolicyAge, b.MaxPolicyAge, ageEffect(a, b))
	d.scalar("onStalePolicy", "onStalePolicy", a.OnStalePolicy, b.OnStalePolicy, order([]StaleAction{StaleKeep, StaleDeny}, a.OnStalePolicy, b.OnStalePolicy))
	d.list("platforms", "platforms", "judged platform", a.Platforms, b.Platforms, Either, Either)

	pairs(a.TrustedRoots, b.TrustedRoots, func(r *TrustedRoot) string { return r.Name }, func(name string, x, y *TrustedRoot) {
		d.whole("trustedRoots["+name+"]", "trusted root "+name, x, y, Neutral, Neutral)
		if x != nil && y != nil && *x != *y {
			d.add(Change{Path: "trustedRoots[" + name + "]", Kind: "changed", Text: "trusted root " + name + " is another", Effect: Either, Old: *x, New: *y})
		}
	})
	pairs(a.Authorities, b.Authorities, func(x *Authority) string { return x.Name }, d.authority)
	pairs(a.Policies, b.Policies, func(p *Policy) string { return p.Name }, func(name string, x, y *Policy) { d.policy(name, x, y, b.Default) })
	pairs(a.Exceptions, b.Exceptions, func(e *Exception) string { return e.ID }, d.exception)
	return Changes{From: a.Revision, To: b.Revision, List: d.changes}
}

type differ struct {
	changes []Change
	neutral bool // of a policy in audit mode before and after
}

func (d *differ) add(c Change) {
	if d.neutral {
		c.Effect = Neutral
	}
	d.changes = append(d.changes, c)
}

// pairs calls f for each name in either list: in the order of b, then what is
// in a alone. What is missing is nil.
func pairs[T any](a, b []T, name func(*T) string, f func(name string, x, y *T)) {
	find := func(list []T, n string) *T {
		for i := range list {
			if name(&list[i]) == n {
				return &list[i]
			}
		}
		return nil
	}
	for i := range b {
		f(name(&b[i]), find(a, name(&b[i])), &b[i])
	}
	for i := range a {
		if n := name(&a[i]); find(b, n) == nil {
			f(n, &a[i], nil)
		}
	}
}

// whole notes that x came or went. The effects are of its coming and going.
func (d *differ) whole(path, what string, x, y any, added, removed Effect) {
	switch {
	case isNil(x) && !isNil(y):
		d.add(Change{Path: path, Kind: "added", Text: what + " is added", Effect: added, New: y})
	case !isNil(x) && isNil(y):
		d.add(Change{Path: path, Kind: "removed", Text: what + " is removed", Effect: removed, Old: x})
	}
}

func isNil(v any) bool {
	switch v := v.(type) {
	case *TrustedRoot:
		return v == nil
	case *Authority:
		return v == nil
	case *Policy:
		return v == nil
	case *Rule:
		return v == nil
	case *Exception:
		return v == nil
	}
	return v == nil
}

// scalar notes that a value is another.
func (d *differ) scalar(path, what string, x, y any, effect Effect) {
	if x == y {
		return
	}
	d.add(Change{Path: path, Kind: "changed", Text: fmt.Sprintf("%s changes from %s to %s", what, show(x), show(y)), Effect: effect, Old: x, New: y})
}

func show(v any) string {
	switch v := v.(type) {
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	case bool:
		return map[bool]string{true: "yes", false: "no"}[v]
	case Duration:
		if v == 0 {
			return "none"
		}
	case string:
		if strings.ContainsAny(v, " \n") || v == "" {
			return fmt.Sprintf("%q", clip(v, 200))
		}
	}
	return clip(fmt.Sprint(v), 200)
}

// list notes the words that came and went.
func (d *differ) list(path, where, what string, x, y []string, added, removed Effect) {
	for _, w := range y {
		if !slices.Contains(x, w) {
			d.add(Change{Path: path, Kind: "added", Text: fmt.Sprintf("%s: %s is added", where, joinWords(what, w)), Effect: added, New: w})
		}
	}
	for _, w := range x {
		if !slices.Contains(y, w) {
			d.add(Change{Path: path, Kind: "removed", Text: fmt.Sprintf("%s: %s is removed", where, joinWords(what, w)), Effect: removed, Old: w})
		}
	}
}

// order is the effect of going from x to y in a list from loose to tight.
func order[T comparable](list []T, x, y T) Effect {
	return rising(slices.Index(list, x), slices.Index(list, y))
}

// rising is the effect of a value of which more is tighter.
func rising[T int | int64 | Severity | Duration](x, y T) Effect {
	switch {
	case y > x:
		return Tightens
	case y < x:
		return Loosens
	}
	return Neutral
}

func ageEffect(a, b *Document) Effect {
	if a.OnStalePolicy != StaleDeny && b.OnStalePolicy != StaleDeny {
		return Neutral
	}
	return limit(a.MaxPolicyAge, b.MaxPolicyAge)
}

// limit is the effect of another age limit: 0 is none at all.
func limit(x, y Duration) Effect {
	const never = Duration(1<<63 - 1)
	if x == 0 {
		x = never
	}
	if y == 0 {
		y = never
	}
	return rising(y, x)
}

var actions = []Action{ActionAllow, ActionDeny}

func (d *differ) authority(name string, x, y *Authority) {
	path, what := "authorities["+name+"]", "authority "+name
	d.whole(path, what, x, y, Neutral, Neutral) // the rules that name it show what that does
	if x == nil || y == nil {
		return
	}
	oldKey, newKey := Key{}, Key{}
	if x.Key != nil {
		oldKey = *x.Key
	}
	if y.Key != nil {
		newKey = *y.Key
	}
	if strings.TrimSpace(oldKey.PEM) != strings.TrimSpace(newKey.PEM) {
		d.add(Change{Path: path + ".key", Kind: "changed", Text: what + " has another key", Effect: Either, Old: oldKey.PEM, New: newKey.PEM})
	}
	oldID, newID := Keyless{}, Keyless{}
	if x.Keyless != nil {
		oldID = *x.Keyless
	}
	if y.Keyless != nil {
		newID = *y.Keyless
	}
	path += ".keyless."
	d.scalar(path+"trustedRoot", what+": trustedRoot", oldID.TrustedRoot, newID.TrustedRoot, Either)
	d.scalar(path+"issuer", what+": issuer", oldID.Issuer, newID.Issuer, Either)
	d.scalar(path+"issuerRegExp", what+": issuerRegExp", oldID.IssuerRegExp, newID.IssuerRegExp, Either)
	d.scalar(path+"subject", what+": subject", oldID.Subject, newID.Subject, Either)
	d.scalar(path+"subjectRegExp", what+": subjectRegExp", oldID.SubjectRegExp, newID.SubjectRegExp, Either)
}

func (d *differ) policy(name string, x, y *Policy, def Default) {
	path, what := "policies["+name+"]", "policy "+name
	more, less := Tightens, Loosens
	if def == DefaultDeny {
		more, less = Either, Either // what a policy matches is no longer under the default
	}
	d.neutral = (x == nil || x.Mode == Audit) && (y == nil || y.Mode == Audit)
	defer func() { d.neutral = false }()
	d.whole(path, what, x, y, more, less)
	if x == nil || y == nil {
		return
	}
	d.scalar(path+".mode", what+": mode", x.Mode, y.Mode, map[Mode]Effect{Enforce: more, Audit: less}[y.Mode])
	d.list(path+".match.images", what, "the images", x.Match.Images, y.Match.Images, more, less)
	d.list(path+".match.exclude", what, "the exclusion of", x.Match.Exclude, y.Match.Exclude, less, more)
	d.list(path+".at", what, "being asked at a", points(x.At), points(y.At), more, less)
	d.scalar(path+".protectSigned", what+": protectSigned", x.ProtectSigned, y.ProtectSigned, Neutral)
	pairs(x.Rules, y.Rules, func(r *Rule) string { return r.Name }, func(rule string, r, s *Rule) { d.rule(path, what, rule, r, s) })
}

func points(list []Point) []string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = string(p)
	}
	return out
}

func (d *differ) rule(path, what, name string, x, y *Rule) {
	path, what = path+".rules["+name+"]", what+" rule "+name
	d.whole(path, what, x, y, Tightens, Loosens)
	if x == nil || y == nil {
		return
	}
	if x.Kind() != y.Kind() {
		d.add(Change{Path: path, Kind: "changed", Text: fmt.Sprintf("%s changes from %s to %s", what, x.Kind(), y.Kind()), Effect: Either, Old: *x, New: *y})
		return
	}
	d.scalar(path+".onError", what+": onError", x.OnError, y.OnError, order(actions, x.OnError, y.OnError))
	switch {
	case x.Signature != nil:
		d.list(path+".signature.anyOf", what, "authority", x.Signature.AnyOf, y.Signature.AnyOf, Loosens, Tightens)
	case x.Attestation != nil:
		a, b := x.Attestation, y.Attestation
		path += ".attestation"
		d.list(path+".anyOf", what, "authority", a.AnyOf, b.AnyOf, Loosens, Tightens)
		d.scalar(path+".predicateType", what+": predicateType", a.PredicateType, b.PredicateType, Either)
		effect := Either
		if a.Condition == "" {
			effect = Tightens
		} else if b.Condition == "" {
			effect = Loosens
		}
		d.scalar(path+".condition", what+": condition", a.Condition, b.Condition, effect)
	case x.Vulnerabilities != nil:
		d.vulnerabilities(path+".vulnerabilities", what, x.Vulnerabilities, y.Vulnerabilities)
	}
}

func (d *differ) vulnerabilities(path, what string, a, b *VulnerabilityRule) {
	d.scalar(path+".block", what+": block", a.Block, b.Block, rising(b.Block, a.Block))
	d.scalar(path+".unknownAs", what+": unknownAs", a.UnknownAs, b.UnknownAs, rising(a.UnknownAs, b.UnknownAs))
	d.scalar(path+".fixedOnly", what+": fixedOnly", a.FixedOnly, b.FixedOnly, map[bool]Effect{true: Loosens, false: Tightens}[b.FixedOnly])
	d.scalar(path+".graceAfterPublish", what+": graceAfterPublish", a.GraceAfterPublish, b.GraceAfterPublish, rising(b.GraceAfterPublish, a.GraceAfterPublish))
	d.scalar(path+".unscanned.wait", what+": unscanned.wait", *a.Unscanned.Wait, *b.Unscanned.Wait, Neutral)
	d.scalar(path+".unscanned.then", what+": unscanned.then", a.Unscanned.Then, b.Unscanned.Then, order(actions, a.Unscanned.Then, b.Unscanned.Then))
	d.scalar(path+".unscannable", what+": unscannable", a.Unscannable, b.Unscannable, order(actions, a.Unscannable, b.Unscannable))
	d.scalar(path+".staleAfter", what+": staleAfter", a.StaleAfter, b.StaleAfter, limit(a.StaleAfter, b.StaleAfter))
	d.scalar(path+".onStale", what+": onStale", a.OnStale, b.OnStale, order(actions, a.OnStale, b.OnStale))
}

func (d *differ) exception(id string, x, y *Exception) {
	path, what := "exceptions["+id+"]", "exception "+id
	described := func(e *Exception) string {
		if e == nil {
			return what
		}
		of := "all of it"
		if len(e.CVEs) > 0 {
			of = strings.Join(e.CVEs, ", ")
		}
		return fmt.Sprintf("%s from %s/%s (%s, for %s, until %s)", what, e.Policy, e.Rule, of, strings.Join(e.Images, ", "), e.Expires.UTC().Format(time.DateOnly))
	}
	if y != nil {
		d.whole(path, described(y), x, y, Loosens, Tightens)
	} else {
		d.whole(path, described(x), x, y, Loosens, Tightens)
	}
	if x == nil || y == nil {
		return
	}
	d.scalar(path+".policy", what+": policy", x.Policy, y.Policy, Either)
	d.scalar(path+".rule", what+": rule", x.Rule, y.Rule, Either)
	d.list(path+".images", what, "the images", x.Images, y.Images, Loosens, Tightens)
	switch {
	case len(x.CVEs) > 0 && len(y.CVEs) == 0:
		d.add(Change{Path: path + ".cves", Kind: "removed", Text: what + " waives the whole rule now, not just " + strings.Join(x.CVEs, ", "), Effect: Loosens, Old: x.CVEs})
	case len(x.CVEs) == 0 && len(y.CVEs) > 0:
		d.add(Change{Path: path + ".cves", Kind: "added", Text: what + " is for " + strings.Join(y.CVEs, ", ") + " only now, not the whole rule", Effect: Tightens, New: y.CVEs})
	default:
		d.list(path+".cves", what, "", x.CVEs, y.CVEs, Loosens, Tightens)
	}
	if !x.Expires.Equal(y.Expires) {
		d.scalar(path+".expires", what+": expires", x.Expires.UTC(), y.Expires.UTC(), map[bool]Effect{true: Loosens, false: Tightens}[y.Expires.After(x.Expires)])
	}
	d.scalar(path+".reason", what+": reason", x.Reason, y.Reason, Neutral)
	d.scalar(path+".owner", what+": owner", x.Owner, y.Owner, Neutral)
}
