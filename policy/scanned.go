package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// vulnerabilities asks each judged platform's scan. What is known to be bad
// refuses first; after it the strictest of the answers that are none.
func (e *evaluation) vulnerabilities(r *compiledRule, res *RuleResult) {
	v := r.Vulnerabilities
	j := judgement{evaluation: e, rule: r, res: res}
	scans := e.scans()
	for i := range scans {
		verdict, outcome, reason := e.scanState(r, &scans[i])
		if scans[i].State == ScanDone {
			j.findings(&scans[i])
		}
		if outcome.strictness() > res.Outcome.strictness() || outcome == res.Outcome && verdictRank[verdict] > verdictRank[res.Verdict] {
			res.Verdict, res.Outcome, res.Reason = verdict, outcome, reason
		}
	}
	if more := e.more(); more != "" {
		// Whatever onError says: this is no failure that passes but how the image
		// was made, and who made it is not to choose what is asked of it.
		res.Verdict, res.Outcome, res.Reason = VerdictError, Deny, notWhole+": the index holds "+clip(plain(more), 120)
	}
	for i, x := range r.exceptions {
		if ids := j.used[i]; ids != nil {
			res.Used = append(res.Used, x.use(sortedKeys(ids)))
		}
		if ids := j.lapsed[i]; ids != nil {
			res.Lapsed = append(res.Lapsed, x.use(sortedKeys(ids)))
		}
	}
	if len(j.blocked) == 0 {
		return
	}
	j.tellBlocked()
	res.Verdict, res.Outcome = VerdictFail, Deny
	res.Reason = fmt.Sprintf("%s of severity %s", vulnerabilityCount(res.BlockedCount), orAbove(v.Block))
	if v.FixedOnly {
		res.Reason += ", with a fix"
	}
}

// notWhole begins the reason of an error that no other try mends.
const notWhole = "not all of it is scanned"

// A judgement is one rule's look at the findings of all scans.
type judgement struct {
	*evaluation
	rule         *compiledRule
	res          *RuleResult
	blocked      []finding
	used, lapsed map[int]map[string]bool // ids by the index of the exception
}

type finding struct {
	*Vuln
	scan *Scan
}

// tellBlocked puts what is blocked in order, each once.
func (j *judgement) tellBlocked() {
	slices.SortFunc(j.blocked, compareFindings)
	all := slices.CompactFunc(j.blocked, func(a, b finding) bool { return compareFindings(a, b) == 0 })
	j.res.BlockedCount = len(all)
	j.res.Blocked = make([]BlockedVuln, 0, min(len(all), MaxBlocked))
	for _, f := range all[:cap(j.res.Blocked)] {
		j.res.Blocked = append(j.res.Blocked, BlockedVuln{f.ID, f.Severity, f.Package, f.Installed, f.Fixed, f.scan.Platform})
	}
	ids := make([]string, len(all))
	for i, f := range all {
		ids[i] = f.ID
	}
	slices.Sort(ids)
	j.res.blockedIDs = slices.Compact(ids)
}

func vulnerabilityCount(n int) string {
	if n == 1 {
		return "1 vulnerability"
	}
	return fmt.Sprintf("%d vulnerabilities", n)
}

// verdictRank orders answers that ask for the same outcome.
var verdictRank = map[Verdict]int{VerdictPass: 0, VerdictUnscannable: 1, VerdictStale: 2, VerdictUnscanned: 3, VerdictError: 4, VerdictFail: 5}

// scans has one scan for each thing that is judged: each judged child of an
// index, else the image itself. One that is missing is not begun.
func (e *evaluation) scans() []Scan {
	if len(e.children) == 0 {
		if len(e.f.Scans) == 0 {
			return []Scan{{State: ScanNone}}
		}
		list := slices.Clone(e.f.Scans)
		slices.SortFunc(list, func(a, b Scan) int {
			return cmp.Or(strings.Compare(a.Platform, b.Platform), strings.Compare(string(a.Digest), string(b.Digest)))
		})
		return list
	}
	list := make([]Scan, 0, len(e.children))
	for _, c := range e.children {
		i := slices.IndexFunc(e.f.Scans, func(s Scan) bool {
			return s.Digest == c.Digest && c.Digest != "" || s.Digest == "" && s.Platform == c.Platform
		})
		scan := Scan{State: ScanNone}
		if i >= 0 {
			scan = e.f.Scans[i]
		}
		scan.Platform = c.Platform
		list = append(list, scan)
	}
	return list
}

// scanState judges how far a scan is and how old, whatever it has found.
func (e *evaluation) scanState(r *compiledRule, s *Scan) (Verdict, Outcome, string) {
	v := r.Vulnerabilities
	switch s.State {
	case ScanDone:
		e.noteDB(s)
		return e.staleness(v, s)
	case ScanUnscannable:
		return VerdictUnscannable, v.Unscannable.outcome(), because("no scan possible", s)
	case ScanNone, ScanPending, "":
		return e.unscanned(v, s)
	}
	return VerdictError, r.OnError.outcome(), because("no findings to go by", s)
}

