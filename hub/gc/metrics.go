package gc

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	blobs, bytes, quarantined, orphans, forgotten, failures prometheus.Counter
	due, last                                               prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "breakwater_hub_gc_" + name, Help: help})
		if reg != nil {
			reg.MustRegister(c)
		}
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "breakwater_hub_gc_" + name, Help: help})
		if reg != nil {
			reg.MustRegister(g)
		}
		return g
	}
	return &metrics{
		blobs:       counter("deleted_blobs_total", "Blobs deleted by this process."),
		bytes:       counter("deleted_bytes_total", "Bytes of the blobs deleted by this process."),
		quarantined: counter("quarantined_blobs_total", "Blobs that were found to be nobody's; they are deleted some time later."),
		orphans:     counter("orphans_total", "Objects deleted of which no row spoke: left by a crash."),
		forgotten:   counter("forgotten_blobs_total", "Blobs that nobody needed and that would have been kept. Should be 0: more is a fault of the program."),
		failures:    counter("failures_total", "Passes that could not do all."),
		due:         gauge("due", "Blobs to be looked at or deleted, when the last pass ended."),
		last:        gauge("last_timestamp_seconds", "When the last pass ended that could do all."),
	}
}

func (m *metrics) pass(p Pass) {
	m.blobs.Add(float64(p.Deleted))
	m.bytes.Add(float64(p.DeletedBytes))
	m.quarantined.Add(float64(p.Quarantined))
	m.orphans.Add(float64(p.Orphans))
	m.forgotten.Add(float64(p.Verified))
	if p.Err != nil {
		m.failures.Inc()
		return
	}
	m.last.Set(float64(p.EndedAt.UnixMicro()) / 1e6)
}
