package nodeagent

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

// The agent is ready without its hub, and says that it is away.
func TestReady(t *testing.T) {
	n := newNode(t, nil)
	n.awaitEpoch(1)
	type check struct {
		OK, Optional bool
		Error        string
	}
	ready := func() map[string]check {
		t.Helper()
		res, err := http.Get("http://" + n.agent.StatusAddr() + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		var r struct {
			Ready  bool
			Checks map[string]check
		}
		if err != nil || json.Unmarshal(text, &r) != nil || res.StatusCode != 200 || !r.Ready {
			t.Fatalf("%s %s %v", res.Status, text, err)
		}
		return r.Checks
	}
	all := ready()
	if !all["hub"].OK || !all["hub"].Optional || !all["policy"].OK || !all["policy"].Optional {
		t.Errorf("%+v", all)
	}
	n.down.Store(true)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if all = ready(); !all["hub"].OK && !all["policy"].OK && all["policy"].Error != "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the hub is away: %+v", all)
		}
	}
}

func TestPolicyFault(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		s    hubapi.NodePolicyState
		want string // parts; "" is no fault
	}{
		{hubapi.NodePolicyState{Source: "hub", Held: true, Revision: 1}, ""},
		{hubapi.NodePolicyState{Source: "hub", Bootstrap: "allow"}, "nothing is refused"},
		{hubapi.NodePolicyState{Source: "hub", Bootstrap: "deny", Error: "hub away"}, "every pull is refused|; hub away"},
		{hubapi.NodePolicyState{Source: "hub", Held: true, Error: "hub away"}, "hub away"},
		{hubapi.NodePolicyState{Source: "hub", Held: true, Revision: 7, Stale: true, OnStale: "deny", ConfirmedAt: at}, "revision 7|2026-11-21T12:00:00Z|every pull is refused"},
		{hubapi.NodePolicyState{Source: "hub", Held: true, Revision: 7, Stale: true, OnStale: "keep", ConfirmedAt: at, Error: "hub away"}, "all the same|; hub away"},
	} {
		err := policyFault(tt.s)
		if (err == nil) != (tt.want == "") {
			t.Errorf("%+v: %v", tt.s, err)
			continue
		}
		for part := range strings.SplitSeq(tt.want, "|") {
			if err != nil && !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not say %q", err, part)
			}
		}
	}
}
