package judge

import (
	"slices"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// machine is what containerd runs on this node.
type machine struct {
	name  string // as a policy writes it: linux/amd64, linux/arm/v7
	order platforms.MatchComparer
}

func machineOf(p ocispec.Platform) machine {
	name := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		name += "/" + p.Variant
	}
	return machine{name, platforms.Only(p)}
}

// Taken lists what containerd takes of an index on this node, by its entries
// there: one, as its images.Manifest chooses. It is more than one where releases
// differ, which they do about os.features.
func (j *Judge) Taken(entries []oci.Descriptor) (all []oci.Descriptor) {
	take := func(entries []oci.Descriptor) {
		entries = slices.DeleteFunc(slices.Clone(entries), func(d oci.Descriptor) bool { return d.Platform != nil && !j.machine.order.Match(*d.Platform) })
		slices.SortStableFunc(entries, func(a, b oci.Descriptor) int {
			switch {
			case a.Platform == nil && b.Platform == nil:
				return 0
			case a.Platform == nil:
				return 1
			case b.Platform == nil || j.machine.order.Less(*a.Platform, *b.Platform):
				return -1
			case j.machine.order.Less(*b.Platform, *a.Platform):
				return 1
			}
			return 0
		})
		if len(entries) > 0 && !slices.ContainsFunc(all, func(d oci.Descriptor) bool { return d.Digest == entries[0].Digest }) {
			all = append(all, entries[0])
		}
	}
	take(entries)
	plain := slices.Clone(entries)
	for i, e := range plain {
		if e.Platform != nil {
			p := *e.Platform
			p.OSFeatures = nil
			plain[i].Platform = &p
		}
	}
	take(plain)
	return all
}
