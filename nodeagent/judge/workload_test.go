package judge

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// What runs an image is in the decision log when it becomes known, and with
// decisions that come after.
func TestRuns(t *testing.T) {
	var noted []string
	h := newHouse(t)
	h.o.Noted = func(d policy.Decision) { noted = append(noted, d.ID) }
	j := h.open()
	a, b := oci.FromBytes([]byte("a")), oci.FromBytes([]byte("b"))
	decided := func(id string, d oci.Digest) policy.Decision {
		dec := policy.Decision{ID: id, Subject: policy.Subject{Name: "docker.io/library/x", Tag: "1", Digest: d}, Outcome: policy.Allow, Would: policy.Deny}
		j.note(dec)
		return dec
	}
	first, other := decided("d-1", a), decided("d-2", b)
	decided("d-1", a) // again
	j.Runs("docker.io/library/x", a, []string{"shop/web"})
	j.Runs("docker.io/library/x", a, []string{"shop/api", "shop/web"})
	j.Runs("docker.io/library/unknown", a, []string{"shop/unknown"})
	second := decided("d-3", a)

	if !slices.Equal(noted, []string{"d-1", "d-2", "d-1", "d-3"}) {
		t.Errorf("noted %q", noted)
	}
	got := j.Workloads([]policy.Decision{first, other, second})
	if len(got) != 2 || !slices.Equal(got["d-1"], []string{"shop/api", "shop/web"}) || !slices.Equal(got["d-3"], got["d-1"]) {
		t.Errorf("by decision: %v", got)
	}
	text, err := os.ReadFile(filepath.Join(h.o.Dir, logName))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 5 {
		t.Fatalf("log:\n%s", text)
	}
	for i, part := range []string{`"id":"d-1"`, `"id":"d-2"`,
		`"id":"d-1","image":"docker.io/library/x@` + a.String() + `","workloads":["shop/web"]`,
		`"workloads":["shop/api","shop/web"]`, `"workloads":["shop/api","shop/web"]`} {
		if !strings.Contains(lines[i], part) || strings.Contains(lines[i], "workloads") != (i > 1) {
			t.Errorf("line %d has no %s: %s", i+1, part, lines[i])
		}
	}
}

// Of bare Pods, each of which has another name, those found last are kept.
func TestRunsAreBounded(t *testing.T) {
	h := newHouse(t)
	j := h.open()
	d := policy.Decision{ID: "d-1", Subject: policy.Subject{Name: "docker.io/library/x", Digest: oci.FromBytes(nil)}, Outcome: policy.Allow}
	j.note(d)
	var all []string
	for i := range 4030 {
		all = append(all, fmt.Sprintf("shop/job-%04d", i))
	}
	for _, some := range [][]string{all[:4000], all[4000:4001], all[4001:4030], {all[7]}, {all[7], all[4029]}} {
		j.Runs(d.Subject.Name, d.Subject.Digest, some)
	}
	want := slices.Concat(all[7:8], all[4030-maxRuns+1:4030])
	got := j.Workloads([]policy.Decision{d})["d-1"]
	if !slices.Equal(got, want) {
		t.Errorf("%d workloads, want %d: %q", len(got), len(want), got)
	}
	text, err := os.ReadFile(filepath.Join(h.o.Dir, logName))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if n := strings.Count(line, "shop/"); n > maxRuns {
			t.Errorf("a line of the log has %d workloads", n)
		}
	}
}
