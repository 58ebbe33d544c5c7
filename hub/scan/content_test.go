package scan

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/policy"
)

// some are findings with something in each field.
func some() []match.Finding {
	return []match.Finding{{
		Vuln: policy.Vuln{
			ID: "CVE-1", Package: "p", Installed: "1", Fixed: "2", Severity: policy.High,
			Severities: map[string]policy.Severity{"nvd": policy.High, "debian": policy.Low},
			Published:  time.Unix(1, 0).UTC(), FirstSeen: time.Unix(2, 0).UTC(),
		},
		Status: "fixed", Source: "nvd", Kind: "debian", Path: "x", DiffID: "d", Title: "t", URL: "u",
	}, {Vuln: policy.Vuln{ID: "CVE-2", Package: "p", Installed: "1", Severity: policy.Low}}}
}

// Whatever is new in a finding is seen, also in a field that is added one day.
func TestContentHasEverything(t *testing.T) {
	was := content(some())
	for _, at := range []string{"", "Vuln"} {
		v := reflect.TypeFor[match.Finding]()
		if at == "Vuln" {
			v = reflect.TypeFor[policy.Vuln]()
		}
		for i := range v.NumField() {
			name := v.Field(i).Name
			if name == "Vuln" {
				continue
			}
			found := some()
			reflect.ValueOf(&found[0]).Elem().FieldByName(name).SetZero()
			if same := bytes.Equal(content(found), was); same != (name == "FirstSeen") {
				t.Errorf("without %s it is the same: %v", name, same)
			}
		}
	}
	found := some()
	found[0].Severities["nvd"] = policy.Low
	if bytes.Equal(content(found), was) || bytes.Equal(content(some()[:1]), was) || !bytes.Equal(content(some()), was) {
		t.Error("the content is not told apart by a severity, or a finding, alone")
	}
}

func TestVerdict(t *testing.T) {
	was := verdict(some())
	for name, tt := range map[string]struct {
		change func(f []match.Finding)
		same   bool
	}{
		"order":     {func(f []match.Finding) { f[0], f[1] = f[1], f[0] }, true},
		"title":     {func(f []match.Finding) { f[0].Title = "x" }, true},
		"id":        {func(f []match.Finding) { f[0].ID = "x" }, false},
		"package":   {func(f []match.Finding) { f[0].Package = "x" }, false},
		"installed": {func(f []match.Finding) { f[0].Installed = "x" }, false},
		"fixed":     {func(f []match.Finding) { f[0].Fixed = "x" }, false},
		"severity":  {func(f []match.Finding) { f[0].Severity = policy.Low }, false},
		"border":    {func(f []match.Finding) { f[0].ID, f[0].Package = "CVE-1p", "" }, false},
	} {
		found := some()
		tt.change(found)
		if same := verdict(found) == was; same != tt.same {
			t.Errorf("%s: the same %v, want %v", name, same, tt.same)
		}
	}
}

// What is found again keeps since when it is known, and is packed only when
// something else has changed.
func TestFindingsAreKnownSince(t *testing.T) {
	x := newScene(t, "sqlite", nil)
	bare := func() []match.Finding {
		all := some()
		for i := range all {
			all[i].FirstSeen = time.Time{}
		}
		return all
	}
	first, err := x.s.of(1, bare()[:1], nil)
	must(t, err)
	again, err := x.s.of(2, bare()[:1], first.Body)
	must(t, err)
	if !bytes.Equal(first.Body, again.Body) || again.DatabaseID != 2 || again.Counts.High != 1 || again.Verdict != first.Verdict {
		t.Errorf("the same again: %+v after %+v", again, first)
	}
	was, err := x.s.findings(first.Body)
	must(t, err)
	since := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	was[0].FirstSeen = since
	packed, err := x.s.pack.json(was)
	must(t, err)
	next, err := x.s.of(3, bare(), append(content(was), packed...))
	must(t, err)
	got, err := x.s.findings(next.Body)
	must(t, err)
	want := bare()
	want[0].FirstSeen, want[1].FirstSeen = since, got[1].FirstSeen
	if diff := cmp.Diff(want, got); diff != "" || time.Since(got[1].FirstSeen) > time.Minute {
		t.Errorf("with one more (-want +got):\n%s", diff)
	}
	for _, damaged := range [][]byte{{1}, append(content(was), 1, 2, 3)} {
		if _, err := x.s.findings(damaged); err == nil {
			t.Errorf("%v is read", damaged)
		}
		if f, err := x.s.of(4, bare(), damaged); err != nil || len(f.Body) == 0 {
			t.Errorf("over %v: %v", damaged, err)
		}
	}
}
