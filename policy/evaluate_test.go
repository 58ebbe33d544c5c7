package policy

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// Test documents in testdata/tests hold for the policies beside them: each is a
// table of what the semantics are.
func TestSemantics(t *testing.T) {
	policyText, err := os.ReadFile("testdata/tests/semantics-policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	b, err := Load("semantics-policy.yaml", policyText)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/tests/semantics.yaml")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := LoadTests("semantics.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range tests.Run(b, time.Time{}) {
		if !r.OK {
			t.Errorf("%s: %s\n%s", r.Name, strings.Join(r.Problems, "; "), r.Decision.Explain())
		}
	}
}

// The id is of what was decided: no clock, no tag, no order is in it; another
// image, revision or finding is.
func TestDecisionID(t *testing.T) {
	bundle, f, now := benchmarkWorld(t)
	id := func(change func(b *Bundle, f *Facts, now *time.Time)) string {
		b, f, now := *bundle, f, now
		f.Scans = append([]Scan(nil), f.Scans...)
		f.Scans[0].Vulns = append([]Vuln(nil), f.Scans[0].Vulns...)
		change(&b, &f, &now)
		return b.Evaluate(f, now).ID
	}
	plain := id(func(*Bundle, *Facts, *time.Time) {})
	if len(plain) != 14 || !strings.HasPrefix(plain, "d-") {
		t.Errorf("an id is %q", plain)
	}
	for name, change := range map[string]func(b *Bundle, f *Facts, now *time.Time){
		"clock":            func(_ *Bundle, _ *Facts, now *time.Time) { *now = now.Add(time.Hour) },
		"tag":              func(_ *Bundle, f *Facts, _ *time.Time) { f.Subject.Tag = "other" },
		"database":         func(_ *Bundle, f *Facts, _ *time.Time) { f.Scans[0].DBRevision = "newer" },
		"look at them":     func(_ *Bundle, f *Facts, _ *time.Time) { f.SignaturesAt = f.SignaturesAt.Add(time.Hour) },
		"harmless finding": func(_ *Bundle, f *Facts, _ *time.Time) { f.Scans[0].Vulns[1].ID = "CVE-2026-x" }, // LOW there
	} {
		if got := id(change); got != plain {
			t.Errorf("another %s is another id", name)
		}
	}
	seen := map[string]string{plain: "plain"}
	for name, change := range map[string]func(b *Bundle, f *Facts, now *time.Time){
		"digest":   func(_ *Bundle, f *Facts, _ *time.Time) { f.Subject.Digest = testDigest },
		"name":     func(_ *Bundle, f *Facts, _ *time.Time) { f.Subject.Name = "ghcr.io/acme/web" },
		"revision": func(b *Bundle, _ *Facts, _ *time.Time) { b.doc.Revision++ },
		"finding":  func(_ *Bundle, f *Facts, _ *time.Time) { f.Scans[0].Vulns[3].ID = "CVE-2026-x" }, // HIGH there
		"verdict":  func(_ *Bundle, f *Facts, _ *time.Time) { f.Signatures = nil },
		"push":     func(_ *Bundle, f *Facts, _ *time.Time) { f.At = Push },
	} {
		got := id(change)
		if other, twice := seen[got]; twice {
			t.Errorf("another %s has the id of %s", name, other)
		}
		seen[got] = name
	}
}

// The facts are the caller's: judging changes none of them.
func TestEvaluateKeepsFacts(t *testing.T) {
	worlds(t, 300, func(w world) {
		b, f, now := w.bundle(t, w.document(t)), w.facts(), w.when()
		before := fmt.Sprintf("%+v", f)
		b.Evaluate(f, now)
		b.Deletion(f)
		if after := fmt.Sprintf("%+v", f); after != before {
			t.Errorf("facts were\n%s\nand are\n%s", before, after)
		}
	})
}

// One bundle serves many pulls at once.
func TestEvaluateConcurrently(t *testing.T) {
	bundle, f, now := benchmarkWorld(t)
	want := bundle.Evaluate(f, now).ID
	done := make(chan string)
	for range 8 {
		go func() {
			last := ""
			for range 50 {
				last = bundle.Evaluate(f, now).ID
			}
			done <- last
		}()
	}
	for range 8 {
		if got := <-done; got != want {
			t.Errorf("at once it is %s, alone %s", got, want)
		}
	}
}

