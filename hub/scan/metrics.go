package scan

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
)

type metrics struct {
	attempts                   *prometheus.CounterVec
	seconds                    *prometheus.HistogramVec
	analyses                   *prometheus.CounterVec
	read, lost                 prometheus.Counter
	matched, matchFailures     prometheus.Counter
	matchSeconds               prometheus.Counter
	published, publishFailures prometheus.Counter
	installed, waits           prometheus.Gauge
	missing                    atomic.Bool // that the scanner is not there was said
}

// reasons are the values of a metric's label.
var reasons = []string{
	string(scanproto.ReasonUnscannable), string(scanproto.ReasonTooLarge), string(scanproto.ReasonCorrupt),
	string(scanproto.ReasonTimeout), string(scanproto.ReasonInternal), reasonMemory, reasonKilled, reasonCrashed, reasonGone, reasonScanner,
}

// newMetrics registers with reg, unless it is nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "breakwater_hub_scan_" + name, Help: help})
		all = append(all, c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "breakwater_hub_scan_" + name, Help: help})
		all = append(all, g)
		return g
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "breakwater_hub_scan_" + name, Help: help}, labels)
		all = append(all, c)
		return c
	}
	m := &metrics{
		attempts:        counters("attempts_total", "Scans that this process has run, by result (done, queued for another attempt, failed, stopped) and reason.", "result", "reason"),
		analyses:        counters("layers_total", "Layers of scanned images, by whether what is in them was kept from earlier or made now.", "analysis"),
		read:            counter("read_bytes_total", "Bytes of layers that scanners were given."),
		lost:            counter("lost_total", "Scans taken over from hubs that have died."),
		matched:         counter("matched_total", "Inventories matched against the vulnerability database."),
		matchSeconds:    counter("match_seconds_total", "Time spent on that."),
		matchFailures:   counter("match_failures_total", "Times that inventories could not be matched."),
		published:       counter("published_total", "Statements on images that were put beside them."),
		publishFailures: counter("publish_failures_total", "Statements on images that could not be."),
		installed:       gauge("program_installed", "Whether the scanner is there: 1 or 0."),
		waits:           gauge("waiting", "Pulls that wait for a scan."),
	}
	m.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "breakwater_hub_scan_seconds", Help: "How long a scan ran, by result.",
		Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900},
	}, []string{"result"})
	for _, result := range []string{"queued", "failed"} {
		for _, reason := range reasons {
			m.attempts.WithLabelValues(result, reason)
		}
	}
	m.attempts.WithLabelValues("done", "")
	m.attempts.WithLabelValues("stopped", "")
	if reg != nil {
		reg.MustRegister(append(all, m.seconds)...)
	}
	return m
}

// ended counts a run; how is its result and reason, with a slash between.
func (m *metrics) ended(how string, took time.Duration) {
	result, reason, _ := strings.Cut(how, "/")
	m.attempts.WithLabelValues(result, reason).Inc()
	m.seconds.WithLabelValues(result).Observe(took.Seconds())
}

func (m *metrics) program(there bool) {
	if !there {
		m.installed.Set(0)
		return
	}
	m.missing.Store(false)
	m.installed.Set(1)
}

// programMissing says true once, until the program was there again.
func (m *metrics) programMissing() bool { return !m.missing.Swap(true) }
