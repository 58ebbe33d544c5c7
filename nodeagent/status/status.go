// Package status is the node's own status as JSON: its cache, its hub, and for
// each recent pull where each blob came from.
package status

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/breakwater-oci/breakwater/nodeagent/cache"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/pulls"
	"github.com/breakwater-oci/breakwater/pkg/version"
)

// Sources are what the status is made of.
type Sources struct {
	StartedAt time.Time
	Cache     *cache.Cache
	CacheDir  string
	Pulls     *pulls.Log
	Filling   func() int
	HubURL    string
	HubAway   func() bool
	Mirrors   []string
	Drift     func() []string
	Policy    func() hubapi.NodePolicyState
}

// shownPulls is how many pulls the status lists.
const shownPulls = 100

// Handler serves the status ([hubapi.NodeStatus]).
func Handler(s Sources) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { write(w, s.now()) })
}

func write(w http.ResponseWriter, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(b, '\n')) // the client may be gone
}

func (s Sources) now() hubapi.NodeStatus {
	c := s.Cache.Stats()
	return hubapi.NodeStatus{
		Version: version.String(), StartedAt: s.StartedAt, Filling: s.Filling(), Mirrors: s.Mirrors, Drift: s.Drift(),
		Hub:    hubapi.NodeHub{URL: s.HubURL, Away: s.HubAway()},
		Cache:  hubapi.NodeCache{Dir: s.CacheDir, Bytes: c.Bytes, MaxBytes: c.MaxBytes, Objects: c.Objects, FreeBytes: c.FreeBytes, Off: c.OffReason},
		Policy: s.Policy(), Pulls: s.Pulls.Recent(shownPulls),
	}
}
