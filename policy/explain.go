package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Explain is the whole decision for a person at a terminal: every policy and
// rule, what was looked at, which exceptions were used or have lapsed, and how
// long it holds. It has as many lines as it needs, without colours.
func (d *Decision) Explain() string {
	w := &lines{}
	if d.ID == "" { // nothing was asked, so there is nothing to ask for again
		w.add(0, "%s  %s", strings.ToUpper(string(d.Outcome)), d.Subject)
		w.add(0, "%s.", d.Note)
		return w.String()
	}
	w.add(0, "%s  %s  %s", d.ID, strings.ToUpper(string(d.Outcome)), d.Subject)
	if d.Outcome != d.Would {
		w.add(0, "Only audit mode says otherwise: enforced, it would be %s.", strings.ToUpper(string(d.Would)))
	}
	w.add(0, "%s", d.basis())
	if d.Note != "" {
		w.add(0, "%s.", d.Note)
	}
	for i := range d.Policies {
		p := &d.Policies[i]
		w.add(0, "")
		w.add(0, "policy %s (%s): %s", p.Name, p.Mode, p.Outcome)
		if len(p.Rules) == 0 {
			w.add(1, "it has no rules: whatever it matches is allowed")
		}
		for j := range p.Rules {
			p.Rules[j].explain(w)
		}
	}
	d.whatToDo(w)
	return w.String()
}

// whatToDo is what can be done about each rule that refuses: one done is not
// enough where there are several.
func (d *Decision) whatToDo(w *lines) {
	type step struct{ rules, advice string }
	var steps []step
	for p, r := range d.refusing() {
		name, advice := p.Name+"/"+r.Name, d.advice(r)
		if i := slices.IndexFunc(steps, func(s step) bool { return s.advice == advice }); i >= 0 {
			steps[i].rules += ", " + name
		} else {
			steps = append(steps, step{name, advice})
		}
	}
	switch len(steps) {
	case 0:
		return
	case 1:
		w.add(0, "")
		w.add(0, "What to do: %s.", steps[0].advice)
		return
	}
	w.add(0, "")
	w.add(0, "What to do, all of it:")
	for _, s := range steps {
		w.add(1, "%s: %s", s.rules, s.advice)
	}
}

// basis is by what, when and for how long it was decided.
func (d *Decision) basis() string {
	out := fmt.Sprintf("Asked for a %s at %s; policy revision %d", d.At, d.Time.UTC().Format(time.RFC3339), d.Revision)
	if d.StalePolicy {
		out += " (older than its maxPolicyAge)"
	}
	if d.DBRevision != "" {
		out += ", vulnerability database " + d.DBRevision
	}
	if before := d.Time.Sub(d.SignaturesAt).Round(time.Second); !d.SignaturesAt.IsZero() && before > 0 {
		out += fmt.Sprintf(", signatures looked at %s before", before)
	}
	if !d.ValidUntil.IsZero() {
		out += "; holds until " + d.ValidUntil.UTC().Format(time.RFC3339)
	}
	return out + "."
}

func (r *RuleResult) explain(w *lines) {
	verdict := string(r.Verdict)
	if asked := string(r.Outcome); asked != map[Verdict]string{VerdictPass: "allow", VerdictFail: "deny"}[r.Verdict] {
		verdict += ", so " + asked
	}
	w.add(1, "rule %s (%s): %s", r.Name, r.Kind, verdict)
	if r.Reason != "" {
		w.add(2, "%s", r.Reason)
	}
	for _, a := range r.Evidence {
		a.explain(w)
	}
	if r.Condition != "" {
		w.add(2, "condition: %s", strings.Join(strings.Fields(r.Condition), " "))
	}
	for _, v := range r.Blocked {
		fixed := "no fix yet"
		if v.Fixed != "" {
			fixed = "fixed in " + v.Fixed
		}
		w.add(2, "%s", joinWords(v.ID, v.Severity.String(), "in", strings.TrimSpace(v.Package+" "+v.Installed)+",", fixed, bracketed(v.Platform)))
	}
	if n := r.BlockedCount - len(r.Blocked); n > 0 {
		w.add(2, "and %d more", n)
	}
	if r.InGrace > 0 {
		w.add(2, "%d more not counted yet: published a short time ago", r.InGrace)
	}
	if r.Excepted > 0 {
		w.add(2, "%d more not counted: excepted", r.Excepted)
	}
	for _, x := range r.Used {
		w.add(2, "exception %s until %s", x.what(), x.Expires.UTC().Format(time.RFC3339))
	}
	for _, x := range r.Lapsed {
		w.add(2, "exception %s LAPSED at %s", x.what(), x.Expires.UTC().Format(time.RFC3339))
	}
}

func (x *ExceptionUse) what() string {
	return joinWords(x.ID, "of", x.Owner, bracketed(strings.Join(x.CVEs, ", ")), "\""+x.Reason+"\"")
}

func (a *AuthorityEvidence) explain(w *lines) {
	if a.Err != "" {
		w.add(2, "%s: could not find out: %s", a.Authority, a.Err)
	} else if len(a.Valid)+len(a.Rejected) == 0 {
		w.add(2, "%s: none found", a.Authority)
	}
	for _, v := range a.Valid {
		w.add(2, "%s: valid: %s", a.Authority, v.what())
	}
	for _, v := range a.Rejected {
		w.add(2, "%s: rejected: %s: %s", a.Authority, v.what(), v.Reason)
	}
}

func (v *Evidence) what() string {
	var parts []string
	add := func(format, value string) {
		if value != "" {
			parts = append(parts, fmt.Sprintf(format, value))
		}
	}
	add("%s", string(v.Digest))
	add("(%s)", v.Form)
	add("on %s", string(v.On))
	add("of type %s", v.PredicateType)
	add("by %s", v.Identity)
	add("vouched for by %s", v.Issuer)
	if !v.Time.IsZero() {
		add("at %s", v.Time.UTC().Format(time.RFC3339))
	}
	if len(parts) == 0 {
		return "signature"
	}
	return strings.Join(parts, " ")
}

func bracketed(s string) string {
	if s == "" {
		return ""
	}
	return "[" + s + "]"
}

// joinWords joins those that are not empty.
func joinWords(words ...string) string {
	var out []string
	for _, w := range words {
		if w != "" {
			out = append(out, w)
		}
	}
	return strings.Join(out, " ")
}

// lines is text whose lines hold nothing a terminal would obey.
type lines struct{ strings.Builder }

func (w *lines) add(indent int, format string, args ...any) {
	w.WriteString(strings.Repeat("  ", indent))
	w.WriteString(plain(fmt.Sprintf(format, args...)))
	w.WriteByte('\n')
}
