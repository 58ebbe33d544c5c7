package hub

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

// limits is what upstreams last said of their limits on pulls (Docker Hub's
// ratelimit-limit: "100;w=21600"), as metrics and for the API.
type limits struct {
	limit, remaining *prometheus.GaugeVec

	mu   sync.Mutex
	last map[string]hubapi.RateLimit
}

func newLimits(reg prometheus.Registerer) *limits {
	l := &limits{
		limit: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "breakwater_hub_upstream_ratelimit_limit", Help: "Pulls an upstream allows in its window, as it last said.",
		}, []string{"registry"}),
		remaining: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "breakwater_hub_upstream_ratelimit_remaining", Help: "Pulls an upstream still allows, as it last said.",
		}, []string{"registry"}),
		last: make(map[string]hubapi.RateLimit),
	}
	reg.MustRegister(l.limit, l.remaining)
	return l
}

// see reads the headers of one answer.
func (l *limits) see(registry string, res *http.Response) {
	limit, window, ok := rateHeader(res.Header.Get("Ratelimit-Limit"))
	remaining, _, ok2 := rateHeader(res.Header.Get("Ratelimit-Remaining"))
	if !ok || !ok2 {
		return
	}
	l.limit.WithLabelValues(registry).Set(float64(limit))
	l.remaining.WithLabelValues(registry).Set(float64(remaining))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last[registry] = hubapi.RateLimit{Limit: limit, Remaining: remaining, WindowSeconds: window, SeenAt: time.Now().UTC()}
}

// get is what a registry last said, nil when it never did.
func (l *limits) get(registry string) *hubapi.RateLimit {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r, ok := l.last[registry]; ok {
		return &r
	}
	return nil
}

// rateHeader reads "76;w=21600".
func rateHeader(s string) (n, windowSeconds int, ok bool) {
	first, rest, _ := strings.Cut(s, ";")
	n, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return 0, 0, false
	}
	if w, found := strings.CutPrefix(strings.TrimSpace(rest), "w="); found {
		windowSeconds, _ = strconv.Atoi(w)
	}
	return n, windowSeconds, true
}
