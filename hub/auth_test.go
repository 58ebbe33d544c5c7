package hub

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

func TestNodeOfRequest(t *testing.T) {
	const ours = "breakwater-node/v1"
	for _, tt := range []struct{ agent, name, want string }{
		{ours, "worker-3", "worker-3"},
		{ours, "ip-10-0-0-3.eu.internal", "ip-10-0-0-3.eu.internal"},
		{ours, "", ""},
		{ours, "two words", ""},
		{ours, "tab\there", ""},
		{ours, "grün", ""},
		{ours, strings.Repeat("n", 253), strings.Repeat("n", 253)},
		{ours, strings.Repeat("n", 254), ""},
		{"containerd/v2.4.2", "worker-3", ""},
		{"crane breakwater-node/v1", "worker-3", ""},
		{"", "worker-3", ""},
	} {
		r := httptest.NewRequest(http.MethodGet, "/v2/", nil)
		r.Header.Set("User-Agent", tt.agent)
		r.Header[http.CanonicalHeaderKey(hubapi.NodeHeader)] = []string{tt.name}
		if got := node(r); got != tt.want {
			t.Errorf("%q of %q is node %q, want %q", tt.name, tt.agent, got, tt.want)
		}
	}
}

// Before there is any policy the hub knows which nodes pull, so that one can be
// tried out.
func TestPullsOfNodes(t *testing.T) {
	h := newHouse(t, "sqlite", nil)
	must(t, ocitest.Image(1, 1, 1000).Push(t.Context(), h.upstream, "library/app", "1"))
	for node, agent := range map[string]string{"worker-1": "breakwater-node/v1", "worker-2": "breakwater-node/v1", "nobody": "curl/8"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, h.base+"/v2/docker.io/library/app/manifests/1", nil)
		must(t, err)
		req.Header.Set("User-Agent", agent)
		req.Header.Set(hubapi.NodeHeader, node)
		res, err := http.DefaultClient.Do(req)
		must(t, err)
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d", node, res.StatusCode)
		}
	}
	try, err := h.admin.DryRunPolicy(t.Context(), `{apiVersion: breakwater.dev/v1alpha1, kind: PolicyBundle, revision: 1, default: deny}`, 0)
	must(t, err)
	if len(try.Results) != 1 || !slices.Equal(try.Results[0].Nodes, []string{"worker-1", "worker-2"}) || try.Results[0].Pulls != 3 {
		t.Errorf("dry run: %+v", try.Results)
	}
}
