package cache

import "github.com/prometheus/client_golang/prometheus"

var (
	bytesDesc     = prometheus.NewDesc("breakwater_node_cache_bytes", "Bytes of the cache on the disk or set aside.", nil, nil)
	maxBytesDesc  = prometheus.NewDesc("breakwater_node_cache_max_bytes", "Bytes the cache may take.", nil, nil)
	objectsDesc   = prometheus.NewDesc("breakwater_node_cache_objects", "Whole blobs and manifests in the cache.", nil, nil)
	evictionsDesc = prometheus.NewDesc("breakwater_node_cache_evictions_total", "Objects evicted to make room.", nil, nil)
	offDesc       = prometheus.NewDesc("breakwater_node_cache_off", "1 while nothing new is kept because the disk failed or is full.", nil, nil)
	freeDesc      = prometheus.NewDesc("breakwater_node_cache_free_bytes", "Bytes free on the cache's file system.", nil, nil)
)

// collector gives a cache's [Stats] to Prometheus.
type collector struct{ c *Cache }

func (k collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{bytesDesc, maxBytesDesc, objectsDesc, evictionsDesc, offDesc, freeDesc} {
		ch <- d
	}
}

func (k collector) Collect(ch chan<- prometheus.Metric) {
	s := k.c.Stats()
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	gauge(bytesDesc, float64(s.Bytes))
	gauge(maxBytesDesc, float64(s.MaxBytes))
	gauge(objectsDesc, float64(s.Objects))
	ch <- prometheus.MustNewConstMetric(evictionsDesc, prometheus.CounterValue, float64(s.Evictions))
	off := 0.0
	if s.Off {
		off = 1
	}
	gauge(offDesc, off)
	if s.FreeBytes >= 0 {
		gauge(freeDesc, float64(s.FreeBytes))
	}
}