func TestWithoutPolicy(t *testing.T) {
	s := Subject{Name: "ghcr.io/acme/api", Digest: testDigest}
	if d := WithoutPolicy(s, Pull, ActionAllow, time.Time{}); d.Outcome != Allow || d.Would != Allow || !strings.Contains(d.Message(), "no policy yet") {
		t.Errorf("%s", d.Explain())
	}
	d := WithoutPolicy(s, "", ActionDeny, time.Time{})
	if d.Outcome != Deny || d.At != Pull || !strings.Contains(d.Message(), "bootstrap: this node has been given no policy yet") {
		t.Errorf("%s", d.Message())
	}
	checkMessage(t, &d)
}

func TestDeletion(t *testing.T) {
	load := func(mode Mode, rules string) *Bundle {
		text := worldHead + "policies:\n- name: keep\n  mode: " + string(mode) + "\n  match: {images: [ghcr.io/acme/**]}\n  protectSigned: true\n" + rules
		b, err := Load("p.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	byOne := "  rules: [{name: r, signature: {anyOf: [one]}}]\n"
	valid := SignatureFact{Valid: []Evidence{{On: testDigest}}}
	acme := Subject{Name: "ghcr.io/acme/api", Digest: testDigest}
	for name, tt := range map[string]struct {
		b                *Bundle
		f                Facts
		protected, would bool
		says             string
	}{
		"signed":             {load(Enforce, byOne), Facts{Subject: acme, Signatures: map[string]SignatureFact{"one": valid}}, true, true, "signed by one"},
		"audit":              {load(Audit, byOne), Facts{Subject: acme, Signatures: map[string]SignatureFact{"one": valid}}, false, true, "signed by one"},
		"unsigned":           {load(Enforce, byOne), Facts{Subject: acme, Signatures: map[string]SignatureFact{"one": {}}}, false, false, ""},
		"by another":         {load(Enforce, byOne), Facts{Subject: acme, Signatures: map[string]SignatureFact{"one": {}, "two": valid}}, false, false, ""},
		"by any":             {load(Enforce, ""), Facts{Subject: acme, Signatures: map[string]SignatureFact{"one": {}, "two": valid}}, true, true, "signed by two"},
		"could not find out": {load(Enforce, byOne), Facts{Subject: acme, Signatures: map[string]SignatureFact{"one": {Err: "timeout"}}}, true, true, "one: timeout"},
		"not looked for":     {load(Enforce, byOne), Facts{Subject: acme}, true, true, "was not looked for"},
		"another image":      {load(Enforce, byOne), Facts{Subject: Subject{Name: "ghcr.io/other/api"}, Signatures: map[string]SignatureFact{"one": valid}}, false, false, ""},
		"a signature itself": {load(Enforce, byOne), Facts{Subject: acme, Kind: KindOther, Signatures: map[string]SignatureFact{"one": valid}}, false, false, ""},
	} {
		d := tt.b.Deletion(tt.f)
		if d.Protected != tt.protected || d.Would != tt.would || !strings.Contains(d.Reason, tt.says) || (tt.says == "") != (d.Reason == "") {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if n := load(Enforce, byOne).DeletionNeeds(acme); fmt.Sprint(n.Signatures) != "[one]" || n.Scan != nil {
		t.Errorf("needs %+v", n)
	}
	if n := load(Enforce, "").DeletionNeeds(acme); fmt.Sprint(n.Signatures) != "[one two]" {
		t.Errorf("needs %+v", n)
	}
	if n := load(Enforce, byOne).DeletionNeeds(Subject{Name: "ghcr.io/x/y"}); !n.None() {
		t.Errorf("needs %+v", n)
	}
}

func TestCondition(t *testing.T) {
	st, err := DecodeStatement([]byte(`{"_type":"t","predicateType":"x","subject":[{"name":"a"}],"predicate":{"n":3,"s":"https://ci.acme/x","list":[1,2,3],"deep":{"a":null},"big":` + bigList(3000) + `}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ text, reason string }{ // reason "" is true
		{`predicate.n == 3`, ""},
		{`predicate.n > 3`, "condition is false"},
		{`predicate.n > 2.5 && predicate.n < 4`, ""},
		{`predicate.s.startsWith("https://ci.acme/")`, ""},
		{`predicate.s.matches("^https://ci\\.acme/")`, ""},
		{`statement.predicateType == "x" && statement.subject[0].name == "a"`, ""},
		{`predicate.list.exists(x, x == 2)`, ""},
		{`predicate.list.all(x, x < 3)`, "condition is false"},
		{`has(predicate.deep.a)`, ""},
		{`has(predicate.deep.b)`, "condition is false"},
		{`predicate.missing == 1`, "condition: no such key: missing"},
		{`predicate.?missing.?deeper.orValue(true)`, ""},
		{`predicate.s == 3`, "condition is false"},
		{`predicate.s`, "condition is neither true nor false"},
		{`predicate.list[7] == 1`, "condition: index out of bounds: 7"},
		{`predicate.big.all(x, !predicate.big.exists(y, y == 1))`, "condition: operation cancelled: actual cost limit exceeded"},
		{`"a,b".split(",").size() == 2`, ""},
	} {
		c, err := compileCondition(tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		bare := Statement{JSON: st.JSON} // as it is after JSON: not decoded yet
		for _, one := range []*Statement{&st, &bare} {
			if ok, reason := c.holds(one); ok != (tt.reason == "") || reason != tt.reason {
				t.Errorf("%s: %v, %q; want %q", tt.text, ok, reason, tt.reason)
			}
		}
	}
	for _, text := range []string{"predicate.n ==", "1 + 1", `"yes"`, "nowhere.x", "now()", "timestamp(predicate.s)"} {
		if _, err := compileCondition(text); err == nil {
			t.Errorf("%s is taken for a condition", text)
		}
	}
	c, _ := compileCondition("true")
	for _, bad := range []string{"", "[]", "null", "{", "3"} {
		if ok, reason := c.holds(&Statement{JSON: []byte(bad)}); ok || reason == "" {
			t.Errorf("the statement %q holds", bad)
		}
		if _, err := DecodeStatement([]byte(bad)); err == nil {
			t.Errorf("%q is a statement", bad)
		}
	}
}

func bigList(n int) string { return "[" + strings.Repeat("0,", n-1) + "0]" }

// A predicate type is what the signed statement says, not what stands beside it.
func TestPredicateTypeIsTheStatements(t *testing.T) {
	st := Statement{Evidence: Evidence{PredicateType: "wanted"}, JSON: []byte(`{"predicateType":"other"}`)}
	if got := st.predicateType(); got != "other" {
		t.Errorf("it is taken for %q", got)
	}
}

func TestDuration(t *testing.T) {
	for _, tt := range []struct {
		text string
		want time.Duration
		out  string // "" is an error
	}{
		{"10s", 10 * time.Second, "10s"}, {"168h", 168 * time.Hour, "7d"}, {"7d", 168 * time.Hour, "7d"}, {"1d12h", 36 * time.Hour, "36h"}, {"90m", 90 * time.Minute, "1h30m"},
		{"0", 0, "0s"}, {"1h0m1s", time.Hour + time.Second, "1h0m1s"}, {"0.5d", 12 * time.Hour, "12h"},
		{"", 0, ""}, {"7", 0, ""}, {"-1h", 0, ""}, {"d", 0, ""}, {"1w", 0, ""}, {"999999999d", 0, ""}, {"1h1d", 0, ""}, {"1d1d", 0, ""}, {"106751d24h", 0, ""},
	} {
		got, err := ParseDuration(tt.text)
		if (err != nil) != (tt.out == "") || err == nil && (time.Duration(got) != tt.want || got.String() != tt.out) {
			t.Errorf("%q = %s, %v; want %q", tt.text, got, err, tt.out)
		}
	}
}

func TestSeverity(t *testing.T) {
	for _, s := range severities {
		got, err := ParseSeverity(s)
		if err != nil || got.String() != s {
			t.Errorf("%s = %s, %v", s, got, err)
		}
	}
	if _, err := ParseSeverity("high"); err == nil || Severity(99).String() != "UNKNOWN" || !(Low < Medium && Medium < High && High < Critical) {
		t.Errorf("severities: %v", err)
	}
}
