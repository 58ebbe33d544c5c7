package judge

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// lapsingWithin is how long ahead is warned of the end of exceptions.
const lapsingWithin = 14 * 24 * time.Hour

type metrics struct {
	bootstrapped, refused, scanFailures, unseen, unwritten, untold prometheus.Counter
}

func newMetrics(j *Judge, reg prometheus.Registerer) *metrics {
	m := &metrics{
		bootstrapped: counter("bootstrapped_pulls_total", "Pulls decided without any policy, as policy.bootstrap says. Anything but 0 on a node that should have one is a reason to look."),
		refused:      counter("hub_refused_total", "What the hub sent and was not taken: not signed by a trusted key, or older than what is held."),
		unseen:       counter("unseen_total", "Pulls of images that could not be looked at (private, or nobody answers), and that a rule wanted something of."),
		scanFailures: counter("scan_failures_total", "Times the hub could not be asked for the scans of an image."),
		unwritten:    counter("log_failures_total", "Decisions that could not be written to the decision log on disk."),
		untold:       counter("untold_total", "Decisions that the hub was never told of: too many were made while it could not be told, or it does not take them."),
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.bootstrapped, m.refused, m.scanFailures, m.unseen, m.unwritten, m.untold)
	gauge := func(name, help string, value func(*held) float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "breakwater", Subsystem: "policy", Name: name, Help: help}, func() float64 {
			h := j.held.Load()
			if h == nil {
				h = &held{}
			}
			return value(h)
		}))
	}
	gauge("bootstrap", "1 while this node has no policy to judge by.", func(h *held) float64 { return truth(h.bundle == nil) })
	gauge("revision", "Revision of the policy that is judged by, 0 for none.", func(h *held) float64 {
		if h.bundle == nil {
			return 0
		}
		return float64(h.bundle.Revision())
	})
	gauge("epoch", "Epoch of the hub's policy that is judged by.", func(h *held) float64 { return float64(h.mark.Epoch) })
	gauge("age_seconds", "How long the hub has not confirmed the policy that is judged by; 0 for none and for a file.", func(h *held) float64 {
		if h.confirmedAt.IsZero() {
			return 0
		}
		return max(0, j.o.Now().Sub(h.confirmedAt).Seconds())
	})
	gauge("stale", "1 while the policy is older than its maxPolicyAge.", func(*held) float64 { return truth(j.State().Stale) })
	gauge("exceptions_lapsing", "Exceptions of the policy that expire within 14 days.", func(h *held) float64 {
		if h.bundle == nil {
			return 0
		}
		return float64(len(h.bundle.Lapsing(j.o.Now(), lapsingWithin)))
	})
	return m
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "breakwater", Subsystem: "policy", Name: name, Help: help})
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
