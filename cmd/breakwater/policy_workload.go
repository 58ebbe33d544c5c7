package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

// maxShown is how many workloads are named in a cell of a table.
const maxShown = 5

// runBy names what runs an image, each workload once: of a node's decision
// without the node.
func runBy(all []hubapi.Workload, node string) (names []string) {
	nodes := make(map[string][]string)
	var order []string
	for _, w := range all {
		if nodes[w.Name] == nil {
			order = append(order, w.Name)
		}
		nodes[w.Name] = append(nodes[w.Name], w.Node)
	}
	for i, name := range order {
		on := nodes[name]
		switch {
		case i == maxShown:
			return append(names, fmt.Sprintf("%d more", len(order)-maxShown))
		case node != "" || on[0] == "":
			names = append(names, name)
		case len(on) == 1:
			names = append(names, name+" on "+on[0])
		default:
			names = append(names, fmt.Sprintf("%s on %d nodes", name, len(on)))
		}
	}
	return names
}

// pulledBy names who would be refused: the workloads, nodes of which nothing
// that runs the image is known, and who has pulled it.
func pulledBy(r hubapi.DryRunResult) string {
	named := runBy(r.Workloads, "")
	for _, n := range r.Nodes {
		if !slices.ContainsFunc(r.Workloads, func(w hubapi.Workload) bool { return w.Node == n }) {
			named = append(named, n)
		}
	}
	return strings.Join(append(named, r.Callers...), ", ")
}
