package policy

import (
	"cmp"
	"slices"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/strictyaml"
)

// Fault is one thing that is wrong in a document, and where.
type Fault = strictyaml.Fault

// Faults is the error of [Load]: all that is wrong, in the order of the file.
type Faults []Fault

// Error has one line for each fault.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

func (fs Faults) sort() {
	slices.SortStableFunc(fs, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), strings.Compare(a.Path, b.Path))
	})
}
