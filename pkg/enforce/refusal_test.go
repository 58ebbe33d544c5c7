package enforce

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// An agent is sent the decision, others its id, and each the same bytes each time.
func TestDetail(t *testing.T) {
	g := New(nil, nil, Options{})
	d := policy.Decision{ID: "d-0123456789ab", Subject: policy.Subject{Name: "reg.test/app"}, Outcome: policy.Deny, Would: policy.Deny, Revision: 7, Time: time.Now()}
	bodies := make(map[string]bool)
	for _, agent := range []bool{false, true} {
		ctx := oci.WithCaller(t.Context(), oci.Caller{Agent: agent})
		for range 2 {
			d.Time = d.Time.Add(time.Second)
			r := g.refusal(ctx, d, 0)
			if in, ok := DecisionIn(r.err); !ok || in.Revision != 7 {
				t.Errorf("agent %v: in this process it is %+v", agent, in)
			}
			var sent struct {
				Errors []struct{ Detail json.RawMessage }
			}
			body := httpx.ErrorBody(r.err)
			bodies[string(body)] = true
			if err := json.Unmarshal(body, &sent); err != nil {
				t.Fatal(err)
			}
			got := sent.Errors[0].Detail
			in, ok := DecisionIn(&oci.Error{Code: oci.Denied, Detail: got})
			if ok != agent || agent && in.Revision != 7 || !agent && string(got) != `{"id":"d-0123456789ab"}` {
				t.Errorf("agent %v: sent %s", agent, got)
			}
			if again, ok := g.asked(oci.FromBytes(body)); !ok || again.err != r.err {
				t.Errorf("agent %v: the refusal is not known by its digest", agent)
			}
		}
	}
	if len(bodies) != 2 {
		t.Errorf("%d bodies, want one for each kind of caller", len(bodies))
	}
}

// A decision stays the same when other things are found that do not count; who is refused is told of them all the same,
// and both refusals are known by the digests of their bodies.
func TestRefusalTellsWhatIsFoundNow(t *testing.T) {
	g := New(nil, nil, Options{})
	for _, reason := range []string{"no valid signature (key: none found)", "no valid signature (key: 1 found, not made by this key)"} {
		r := g.refusal(t.Context(), policy.Decision{
			ID: "d-0123456789ab", Outcome: policy.Deny, Would: policy.Deny, Mode: policy.Enforce,
			Policies: []policy.PolicyResult{{Name: "signed", Mode: policy.Enforce, Outcome: policy.Deny, Rules: []policy.RuleResult{
				{Name: "by-key", Kind: policy.KindSignature, Verdict: policy.VerdictFail, Outcome: policy.Deny, Reason: reason},
			}}},
		}, 0)
		if !strings.Contains(r.err.Message, reason) {
			t.Errorf("it says %q, want %q in it", r.err.Message, reason)
		}
	}
	if n := g.bodies.Len(); n != 2 {
		t.Errorf("%d refusals are known by their bodies, want 2", n)
	}
}
