package judge

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// lapsingWithin is how long ahead is warned of the end of exceptions.
const lapsingWithin = 14 * 24 * time.Hour

type metrics struct {
	faults, lost, exempted prometheus.Counter
}

func newMetrics(j *Judge, reg prometheus.Registerer) *metrics {
	m := &metrics{
		faults:   prometheus.NewCounter(prometheus.CounterOpts{Name: "breakwater_policy_file_faults_total", Help: "Times the policy file had become one that is not taken."}),
		lost:     prometheus.NewCounter(prometheus.CounterOpts{Name: "breakwater_policy_records_lost_total", Help: "Decisions and pulls that were not written down: the database could not keep up, or failed."}),
		exempted: prometheus.NewCounter(prometheus.CounterOpts{Name: "breakwater_policy_exempted_total", Help: "Decisions in spite of which somebody was let through who may push to the repository."}),
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.faults, m.lost, m.exempted)
	gauge := func(name, help string, value func(*document) int) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "breakwater_policy_" + name, Help: help}, func() float64 {
			if doc := j.current.Load(); doc != nil {
				return float64(value(doc))
			}
			return 0
		}))
	}
	gauge("revision", "Revision of the policy in use, 0 for none.", func(d *document) int { return int(d.Revision) })
	gauge("epoch", "Epoch of the policy in use, as nodes know it.", func(d *document) int { return int(d.Epoch) })
	gauge("exceptions_lapsing", "Exceptions of the policy that expire within 14 days.", func(d *document) int { return len(d.bundle.Lapsing(j.o.Now(), lapsingWithin)) })
	return m
}