func because(what string, s *Scan) string {
	if s.Platform != "" {
		what += " of " + s.Platform
	}
	if s.Reason != "" {
		what += " (" + clip(plain(s.Reason), 160) + ")"
	}
	return what
}

// noteDB keeps the revision of the oldest database that is behind the answer.
func (e *evaluation) noteDB(s *Scan) {
	at := dbTime(s)
	older := e.d.DBRevision == "" || at.Before(e.dbOldest) || at.Equal(e.dbOldest) && s.DBRevision < e.d.DBRevision
	if s.DBRevision != "" && older {
		e.d.DBRevision, e.dbOldest = s.DBRevision, at
	}
}

func dbTime(s *Scan) time.Time {
	if s.DBTime.IsZero() {
		return s.At
	}
	return s.DBTime
}

func (e *evaluation) staleness(v *VulnerabilityRule, s *Scan) (Verdict, Outcome, string) {
	if v.StaleAfter == 0 {
		return VerdictPass, Allow, ""
	}
	stale := dbTime(s).Add(time.Duration(v.StaleAfter))
	if e.now.Before(stale) {
		e.until(stale)
		return VerdictPass, Allow, ""
	}
	return VerdictStale, v.OnStale.outcome(), fmt.Sprintf("no newer findings than by the vulnerability database of %s (older than %s)", dbTime(s).UTC().Format(time.DateOnly), v.StaleAfter)
}

func (e *evaluation) unscanned(v *VulnerabilityRule, s *Scan) (Verdict, Outcome, string) {
	since := s.Since
	if since.IsZero() || since.After(e.now) {
		since = e.now
	}
	ends := since.Add(time.Duration(*v.Unscanned.Wait))
	if e.now.Before(ends) {
		e.until(ends)
		if e.wait.IsZero() || ends.Before(e.wait) {
			e.wait = ends
		}
		return VerdictUnscanned, Wait, because("first scan not done", s)
	}
	return VerdictUnscanned, v.Unscanned.Then.outcome(), because("no scan yet", s)
}

// findings adds those of a scan's vulnerabilities that refuse the image.
func (j *judgement) findings(s *Scan) {
	v := j.rule.Vulnerabilities
	for i := range s.Vulns {
		vuln := &s.Vulns[i]
		severity := vuln.Severity
		if severity == Unknown {
			severity = v.UnknownAs
		}
		switch {
		case severity < v.Block, v.FixedOnly && vuln.Fixed == "":
		case j.inGrace(v, vuln):
			j.res.InGrace++
		case len(j.rule.exceptions) > 0 && j.excepted(vuln):
			j.res.Excepted++
		default:
			if j.blocked == nil {
				j.blocked = make([]finding, 0, len(s.Vulns)-i)
			}
			j.blocked = append(j.blocked, finding{vuln, s})
		}
	}
}

func (e *evaluation) inGrace(v *VulnerabilityRule, vuln *Vuln) bool {
	from := vuln.Published
	if from.IsZero() {
		from = vuln.FirstSeen
	}
	if v.GraceAfterPublish == 0 || from.IsZero() {
		return false
	}
	ends := from.Add(time.Duration(v.GraceAfterPublish))
	if !e.now.Before(ends) {
		return false
	}
	e.until(ends)
	return true
}

// excepted says whether an exception names the vulnerability, and notes all
// that do.
func (j *judgement) excepted(vuln *Vuln) bool {
	ok := false
	for i, x := range j.rule.exceptions {
		if x.cves == nil || !x.cves[foldID(vuln.ID)] || !x.images.match(&j.f.Subject) {
			continue
		}
		into := &j.lapsed
		if j.now.Before(x.Expires) {
			into, ok = &j.used, true
			j.until(x.Expires)
		}
		if *into == nil {
			*into = map[int]map[string]bool{}
		}
		if (*into)[i] == nil {
			(*into)[i] = map[string]bool{}
		}
		(*into)[i][vuln.ID] = true
	}
	return ok
}

// compareFindings puts the worst first, and of equals one that can be fixed.
func compareFindings(a, b finding) int {
	if a.Severity != b.Severity {
		return cmp.Compare(b.Severity, a.Severity)
	}
	if (a.Fixed == "") != (b.Fixed == "") {
		if a.Fixed == "" {
			return 1
		}
		return -1
	}
	if c := strings.Compare(a.ID, b.ID); c != 0 {
		return c
	}
	return cmp.Or(strings.Compare(a.Package, b.Package), strings.Compare(a.Installed, b.Installed), strings.Compare(a.Fixed, b.Fixed), strings.Compare(a.scan.Platform, b.scan.Platform))
}
