package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Remark is one thing that [Bundle.Lint] noticed in a document that is right.
type Remark struct {
	Fault
	Level Level  `json:"level"`
	Code  string `json:"code"` // a stable word: exception-expired, unused-authority, …
}

// Level is how bad a remark is.
type Level string

// The levels.
const (
	Warning Level = "warning" // probably not what was meant, or soon a surprise
	Info    Level = "info"    // worth knowing
)

// LintOptions is what Lint knows beside the document. The zero value asks
// about the document alone, without time.
type LintOptions struct {
	Now  time.Time // zero: nothing is said of dates
	Seen []Subject // images that were pulled or are stored; none: nothing is said of what patterns match
}

const (
	maxExceptionDays  = 180
	exceptionSoonDays = 14
	day               = 24 * time.Hour
)

// Lint says what is probably not meant so: patterns that match nothing,
// exceptions that have expired or last too long, names that nothing uses. The
// remarks are in the order of the file.
func (b *Bundle) Lint(o LintOptions) []Remark {
	l := &linter{b: b, o: o}
	images := make(map[string]bool)
	for _, s := range o.Seen {
		s.Tag = ""
		images[s.String()] = true
	}
	l.images = len(images)
	l.document()
	for i := range b.policies {
		l.policy(fmt.Sprintf("policies[%d]", i), &b.policies[i])
	}
	for i := range b.exceptions {
		l.exception(fmt.Sprintf("exceptions[%d]", i), &b.exceptions[i])
	}
	slices.SortStableFunc(l.remarks, func(a, b Remark) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return l.remarks
}

type linter struct {
	b       *Bundle
	o       LintOptions
	images  int // in o.Seen: one with two tags is in it twice
	remarks []Remark
}

func (l *linter) add(level Level, code, path, format string, args ...any) {
	l.remarks = append(l.remarks, Remark{l.b.place(Fault{Path: path, Message: fmt.Sprintf(format, args...)}), level, code})
}

func (l *linter) document() {
	doc := &l.b.doc
	usedAuthorities, usedRoots := map[string]bool{}, map[string]bool{}
	protectsAll := false
	for i := range l.b.policies {
		p := &l.b.policies[i]
		protectsAll = protectsAll || p.ProtectSigned && !slices.ContainsFunc(p.Rules, func(r Rule) bool { return r.Signature != nil })
		for _, r := range p.Rules {
			if r.Signature != nil {
				addAll(usedAuthorities, r.Signature.AnyOf)
			}
			if r.Attestation != nil {
				addAll(usedAuthorities, r.Attestation.AnyOf)
			}
		}
	}
	for i, a := range doc.Authorities {
		path := fmt.Sprintf("authorities[%d]", i)
		if !usedAuthorities[a.Name] && !protectsAll {
			l.add(Warning, "unused-authority", path, "no rule names the authority %s", a.Name)
		}
		if a.Keyless != nil {
			usedRoots[a.Keyless.TrustedRoot] = true
			l.anchors(path+".keyless.issuerRegExp", a.Keyless.IssuerRegExp)
			l.anchors(path+".keyless.subjectRegExp", a.Keyless.SubjectRegExp)
		}
	}
	for i, r := range doc.TrustedRoots {
		if !usedRoots[r.Name] {
			l.add(Warning, "unused-root", fmt.Sprintf("trustedRoots[%d]", i), "no authority names the trusted root %s", r.Name)
		}
	}
	if len(doc.Policies) == 0 {
		l.add(Warning, "no-policies", "policies", "there is no policy: every image is under the default (%s)", doc.Default)
	}
}

// anchors says when a regular expression would also match what merely holds
// what was meant: https://evil.example/https://github.com/acme/.
func (l *linter) anchors(path, re string) {
	switch {
	case re == "":
	case !strings.HasPrefix(re, "^") && !strings.HasPrefix(re, `\A`):
		l.add(Warning, "unanchored", path, "%q matches anywhere in an identity; begin it with ^", clip(re, 100))
	case !strings.HasSuffix(re, "$") && !strings.HasSuffix(re, `\z`) && !strings.HasSuffix(re, "/") && !strings.HasSuffix(re, ".*"):
		l.add(Warning, "open-ended", path, "%q also matches what only begins so, as another account's name may; end it with $ or /", clip(re, 100))
	}
}

func (l *linter) policy(path string, p *compiledPolicy) {
	if len(p.Rules) == 0 {
		switch {
		case p.ProtectSigned:
		case l.b.doc.Default == DefaultDeny && p.Mode == Enforce:
			l.add(Info, "no-rules", path, "%s has no rules: it allows all that it matches", p.Name)
		default:
			l.add(Warning, "no-rules", path, "%s has no rules and changes nothing", p.Name)
		}
	}
	l.patterns(path+".match.images", p.images, p.Match.Images)
	for i := range p.exclude {
		l.exclude(fmt.Sprintf("%s.match.exclude[%d]", path, i), p, &p.exclude[i])
	}
	for i, img := range p.images {
		at := fmt.Sprintf("%s.match.images[%d]", path, i)
		if j := slices.IndexFunc(p.exclude, func(x pattern) bool { return x.covers(&img) }); j >= 0 {
			l.add(Warning, "excluded-whole", at, "%s matches nothing: %s of exclude takes all of it out", img.text, p.exclude[j].text)
			continue
		}
		l.seen(at, img.text, func(s *Subject) bool { return img.match(s) && !p.exclude.match(s) })
	}
	if slices.Contains(p.At, Push) {
		if !slices.Contains(p.At, Pull) {
			l.add(Warning, "push-only", path+".at", "%s is asked at pushes only: what is there already, and what comes from an upstream, is not judged by it", p.Name)
		}
		for i := range p.Rules {
			if p.Rules[i].Vulnerabilities != nil {
				l.add(Info, "push-scan", fmt.Sprintf("%s.rules[%d]", path, i), "%s is asked at pulls only: images are scanned once they are stored", p.Rules[i].Name)
			}
		}
	}
	for i := range p.Rules {
		l.rule(fmt.Sprintf("%s.rules[%d]", path, i), &p.Rules[i])
	}
}

// patterns says where a pattern is read as another than was written, and where
// one is covered by another.
func (l *linter) patterns(path string, ps patterns, written []string) {
	for i := range ps {
		at := fmt.Sprintf("%s[%d]", path, i)
		if ps[i].text != written[i] {
			l.add(Info, "read-as", at, "%q is read as %s", clip(written[i], 100), ps[i].text)
		}
		for j := range ps {
			if i != j && ps[j].covers(&ps[i]) && (j < i || !ps[i].covers(&ps[j])) {
				l.add(Info, "covered", at, "%s is covered by %s beside it", ps[i].text, ps[j].text)
				break
			}
		}
	}
}

func (l *linter) exclude(path string, p *compiledPolicy, x *pattern) {
	if !slices.ContainsFunc(p.images, func(img pattern) bool { return img.overlaps(x) }) {
		l.add(Warning, "exclude-outside", path, "%s takes nothing out: none of match.images matches it", x.text)
		return
	}
	for j := range p.exclude {
		if y := &p.exclude[j]; y != x && y.covers(x) && !x.covers(y) {
			l.add(Info, "covered", path, "%s is covered by %s beside it", x.text, y.text)
			return
		}
	}
	l.seen(path, x.text, x.match)
}

// seen warns of what matches none of the images that are known.
func (l *linter) seen(path, text string, match func(*Subject) bool) {
	if len(l.o.Seen) > 0 && !slices.ContainsFunc(l.o.Seen, func(s Subject) bool { return match(&s) }) {
		l.add(Warning, "matches-nothing", path, "%s matches none of the %d %s seen", text, l.images, plural(l.images, "image"))
	}
}

func (l *linter) rule(path string, r *Rule) {
	v := r.Vulnerabilities
	if r.OnError == ActionAllow {
		l.add(Info, "error-allows", path+".onError", "%s lets images through when it cannot find out", r.Name)
	}
	if v == nil {
		return
	}
	if v.Unscanned.Then == ActionAllow {
		l.add(Info, "unscanned-allows", path+".vulnerabilities.unscanned.then", "%s lets images through that are not scanned after %s", r.Name, *v.Unscanned.Wait)
	}
	if v.UnknownAs >= v.Block {
		l.add(Info, "unknown-blocks", path+".vulnerabilities.unknownAs", "%s refuses vulnerabilities that have no severity yet", r.Name)
	}
	if v.Block <= Medium {
		l.add(Info, "blocks-much", path+".vulnerabilities.block", "few images have nothing of %s; see with mode: audit first", orAbove(v.Block))
	}
}

func (l *linter) exception(path string, x *compiledException) {
	p := l.policyNamed(x.Policy)
	l.patterns(path+".images", x.images, x.Images)
	for i := range x.images {
		img := &x.images[i]
		at := fmt.Sprintf("%s.images[%d]", path, i)
		if !slices.ContainsFunc(p.images, func(m pattern) bool { return m.overlaps(img) }) || slices.ContainsFunc(p.exclude, func(e pattern) bool { return e.covers(img) }) {
			l.add(Warning, "exception-outside", at, "%s excepts nothing: the policy %s does not match %s", x.ID, p.Name, img.text)
			continue
		}
		if img.text == "**" && x.cves == nil {
			l.add(Warning, "exception-all", at, "%s waives %s for every image", x.ID, x.Rule)
		}
		l.seen(at, img.text, img.match)
	}
	i := slices.IndexFunc(p.Rules, func(r Rule) bool { return r.Name == x.Rule })
	if i >= 0 && p.Rules[i].Vulnerabilities != nil && x.cves == nil {
		l.add(Warning, "exception-whole-rule", path, "%s names no CVEs and waives all of %s: also those to come", x.ID, x.Rule)
	}
	l.expiry(path+".expires", x)
}

func (l *linter) policyNamed(name string) *compiledPolicy {
	i := slices.IndexFunc(l.b.policies, func(p compiledPolicy) bool { return p.Name == name })
	return &l.b.policies[i] // Load refuses exceptions of policies that are not
}

func (l *linter) expiry(path string, x *compiledException) {
	if l.o.Now.IsZero() {
		return
	}
	left := x.Expires.Sub(l.o.Now)
	date := x.Expires.UTC().Format(time.DateOnly)
	switch {
	case left <= 0:
		l.add(Warning, "exception-expired", path, "%s expired on %s and is ignored", x.ID, date)
	case left <= exceptionSoonDays*day:
		l.add(Warning, "exception-soon", path, "%s expires on %s, in %s; ask %s", x.ID, date, inDays(left), clip(plain(x.Owner), 60))
	case left > maxExceptionDays*day:
		l.add(Warning, "exception-long", path, "%s lasts until %s, more than %d days", x.ID, date, maxExceptionDays)
	}
}

func inDays(d time.Duration) string {
	if n := int(d / day); n > 0 {
		return fmt.Sprintf("%d %s", n, plural(n, "day"))
	}
	return "less than a day"
}

// Lapsing lists the exceptions that expire within d of now and have not yet:
// what a metric warns of ahead.
func (b *Bundle) Lapsing(now time.Time, d time.Duration) []ExceptionUse {
	var list []ExceptionUse
	for i := range b.exceptions {
		if x := &b.exceptions[i]; now.Before(x.Expires) && !now.Add(d).Before(x.Expires) {
			list = append(list, x.use(x.CVEs))
		}
	}
	return list
}
