package proxy

import "github.com/prometheus/client_golang/prometheus"

// The places a fill's bytes come from, as metrics name them.
const (
	viaUpstream = "upstream"
	viaUnled    = "upstream_unled" // beside the replica that leads, or without knowing of one
	viaReplica  = "replica"
	viaStorage  = "storage"
)

// The things that were served and could not be kept, as metrics name them.
const (
	blobKind      = "blob"
	manifestKind  = "manifest"
	referenceKind = "reference"
)

type metrics struct {
	streams *prometheus.CounterVec
	unkept  *prometheus.CounterVec
}

// newMetrics registers with reg, unless it is nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		streams: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "breakwater_hub_fill_streams_total", Help: "Streams of blobs being fetched, by where they were opened.",
		}, []string{"from"}),
		unkept: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "breakwater_hub_unkept_total", Help: "Answers of upstreams that were served but could not be kept.",
		}, []string{"kind"}),
	}
	if reg != nil {
		reg.MustRegister(m.streams, m.unkept)
	}
	return m
}
