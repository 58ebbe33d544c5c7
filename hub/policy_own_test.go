package hub

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/scan"
	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

// What the hub has put beside an image makes room for what is newer, and leaves
// nothing for people to restore.
func TestReplacedStatementsLeaveNoTrash(t *testing.T) {
	h := newHouse(t, "sqlite", nil)
	image := runnable(t, "well")
	must(t, h.push("team/app", "1", image))
	_, err := h.admin.RequestScan(t.Context(), "hub.test:8080/team/app:1")
	must(t, err)
	beside := func(kind string) (all []oci.Digest) {
		list, err := h.hub.all.Referrers(t.Context(), "team/app", image.Digest, kind)
		must(t, err)
		for _, d := range list {
			all = append(all, d.Digest)
		}
		return all
	}
	var first []oci.Digest
	eventually(t, "it has a statement, and documents", func() bool {
		first = beside(verify.BundleType)
		return len(first) == 1 && len(beside(scan.TypeSPDX)) == 1
	})
	h.advisories(matchtest.Requests, matchtest.Libidn2)
	must(t, updated(h))
	eventually(t, "another is in its place", func() bool {
		now := beside(verify.BundleType)
		return len(now) == 1 && now[0] != first[0]
	})
	if all, err := h.admin.Trash(t.Context(), ""); err != nil || len(all) != 0 {
		t.Errorf("trash: %+v %v", all, err)
	}
}

func TestExemptImages(t *testing.T) {
	pause, other := ocitest.Index(1, 1, 100, "amd64", "arm64"), ocitest.Image(2, 1, 100)
	h := newHouse(t, "sqlite", func(c *Config) {
		c.Scan.Enabled = false
		c.Policy.Exempt = []string{pause.Digest.String()}
	})
	must(t, h.push("team/pause", "1", pause))
	must(t, h.push("team/other", "1", other))
	_, err := h.admin.SetPolicy(t.Context(), strings.Replace(h.document(1, ""), "default: allow", "default: deny", 1))
	must(t, err)
	for path, want := range map[string]int{
		"team/pause/manifests/1":                                                 200,
		"team/pause/manifests/" + pause.Children[1].Digest.String():              200,
		"team/pause/blobs/" + oci.FromBytes(pause.Children[1].Blobs[1]).String(): 200,
		"team/other/manifests/1":                                                 403,
		"team/other/blobs/" + oci.FromBytes(other.Blobs[1]).String():             403,
	} {
		if a := h.ask("GET", "/v2/"+path); a.StatusCode != want {
			t.Errorf("GET %s: %d %s, want %d", path, a.StatusCode, a.body, want)
		}
	}
}

// Nodes need no account to tell of their decisions until there are robots.
func TestDecisionsOfNodesWithoutAnAccount(t *testing.T) {
	h := newHouse(t, "sqlite", func(c *Config) { c.Scan.Enabled = false })
	all := hubapi.NodeDecisions{Node: "n1", Decisions: []policy.Decision{{
		ID: "d-0123456789ab", At: policy.Pull, Outcome: policy.Deny, Would: policy.Deny, Time: time.Now(),
		Subject: policy.Subject{Name: "docker.io/library/app", Tag: "1"}, // nobody could show it
	}}}
	node := hubapi.NewClient(h.base, "", "", http.DefaultTransport)
	must(t, node.NodeDecisions(t.Context(), all))
	robot, err := h.admin.CreateRobot(t.Context(), hubapi.RobotSpec{Name: "nodes"})
	must(t, err)
	if err := node.NodeDecisions(t.Context(), all); status(err) != http.StatusUnauthorized {
		t.Errorf("with a robot there: %v", err)
	}
	named := hubapi.NewClient(h.base, robot.Name, robot.Secret, http.DefaultTransport)
	must(t, named.NodeDecisions(t.Context(), all))
	eventually(t, "both are there", func() bool {
		d, err := h.admin.Decision(t.Context(), all.Decisions[0].ID)
		return err == nil && len(d.Decisions) == 2 && d.Decisions[0].Account == "" && d.Decisions[1].Account != ""
	})
}
