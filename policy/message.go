package policy

import (
	"fmt"
	"iter"
	"strings"
	"time"
)

// MaxMessage is how long [Decision.Message] can be, in bytes: clients of
// registries cut what is longer, and the end of it is what to do.
const MaxMessage = 399

// A fit is how much of each part of a message is shown.
type fit struct{ name, image, reason, id, pkg, version, advice int }

// fits are tried in turn until the message is short enough; the last always is.
var fits = []fit{
	{name: 63, image: 200, reason: 300, id: 64, pkg: 80, version: 60, advice: 120},
	{name: 63, image: 120, reason: 200, id: 48, pkg: 60, version: 40, advice: 80},
	{name: 40, image: 90, reason: 160, id: 40, pkg: 48, version: 32, advice: 60},
	{name: 28, image: 64, reason: 150, id: 32, pkg: 32, version: 24, advice: 0},
	{name: 20, image: 44, reason: 110, id: 24, pkg: 24, version: 20, advice: 0},
}

// Message is the decision in one line, for the person whose pull was refused:
// which rule, what it found, which image, what to do, and where there is more.
// It is plain text of [MaxMessage] bytes at most, whatever the facts hold.
func (d *Decision) Message() string { return fitted(d.message) }

// Summary is what a rule has found and what to do, as in [Decision.Message], of
// a decision that nobody was told of: there is no id to ask for, and whoever
// shows it names the image beside it. "" when all is well.
func (d *Decision) Summary() string {
	return fitted(func(f fit) string { return d.summary(f, "") })
}

func fitted(text func(fit) string) string {
	for _, f := range fits {
		if m := text(f); len(m) <= MaxMessage {
			return m
		}
	}
	return clip(text(fits[len(fits)-1]), MaxMessage)
}

func (d *Decision) message(f fit) string {
	image := clipImage(&d.Subject, f.image)
	said := d.summary(f, " for "+image)
	if said == "" {
		said = "allowed " + image
		if d.Note != "" {
			said += "; " + clip(plain(d.Note), f.reason)
		}
	} else {
		said += "; see: breakwater policy explain " + clip(plain(d.ID), 20)
	}
	if d.ID == "" {
		return "breakwater: " + said
	}
	return fmt.Sprintf("breakwater %s: %s", clip(plain(d.ID), 20), said)
}

// summary is "" when all is well. what follows the reason.
func (d *Decision) summary(f fit, what string) string {
	p, r := d.deciding()
	if r == nil {
		return ""
	}
	var b strings.Builder
	if d.Outcome == Allow {
		b.WriteString("audit only, would be refused: ")
	}
	switch r.Kind {
	case KindDefault, KindPolicyAge:
		fmt.Fprintf(&b, "%s: ", clip(plain(r.Name), f.name))
	default:
		fmt.Fprintf(&b, "policy %q rule %q: ", clip(plain(p.Name), f.name), clip(plain(r.Name), f.name))
	}
	b.WriteString(r.headline(f) + what)
	if advice := clip(plain(d.advice(r)), f.advice); advice != "" {
		b.WriteString("; " + advice)
	}
	if n := d.refusals() - 1; n > 0 && f.advice > 0 {
		fmt.Fprintf(&b, " (%d more %s %s)", n, plural(n, "rule"), map[bool]string{true: "refuses it", false: "refuse it"}[n == 1])
	}
	return b.String()
}

// clipImage is the image in n bytes at most, its digest by the first letters.
// Where it is too long the tag goes, if there is a digest, and then the
// beginning of the name.
func clipImage(s *Subject, n int) string {
	name, end := plain(s.Name), ""
	if s.Tag != "" && s.Digest != "" {
		both := fmt.Sprintf("%s:%s@%s", name, plain(s.Tag), clip(plain(s.Digest.String()), 22))
		if len(both) <= n {
			return both
		}
	}
	switch {
	case s.Digest != "":
		end = "@" + clip(plain(s.Digest.String()), 22)
	case s.Tag != "":
		end = ":" + clip(plain(s.Tag), 30)
	}
	if room := n - len(end) - len("…"); len(name)+len(end) > n && room > 0 {
		cut := len(name) - room
		for cut < len(name) && name[cut]&0xC0 == 0x80 {
			cut++
		}
		name = "…" + name[cut:]
	}
	return name + end
}

