package ociserver

import (
	"errors"
	"net/http"
	"strconv"
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

func newEvent(w *response, r *http.Request, q Request, err error) Event {
	ref := q.Ref
	if q.Kind == Blob {
		ref = oci.Digested(q.Digest)
	}
	return Event{
		Kind: q.Kind, Method: q.Method, Repo: q.Repo, Ref: ref,
		MediaType: w.about.desc.MediaType, Digest: w.about.desc.Digest, SizeBytes: w.about.desc.Size, Source: w.about.source, Stale: w.about.stale,
		BytesSent: w.sent, Status: w.statusOrLeft(), FirstByte: w.firstByte, Dur: time.Since(w.start),
		Caller: oci.CallerFrom(r.Context()), Remote: r.RemoteAddr, UserAgent: r.UserAgent(), Err: err,
	}
}

func (w *response) statusOrLeft() int {
	if w.unheard {
		return StatusClientLeft
	}
	return w.status
}

type metrics struct {
	duration *prometheus.HistogramVec
	sent     *prometheus.CounterVec
	cut      *prometheus.CounterVec
}

// newMetrics makes the package's metrics; a nil reg leaves them unseen.
func newMetrics(reg prometheus.Registerer, namespace string) metrics {
	m := metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Subsystem: "registry", Name: "request_duration_seconds",
			Help:    "Time from a registry request's arrival to the end of its answer, by endpoint, method and status class.",
			Buckets: []float64{.001, .005, .025, .1, .5, 1, 3, 10, 30, 100, 300},
		}, []string{"kind", "method", "status"}),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: "registry", Name: "sent_bytes_total",
			Help: "Bytes of manifests and blobs sent, by where they came from.",
		}, []string{"source"}),
		cut: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: "registry", Name: "bodies_cut_total",
			Help: "Bodies that ended short: because the content stalled, failed, or the client left.",
		}, []string{"cause"}),
	}
	if reg != nil {
		reg.MustRegister(m.duration, m.sent, m.cut)
	}
	return m
}

func (m metrics) observe(w *response, q Request, err error, left bool) {
	kind, method := string(q.Kind), q.Method
	if _, ok := routes[q.Kind][method]; !ok {
		method = "other" // a client can invent any
	}
	if kind == "" {
		kind = "none"
	}
	class := strconv.Itoa(w.statusOrLeft()/100) + "xx"
	m.duration.WithLabelValues(kind, method, class).Observe(time.Since(w.start).Seconds())
	if w.about.source != "" {
		m.sent.WithLabelValues(string(w.about.source)).Add(float64(w.sent))
	}
	if err != nil && w.status < http.StatusMultipleChoices { // it had begun
		m.cut.WithLabelValues(cutCause(err, left)).Inc()
	}
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
