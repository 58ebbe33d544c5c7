package status

import (
	"net/http"
	"strconv"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

// Policy serves what the node judges by ([hubapi.NodePolicyState]).
func Policy(state func() hubapi.NodePolicyState) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { write(w, state()) })
}

// maxDecisions is how many decisions are listed at most, and when n is not given.
const maxDecisions = 500

// Decisions serves the node's latest decisions ([hubapi.NodeDecisionList]), the
// newest first: of ?id=, about ?image=, ?n= at most.
func Decisions(latest func(id, image string, n int) hubapi.NodeDecisionList) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		n, err := strconv.Atoi(q.Get("n"))
		if err != nil || n <= 0 || n > maxDecisions {
			n = maxDecisions
		}
		write(w, latest(q.Get("id"), q.Get("image"), n))
	})
}
