package enforce

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/policy"
)

type metrics struct {
	decisions *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "breakwater_policy_decisions_total",
		Help: "Answers of rules in decisions that were made (not in those remembered), by the rule's policy, its mode and what it asked for; without a policy: decisions that no rule had a part in.",
	}, []string{"policy", "rule", "mode", "outcome"})}
	if reg != nil {
		reg.MustRegister(m.decisions)
	}
	return m
}

// count counts each rule's answer; the names are those of the document, so
// they are few.
func (m *metrics) count(d policy.Decision) {
	if len(d.Policies) == 0 {
		m.decisions.WithLabelValues("", "", string(d.Mode), string(d.Outcome)).Inc()
	}
	for _, p := range d.Policies {
		for _, r := range p.Rules {
			m.decisions.WithLabelValues(p.Name, r.Name, string(p.Mode), string(r.Outcome)).Inc()
		}
	}
}
