package policy

import (
	"strconv"
	"strings"
)

// NoPlatform is what an entry of an index is said to be for that is no image:
// BuildKit's attestations. No machine is of it, so that no runtime takes it,
// whatever it is.
const NoPlatform = "unknown/unknown"

// machine is a platform as containerd understands it, so that no other spelling
// keeps an image from being judged.
type machine struct{ os, arch, variant string }

// parseMachine reads os/architecture/variant as Normalize of
// github.com/containerd/platforms does, but for what it makes of no system at
// all, which is that of who asks: that stays "". A variant that goes without
// saying is "": v1 of amd64, v8 of arm64, and all of 386.
func parseMachine(p string) (m machine) {
	var rest string
	m.os, rest, _ = strings.Cut(strings.ToLower(p), "/")
	m.arch, m.variant, _ = strings.Cut(rest, "/")
	if m.os == "macos" {
		m.os = "darwin"
	}
	switch m.arch {
	case "i386":
		m.arch = "386"
	case "x86_64", "x86-64":
		m.arch = "amd64"
	case "aarch64":
		m.arch = "arm64"
	case "armhf":
		m.arch, m.variant = "arm", "v7"
	case "armel":
		m.arch, m.variant = "arm", "v6"
	}
	switch m.variant {
	case "5", "6", "7", "8", "9":
		m.variant = "v" + m.variant
	}
	switch {
	case m.arch == "386", m.arch == "arm64" && m.variant == "v8", m.arch == "amd64" && m.variant == "v1":
		m.variant = ""
	}
	return m
}

// takes says where an entry of an index for c stands in the order in which a
// container runtime on m looks for one: 0 is best. ok is false where it takes
// none such; certain where it takes no later one when there is this.
//
// The order is that of containerd: platformVector, Only and Normalize of
// github.com/containerd/platforms (v0.2.1 in containerd 1.7, v1.0.0 in 2.x), by
// which its FilterPlatforms and LimitManifests choose. What differs between
// machines and releases is in no order here, and is not certain:
//
//   - amd64: the variants v2 to v4, which a machine takes that is set up for
//     them, then 386.
//   - arm64: the variants, which depend on the processor and the release, then
//     arm v8, v7, v6 and v5.
//   - arm of a variant: that and then each lower one to v5. Without a variant it
//     is all machines of arm, and so all variants.
//   - all else: that alone; without a variant, all variants.
func (m machine) takes(c machine) (place int, certain, ok bool) {
	switch {
	case c.os != "" && c.os != m.os:
		return 0, false, false
	case m.arch == "":
		return 0, false, true
	case m.arch == "amd64" && c.arch == "386":
		return 1, true, true
	case m.arch == "arm64" && c.arch == "arm":
		if n, ok := c.armVersion(); ok && n <= 8 {
			return 1 + 8 - n, true, true
		}
		return 1, false, true
	case m.arch != c.arch:
		return 0, false, false
	case m.arch == "amd64", m.arch == "arm64":
		return 0, c.variant == "", true
	case m.arch == "arm" && m.variant != "":
		best, known := m.armVersion()
		n, ok := c.armVersion()
		if !known || !ok {
			return 0, true, m.variant == c.variant
		}
		return best - n, true, n <= best
	}
	return 0, true, m.variant == "" || m.variant == c.variant
}

// armVersion is the number in an arm's variant; none is 7, and the least is 5.
func (m machine) armVersion() (n int, ok bool) {
	if m.variant == "" {
		return 7, true
	}
	n, err := strconv.Atoi(strings.TrimPrefix(m.variant, "v"))
	return n, err == nil && n >= 5
}

// taken says of each entry of an index whether machines of a platform may run
// it: whether it is what a runtime takes of the index, on any such machine. An
// entry for a platform that is only a makeshift there, as 386 on amd64, is not
// taken where the index has one that every such machine takes before. Children
// that are [Child.Conditional] are no such, and are taken in any place.
func taken(platform string, children []Child) []bool {
	m := parseMachine(platform)
	if m.os == "" {
		m.os = "linux"
	}
	last := -1 // the place beyond which nobody looks; -1: there is none
	for _, c := range children {
		place, certain, ok := m.takes(parseMachine(c.Platform))
		if ok && certain && !c.Conditional && (last < 0 || place < last) {
			last = place
		}
	}
	out := make([]bool, len(children))
	for i, c := range children {
		place, _, ok := m.takes(parseMachine(c.Platform))
		out[i] = ok && (c.Conditional || last < 0 || place <= last)
	}
	return out
}
