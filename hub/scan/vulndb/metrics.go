package vulndb

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/hub/scan/match"
)

type metrics struct {
	looks                  *prometheus.CounterVec
	made, entries, checked prometheus.Gauge
}

// newMetrics are those of a database, whose name people know.
func newMetrics(reg prometheus.Registerer, prefix, name string) *metrics {
	prefix = "breakwater_hub_" + prefix + "_"
	gauge := func(metric, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + metric, Help: help})
	}
	m := &metrics{
		looks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "updates_total", Help: "Looks for a newer " + name + ", by result: new, same or failed.",
		}, []string{"result"}),
		made:    gauge("made_timestamp_seconds", "When the "+name+" in use was made, as its maker says."),
		entries: gauge("entries", "Entries of the "+name+" in use."),
		checked: gauge("checked_timestamp_seconds", "When a newer "+name+" was last looked for with success."),
	}
	for _, result := range []string{"new", "same", "failed"} {
		m.looks.WithLabelValues(result)
	}
	if reg != nil {
		reg.MustRegister(m.looks, m.made, m.entries, m.checked)
	}
	return m
}

func (m *metrics) looked(changed bool, err error) {
	switch {
	case err != nil:
		m.looks.WithLabelValues("failed").Inc()
		return
	case changed:
		m.looks.WithLabelValues("new").Inc()
	default:
		m.looks.WithLabelValues("same").Inc()
	}
	m.checked.SetToCurrentTime()
}

func (m *metrics) uses(madeAt time.Time, info match.Info) {
	if !madeAt.IsZero() {
		m.made.Set(float64(madeAt.Unix()))
	}
	m.entries.Set(float64(info.Entries))
}
