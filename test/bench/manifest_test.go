package bench

import (
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

const manifestTarget = 2.0 // times distribution's requests each second

// manifests: GET of a small manifest by its tag, from a public project of the hub and from a proxy of it that need
// not ask, against distribution.
func manifests(t *testing.T, r *report) {
	const clients, each = 8, 4 * time.Second
	other := distribution(t)
	h := startHouse(t, other.URL, "1h")
	api := hubapi.NewClient(h.hub.URL, "admin", rig.AdminPassword, nil)
	if _, err := api.PutProject(t.Context(), "bench", hubapi.ProjectSpec{Public: new(true)}); err != nil {
		t.Fatal(err)
	}
	image := rig.Random(t, "app")
	rig.Push(t, other.URL, "library/app:1", image)
	rig.Push(t, h.hub.URL, "bench/app:1", image, remote.WithAuth(&authn.Basic{Username: "admin", Password: rig.AdminPassword}))

	from := func(name, url string, p *rig.Proc) side {
		if _, err := get(t.Context(), url, make([]byte, 64<<10)); err != nil {
			t.Fatal(err)
		}
		return side{name: name, procs: []*rig.Proc{p}, run: func() result { return requests(t, url, clients, each) }}
	}
	all := rounds(t, "/s",
		from("hub", h.hub.URL+"/v2/bench/app/manifests/1", h.hub.Proc),
		from("hub's proxy", h.atHub("library/app/manifests/1"), h.hub.Proc),
		from("distribution", other.URL+"/v2/library/app/manifests/1", other.Proc))
	for _, s := range all[:2] {
		ratio, _, _ := s.against(all[2])
		x := s.compare("manifest by tag, 8 clients", all[2], "/s", "s/1000")
		x.target, x.verdict = "≥ 2.0", atLeast(ratio, manifestTarget)
		r.add(x)
	}
}