// deciding is the first rule that asked for the outcome: of what is enforced,
// and of audit mode where only that refuses. nil when all is well.
func (d *Decision) deciding() (*PolicyResult, *RuleResult) {
	outcome, mode := d.Outcome, Enforce
	if d.Outcome == Allow {
		outcome, mode = d.Would, Audit
	}
	if outcome == Allow {
		return nil, nil
	}
	for i := range d.Policies {
		p := &d.Policies[i]
		if p.Mode != mode || p.Outcome != outcome {
			continue
		}
		for j := range p.Rules {
			if p.Rules[j].Outcome == outcome {
				return p, &p.Rules[j]
			}
		}
	}
	return nil, nil
}

// refusing are the rules that ask for the same as the deciding one, and that.
func (d *Decision) refusing() iter.Seq2[*PolicyResult, *RuleResult] {
	return func(yield func(*PolicyResult, *RuleResult) bool) {
		first, r := d.deciding()
		if r == nil {
			return
		}
		for i := range d.Policies {
			p := &d.Policies[i]
			if p.Mode != first.Mode {
				continue
			}
			for j := range p.Rules {
				if p.Rules[j].Outcome == r.Outcome && !yield(p, &p.Rules[j]) {
					return
				}
			}
		}
	}
}

func (d *Decision) refusals() (n int) {
	for range d.refusing() {
		n++
	}
	return n
}

// headline is the rule's reason; of vulnerabilities it is the worst by name.
func (r *RuleResult) headline(f fit) string {
	if len(r.Blocked) == 0 {
		return clip(plain(r.Reason), f.reason)
	}
	v := r.Blocked[0]
	out := fmt.Sprintf("%s %s", clip(plain(v.ID), f.id), v.Severity)
	if v.Package != "" {
		out += " in " + clip(plain(v.Package), f.pkg)
		if v.Installed != "" {
			out += " " + clip(plain(v.Installed), f.version)
		}
	}
	if v.Fixed != "" {
		out += ", fixed in " + clip(plain(v.Fixed), f.version)
	} else {
		out += ", no fix yet"
	}
	if n := r.BlockedCount - 1; n > 0 {
		out += fmt.Sprintf(", and %d more", n)
	}
	return out
}

// advice is what a person can do about a rule's answer.
func (d *Decision) advice(r *RuleResult) string {
	switch {
	case r.Kind == KindDefault:
		return "a policy must name it, or its name is misspelt"
	case r.Kind == KindPolicyAge:
		return "check that this node reaches the hub"
	case len(r.Lapsed) > 0:
		return fmt.Sprintf("ask %s about exception %s, which has lapsed", r.Lapsed[0].Owner, r.Lapsed[0].ID)
	case r.Outcome == Wait:
		return fmt.Sprintf("try again in %s", roundUp(d.RetryAfter))
	case r.Verdict == VerdictError && strings.HasPrefix(r.Reason, notWhole):
		return "pull the images in it by their digests, or make an index of fewer"
	case r.Verdict == VerdictError:
		return "try again, and check the hub if it stays so"
	case r.Verdict == VerdictUnscanned && (strings.Contains(r.Reason, NoDatabase) || strings.Contains(r.Reason, NoScanner)):
		return "check breakwater scan status"
	case r.Verdict == VerdictUnscanned:
		return "try again when it is scanned"
	case r.Verdict == VerdictUnscannable:
		return "ask for an exception"
	case r.Verdict == VerdictStale:
		return "check that the hub updates its vulnerability database"
	case r.Kind == KindSignature:
		return "sign it as " + enumerate(authorityNames(r.Evidence))
	case r.Kind == KindAttestation:
		return "have it attested by " + enumerate(authorityNames(r.Evidence))
	case len(r.Blocked) > 0 && r.Blocked[0].Fixed != "":
		return "rebuild with the fixed version"
	}
	return "use another version or ask for an exception"
}

func authorityNames(list []AuthorityEvidence) []string {
	return namesOf(list, func(a *AuthorityEvidence) string { return a.Authority })
}

func roundUp(d Duration) Duration {
	return Duration((time.Duration(d) + time.Second - 1).Truncate(time.Second))
}
