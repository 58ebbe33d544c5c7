package bench

import (
	"testing"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

const (
	bigMB  = 300
	bigRef = "docker.io/library/big:1"

	coldTarget = 1.05 // times as long as without us
	warmTarget = 1.05
	linkRate   = 200e6 / 8 // bytes each second
)

// cold: containerd pulls an image that nobody near has, over a link of 200 Mbit/s, through agent and hub and
// straight. Agent and hub begin empty each time.
func cold(t *testing.T, r *report) {
	origin := distribution(t)
	rig.Push(t, origin.URL, "library/big:1", rig.Big(t, bigMB))
	link := rig.FaultProxy(t, origin.URL)
	ctd := rig.StartContainerd(t, rig.ContainerdOptions{})
	h := startHouse(t, link.URL, "")
	ctd.Mirror("docker.io", link.URL)
	pull(t, ctd, bigRef) // the disk's cache is as warm for the first round as for the last
	link.Limit(linkRate)

	through := side{
		name: "agent+hub", procs: h.procs(),
		prepare: func() {
			forget(t, ctd, bigRef)
			h.empty(t)
			ctd.Mirror("docker.io", h.agent.URL)
		},
		run: func() result { return result{pull(t, ctd, bigRef).Seconds(), bigMB / 1e3} },
	}
	straight := side{
		name: "containerd straight",
		prepare: func() {
			forget(t, ctd, bigRef)
			ctd.Mirror("docker.io", link.URL)
		},
		run: through.run,
	}
	all := rounds(t, "s", through, straight)
	x := all[0].compare("cold pull, 300 MB at 200 Mbit/s", all[1], "s", "s/GB")
	ratio, _, _ := all[0].against(all[1])
	x.target, x.verdict = "≤ 1.05", atMost(ratio, coldTarget)
	r.add(x)
}

// warm: containerd pulls an image that the agent has, from it and straight from a registry on the same machine.
func warm(t *testing.T, r *report) {
	origin := distribution(t)
	rig.Push(t, origin.URL, "library/big:1", rig.Big(t, bigMB))
	ctd := rig.StartContainerd(t, rig.ContainerdOptions{})
	h := startHouse(t, origin.URL, "")
	ctd.Mirror("docker.io", h.agent.URL)
	pull(t, ctd, bigRef)

	from := func(name, url string, procs ...*rig.Proc) side {
		return side{
			name: name, procs: procs,
			prepare: func() {
				forget(t, ctd, bigRef)
				ctd.Mirror("docker.io", url)
			},
			run: func() result { return result{pull(t, ctd, bigRef).Seconds(), bigMB / 1e3} },
		}
	}
	all := rounds(t, "s", from("agent", h.agent.URL, h.procs()...), from("distribution", origin.URL, origin.Proc))
	x := all[0].compare("warm pull, 300 MB", all[1], "s", "s/GB")
	ratio, _, _ := all[0].against(all[1])
	x.target, x.verdict = "≤ 1.05", atMost(ratio, warmTarget)
	r.add(x)
}
