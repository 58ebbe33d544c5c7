package main

import (
	"slices"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

func TestRunBy(t *testing.T) {
	on := func(pairs ...string) (all []hubapi.Workload) {
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, hubapi.Workload{Name: pairs[i], Node: pairs[i+1]})
		}
		return all
	}
	for _, tt := range []struct {
		all  []hubapi.Workload
		node string
		want []string
	}{
		{nil, "", nil},
		{on("shop/web", "n1", "shop/api", "n2", "shop/web", "n2"), "", []string{"shop/web on 2 nodes", "shop/api on n2"}},
		{on("shop/web", "n1", "shop/api", "n1"), "n1", []string{"shop/web", "shop/api"}},
		{on("shop/web", ""), "", []string{"shop/web"}},
		{on("a/a", "", "a/b", "", "a/c", "", "a/d", "", "a/e", "", "a/f", "", "a/g", ""), "", []string{"a/a", "a/b", "a/c", "a/d", "a/e", "2 more"}},
	} {
		if got := runBy(tt.all, tt.node); !slices.Equal(got, tt.want) {
			t.Errorf("%v is %q, want %q", tt.all, got, tt.want)
		}
	}
	r := hubapi.DryRunResult{Workloads: on("shop/web", "n1"), Nodes: []string{"n1", "n2"}, Callers: []string{"ci"}}
	if got := pulledBy(r); got != "shop/web on n1, n2, ci" {
		t.Errorf("by %q", got)
	}
}
