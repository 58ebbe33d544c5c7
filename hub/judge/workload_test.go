package judge

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

func TestNodeRuns(t *testing.T) {
	j, image := newJudge(t, nil, rules)
	run := func(name string, d oci.Digest, workloads ...string) hubapi.NodeRun {
		return hubapi.NodeRun{Image: name, Digest: d, Workloads: workloads}
	}
	const app = "reg.test/scan/app"
	must(t, j.NodeRuns(t.Context(), "n1", "kim", []hubapi.NodeRun{
		run(app, image.Digest, "shop/web", "shop/api", "no namespace", "Shop/web", "shop/", "shop/web/x", strings.Repeat("n", 64)+"/web", "shop/\x1b[31m"),
		run("app", image.Digest, "not/canonical"), run(app, "sha256:1", "no/digest"), run("", image.Digest, "no/image"),
	}))
	must(t, j.NodeRuns(t.Context(), "n1", "bob", []hubapi.NodeRun{run(app, image.Digest, "bobs/word", "shop/web")}))
	must(t, j.NodeRuns(t.Context(), "n2", "kim", []hubapi.NodeRun{run(app, image.Digest, "shop/web"), run("reg.test/scan/copy", image.Digest, "copy/web")}))
	must(t, j.NodeRuns(t.Context(), "a b", "kim", []hubapi.NodeRun{run(app, image.Digest, "no/node")}))

	many := make([]string, hubapi.MaxNodeRuns)
	for i := range many {
		many[i] = fmt.Sprintf("ns/p%d", i)
	}
	must(t, j.NodeRuns(t.Context(), "n4", "bob", []hubapi.NodeRun{run(app, image.Digest, "shop/old")}))
	must(t, j.NodeRuns(t.Context(), "n4", "eve", []hubapi.NodeRun{run(app, image.Digest, many...)}))

	tests := []struct {
		node, account string
		want          []string
	}{
		{"", "", []string{"bobs/word n1", "shop/api n1", "shop/old n4", "shop/web n1", "shop/web n2"}},
		{"n1", "kim", []string{"shop/api n1", "shop/web n1"}},
		{"n1", "bob", []string{"bobs/word n1", "shop/web n1"}},
		{"n2", "kim", []string{"shop/web n2"}},
		{"n3", "kim", nil},
		{"n4", "bob", []string{"shop/old n4"}}, // whatever eve says
	}
	var sites []Site
	for _, tt := range tests {
		sites = append(sites, Site{policy.Subject{Name: app, Digest: image.Digest}, tt.node, tt.account})
	}
	all, err := j.Workloads(t.Context(), sites)
	must(t, err)
	for i, tt := range tests {
		var got []string
		eves := 0
		for _, w := range all[i] {
			if strings.HasPrefix(w.Name, "ns/p") {
				eves++
				continue
			}
			got = append(got, w.Name+" "+w.Node)
		}
		if want := map[bool]int{true: maxOfNode}[tt.node == ""]; eves != want {
			t.Errorf("of %q by %q: %d of eve's, want %d", tt.node, tt.account, eves, want)
		}
		slices.Sort(got)
		if !slices.Equal(got, tt.want) {
			t.Errorf("of %q by %q: %q, want %q", tt.node, tt.account, got, tt.want)
		}
	}

	now := time.Now()
	j.o.Now = func() time.Time { return now }
	n := 0
	for ; err == nil && n <= anonymousBurst; n += len(many) {
		err = j.NodeRuns(t.Context(), "n1", "", []hubapi.NodeRun{run(app, image.Digest, many...)})
	}
	if oci.CodeOf(err) != oci.TooManyRequests || n < anonymousBurst {
		t.Errorf("after %d: %v", n, err)
	}
}

// A dry run names the node of a pull by the agent's word, and what runs the
// image there; who pulls as ever more nodes is named no more.
func TestDryRunNamesWorkloads(t *testing.T) {
	j, image := newJudge(t, nil, "")
	now := time.Now()
	j.o.Now = func() time.Time { return now }
	pull := func(node string) {
		q := enforce.Question{Repo: "scan/app", Subject: policy.Subject{Name: "reg.test/scan/app", Digest: image.Digest, Tag: "1"}, Caller: oci.Caller{Node: node}}
		j.record.pulled(q, policy.Decision{})
	}
	pull("n1")
	pull("n1")
	must(t, j.NodeRuns(t.Context(), "n1", "", []hubapi.NodeRun{{Image: "reg.test/scan/app", Digest: image.Digest, Workloads: []string{"shop/web"}}}))
	try, err := j.DryRun(t.Context(), rules, now.Add(-time.Hour), time.Minute)
	must(t, err)
	if len(try.Results) != 1 || len(try.Results[0].Pulls) != 1 || try.Results[0].Pulls[0].Node != "n1" || try.Results[0].Pulls[0].Times != 2 ||
		len(try.Results[0].Workloads) != 1 || try.Results[0].Workloads[0].Name != "shop/web" || try.Results[0].Workloads[0].Node != "n1" {
		t.Errorf("%+v", try)
	}
	for i := range anonymousBurst + 100 {
		pull(fmt.Sprint("m", i))
	}
	pull("n2")
	j.record.write(t.Context(), true)
	rows, _, err := j.o.Rows.PolicyPulls(t.Context(), time.Time{}, 2*anonymousBurst, meta.PolicyPull{})
	must(t, err)
	if n := len(rows); n != anonymousBurst+1 || rows[0].Node != "" {
		t.Errorf("%d rows, the first of %q; want %d, and one of nobody", n, rows[0].Node, anonymousBurst+1)
	}
}
