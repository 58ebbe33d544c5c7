package policy

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLint(t *testing.T) {
	text, err := os.ReadFile("testdata/tests/lint.yaml")
	if err != nil {
		t.Fatal(err)
	}
	b, err := Load("lint.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	var seen []Subject
	for _, image := range []string{"ghcr.io/acme/api", "nginx", "docker.io/acme/web"} {
		s, err := ParseSubject(image)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, s)
		s.Tag = "another" // of the same image
		seen = append(seen, s)
	}
	var got []string
	for _, r := range b.Lint(LintOptions{Now: now, Seen: seen}) {
		got = append(got, string(r.Level)+" "+r.Code+" "+r.Error())
	}
	want, err := os.ReadFile("testdata/tests/lint.want")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(strings.TrimSpace(string(want)), "\n"), got); diff != "" {
		t.Errorf("(-want +got):\n%s\nall of it:\n%s", diff, strings.Join(got, "\n"))
	}

	// Without time and images nothing is said of them.
	for _, r := range b.Lint(LintOptions{}) {
		if r.Code == "matches-nothing" || strings.HasPrefix(r.Code, "exception-") && (strings.HasSuffix(r.Code, "expired") || strings.HasSuffix(r.Code, "soon") || strings.HasSuffix(r.Code, "long")) {
			t.Errorf("without knowing of it: %s", r.Error())
		}
	}
	if got := b.Lapsing(now, 14*day); len(got) != 1 || got[0].ID != "EX-SOON" {
		t.Errorf("about to lapse: %+v", got)
	}
}

// The document of the golden files is a good one.
func TestLintClean(t *testing.T) {
	text, err := os.ReadFile("testdata/golden/bundle.yaml")
	if err != nil {
		t.Fatal(err)
	}
	b, err := Load("bundle.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range b.Lint(LintOptions{Now: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}) {
		if r.Level == Warning && r.Code != "unused-authority" {
			t.Error(r.Error())
		}
	}
}
