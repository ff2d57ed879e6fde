package proxy

import (
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metricPrefix starts the names of the metrics.
const metricPrefix = "nixoci_proxy_"

// metrics measures requests. Its labels have few values each, whatever clients
// ask for.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
}

func newMetrics() *metrics {
	return &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricPrefix + "requests_total", Help: "Requests that were answered, by what was asked for and by the status's first digit.",
		}, []string{"kind", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: metricPrefix + "request_duration_seconds", Help: "Time to the end of the answer, by what was asked for.",
			Buckets: []float64{.0001, .001, .01, .1, 1, 10, 60, 600},
		}, []string{"kind"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: metricPrefix + "requests_in_flight", Help: "Requests that are being answered.",
		}),
	}
}

// request measures a request until the returned function is called.
func (m *metrics) request(r *http.Request, w *statusWriter) func() {
	began, kind := time.Now(), kindOf(r.URL.Path)
	m.inFlight.Inc()
	return func() {
		m.inFlight.Dec()
		m.requests.WithLabelValues(kind, class(w.status)).Inc()
		m.duration.WithLabelValues(kind).Observe(time.Since(began).Seconds())
	}
}

func kindOf(path string) string {
	switch {
	case path == pathCacheInfo:
		return "cache-info"
	case strings.HasPrefix(path, prefixNAR):
		return "nar"
	case strings.HasSuffix(path, suffixNarinfo):
		return "narinfo"
	}
	return "other"
}

func class(status int) string {
	if status < 100 || status > 599 {
		return "none" // the client went away before there was an answer
	}
	return string('0'+rune(status/100)) + "xx"
}

// measure is a metric whose value is kept elsewhere.
type measure struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(s *Server) float64
	label []string
}

func measured(kind prometheus.ValueType, name, help string, value func(s *Server) float64, labels ...string) measure {
	var names, values []string
	for i := 0; i < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	return measure{prometheus.NewDesc(metricPrefix+name, help, names, nil), kind, value, values}
}

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue

	helpNarinfos = "Narinfos that were asked for, by where they were found."
)

var measures = []measure{
	measured(counter, "narinfos_total", helpNarinfos, func(s *Server) float64 { return float64(s.counts.hits.Load()) }, "result", "hit"),
	measured(counter, "narinfos_total", helpNarinfos, func(s *Server) float64 { return float64(s.counts.upstreamHits.Load()) }, "result", "upstream"),
	measured(counter, "narinfos_total", helpNarinfos, func(s *Server) float64 { return float64(s.counts.misses.Load()) }, "result", "miss"),
	measured(counter, "nars_total", "NARs, or parts of them, that were sent to their end.", func(s *Server) float64 { return float64(s.counts.nars.Load()) }),
	measured(counter, "nar_bytes_total", "Bytes of NARs that were sent.", func(s *Server) float64 { return float64(s.counts.narBytes.Load()) }),
	measured(counter, "nar_redirects_total", "NARs for which clients were sent to the registry's storage.", func(s *Server) float64 { return float64(s.counts.redirects.Load()) }),
	measured(counter, "nar_failures_total", "NARs that could not be sent for reasons on this side.", func(s *Server) float64 { return float64(s.counts.narFailures.Load()) }),
	measured(counter, "index_refresh_failures_total", "Times that the cache index could not be read.", func(s *Server) float64 { return float64(s.counts.refreshFailures.Load()) }),
	measured(gauge, "index_entries", "Store paths in the cache index.", func(s *Server) float64 { return float64(s.Len()) }),
	measured(gauge, "index_segments", "Segments of the cache index.", func(s *Server) float64 {
		if snap := s.snapshot.Load(); snap != nil {
			return float64(len(snap.Segments()))
		}
		return 0
	}),
	measured(gauge, "index_age_seconds", "Time since the registry last told what the index is; since the start, if it never has.", func(s *Server) float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.refreshed.IsZero() {
			return time.Since(s.started).Seconds()
		}
		return time.Since(s.refreshed).Seconds()
	}),
	measured(gauge, "registry_unwell", "1 while NARs are not asked for because the registry does not deliver.", func(s *Server) float64 {
		if s.registry.open() {
			return 1
		}
		return 0
	}),
}

var _ prometheus.Collector = (*Server)(nil)

// Describe is for Prometheus. A Server collects what it has done and the state
// of its index; the metrics of several in one registry need a label that tells
// them apart.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	s.metrics.requests.Describe(ch)
	s.metrics.duration.Describe(ch)
	s.metrics.inFlight.Describe(ch)
	for _, r := range measures {
		ch <- r.desc
	}
}

// Collect is for Prometheus.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	s.metrics.requests.Collect(ch)
	s.metrics.duration.Collect(ch)
	s.metrics.inFlight.Collect(ch)
	for _, r := range measures {
		ch <- prometheus.MustNewConstMetric(r.desc, r.kind, r.value(s), r.label...)
	}
}
