package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/policy"
)

// What runs an image is shown with decisions, to admins.
func TestWorkloadsAreShown(t *testing.T) {
	as, _ := newDecisions(t, nil)
	d := decided("d-1", "hub.test/a/x")
	run := func(workloads ...string) []hubapi.NodeRun {
		return []hubapi.NodeRun{{Image: d.Subject.Name, Digest: d.Subject.Digest, Workloads: workloads}}
	}
	tell := func(user string, told hubapi.NodeDecisions) error { return as(user).NodeDecisions(t.Context(), told) }
	must(t, tell("ann", hubapi.NodeDecisions{Node: "n1", Decisions: []policy.Decision{d}, Runs: run("shop/web")}))
	must(t, tell("ann", hubapi.NodeDecisions{Node: "n1", Runs: run("shop/api")}))
	must(t, tell("ann", hubapi.NodeDecisions{Node: "n2", Runs: run("shop/other")}))
	must(t, tell("bob", hubapi.NodeDecisions{Node: "n1", Runs: run("bobs/word")}))
	many := make([]string, hubapi.MaxNodeRuns+1)
	for i := range many {
		many[i] = fmt.Sprint("ns/p", i)
	}
	if err := tell("bob", hubapi.NodeDecisions{Node: "n1", Runs: run(many...)}); !isStatus(err, http.StatusRequestEntityTooLarge) && !isStatus(err, http.StatusBadRequest) {
		t.Errorf("too many at once: %v", err)
	}
	names := func(all []hubapi.Workload) (out []string) {
		for _, w := range all {
			out = append(out, w.Name+" "+w.Node)
		}
		slices.Sort(out)
		return out
	}
	want := []string{"shop/api n1", "shop/web n1"}
	all, err := as("root").Decisions(t.Context(), hubapi.DecisionQuery{})
	must(t, err)
	if len(all.Decisions) != 1 || !slices.Equal(names(all.Decisions[0].Workloads), want) {
		t.Errorf("listed: %+v", all)
	}
	one, err := as("root").Decision(t.Context(), "d-1")
	must(t, err)
	if len(one.Decisions) != 1 || !slices.Equal(names(one.Decisions[0].Workloads), want) {
		t.Errorf("by id: %+v", one)
	}
	j, err := as("root").Judge(t.Context(), d.Subject.String(), "n1")
	must(t, err)
	if !slices.Equal(names(j.Workloads), want) || j.Account != "ann" {
		t.Errorf("of the node: %+v", j)
	}
	if one, err = as("ann").Decision(t.Context(), "d-1"); err != nil || len(one.Decisions) != 1 || one.Decisions[0].Workloads != nil {
		t.Errorf("to who is no admin: %+v %v", one, err)
	}
	if j, err = as("ann").Judge(t.Context(), d.Subject.String(), "n1"); err != nil || j.Workloads != nil || j.Account != "" {
		t.Errorf("of the node, to who is no admin: %+v %v", j, err)
	}
}

func isStatus(err error, status int) bool {
	e, ok := errors.AsType[*hubapi.Error](err)
	return ok && e.Status == status
}
