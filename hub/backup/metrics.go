package backup

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// scheduleMetrics say whether backups are made: alert on the age of the last.
type scheduleMetrics struct {
	last, size, took prometheus.Gauge
	failed           prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) scheduleMetrics {
	m := scheduleMetrics{
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "breakwater_hub_backup_last_timestamp_seconds", Help: "When the newest backup in the storage was made, 0 for none; of the hub that makes them.",
		}),
		size: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "breakwater_hub_backup_last_bytes", Help: "Size of the newest backup, compressed.",
		}),
		took: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "breakwater_hub_backup_last_duration_seconds", Help: "How long the last backup made by this process took.",
		}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "breakwater_hub_backup_failures_total", Help: "Scheduled backups that could not be made.",
		}),
	}
	reg.MustRegister(m.last, m.size, m.took, m.failed)
	return m
}

// seen notes the newest backup there is.
func (m *scheduleMetrics) seen(at time.Time, bytes int64) {
	m.last.Set(float64(at.UnixMicro()) / 1e6)
	m.size.Set(float64(bytes))
}
