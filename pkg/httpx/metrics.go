package httpx

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts and times requests:
//
//	breakwater_http_request_duration_seconds{method, route, status}
//
// method is one of HTTP's, else "other"; route one that NewMetrics was given,
// else "other"; status "2xx" to "5xx", or "cut" when we had to end the answer
// before it was whole. A nil *Metrics counts nothing.
type Metrics struct {
	routes  []string
	seconds *prometheus.HistogramVec
}

// NewMetrics registers with reg. Two servers in one registry need a label that
// tells them apart (prometheus.WrapRegistererWith).
func NewMetrics(reg prometheus.Registerer, routes ...string) *Metrics {
	m := &Metrics{routes, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "breakwater_http_request_duration_seconds",
		Help:    "Time from a request's header to the end of its answer.",
		Buckets: []float64{.005, .025, .1, .5, 1, 3, 10, 30, 120, 600}, // 3 s: what containerd waits for a header
	}, []string{"method", "route", "status"})}
	reg.MustRegister(m.seconds)
	return m
}

func (m *Metrics) observe(rec *record, r *http.Request, dur time.Duration) {
	if m == nil {
		return
	}
	m.seconds.WithLabelValues(methodLabel(r.Method), m.routeLabel(rec.route), statusLabel(rec)).Observe(dur.Seconds())
}

func (m *Metrics) routeLabel(route string) string {
	if slices.Contains(m.routes, route) {
		return route
	}
	return "other"
}

func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "other"
}

func statusLabel(rec *record) string {
	if rec.cut {
		return "cut"
	}
	return strconv.Itoa(rec.status/100) + "xx"
}
