package ociserver

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// StatusClientLeft stands in events for the status that was never sent because
// the client had left.
const StatusClientLeft = 499

// Event is one answer about a manifest or a blob, reading or writing.
type Event struct {
	Kind   Kind
	Method string
	Repo   string        // as the registry knows it; "" when the name was refused
	Ref    oci.Reference // what was asked for: of a blob, its digest
	// MediaType, Digest, SizeBytes and Source are the registry's answer, as far
	// as it gave one.
	MediaType string
	Digest    oci.Digest
	SizeBytes int64
	Source    oci.Source
	Stale     bool          // the registry's authority could not answer
	BytesSent int64         // of the body
	Status    int           // or StatusClientLeft
	FirstByte time.Duration // until the status was sent
	Dur       time.Duration
	Caller    oci.Caller
	Remote    string // address and port
	UserAgent string
	Err       error // also of a body that ended short
}

// observe counts what has been answered, and tells of it.
func (s *Server) observe(x *exchange) {
	w := &x.w
	if w.about.source != "" {
		s.metrics.sent.WithLabelValues(string(w.about.source)).Add(float64(w.sent))
	}
	left := w.broken != nil || x.r.Context().Err() != nil
	if x.err != nil && w.status/100 == 2 { // it had begun
		s.metrics.cut.WithLabelValues(cutCause(x.err, left)).Inc()
	}
	if s.o.Observe == nil || !x.parsed || x.q.Kind != Manifest && x.q.Kind != Blob {
		return
	}
	ref := x.q.Ref
	if x.q.Kind == Blob {
		ref = oci.Digested(x.q.Digest)
	}
	status := w.status
	if status == 0 {
		status = StatusClientLeft
	}
	s.o.Observe(Event{
		Kind: x.q.Kind, Method: x.q.Method, Repo: x.q.Repo, Ref: ref,
		MediaType: w.about.desc.MediaType, Digest: w.about.desc.Digest, SizeBytes: w.about.desc.Size, Source: w.about.source, Stale: w.about.stale,
		BytesSent: w.sent, Status: status, FirstByte: w.firstByte, Dur: time.Since(w.start),
		Caller: oci.CallerFrom(x.r.Context()), Remote: x.r.RemoteAddr, UserAgent: x.r.UserAgent(), Err: x.err,
	})
}

func cutCause(err error, left bool) string {
	switch {
	case left:
		return "client"
	case errors.Is(err, oci.ErrStalled):
		return "stalled"
	}
	return "failed"
}

type metrics struct {
	sent *prometheus.CounterVec
	cut  *prometheus.CounterVec
}

// newMetrics makes the package's metrics; a nil reg leaves them unseen. Two
// servers in one registry need a label or a prefix that tells them apart
// (prometheus.WrapRegistererWith).
func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "breakwater_registry_sent_bytes_total",
			Help: "Bytes of manifests and blobs sent, by where they came from.",
		}, []string{"source"}),
		cut: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "breakwater_registry_bodies_cut_total",
			Help: "Bodies that ended short: because the content stalled, failed, or the client left.",
		}, []string{"cause"}),
	}
	if reg != nil {
		reg.MustRegister(m.sent, m.cut)
	}
	return m
}
