package proxy

import (
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/reply"
	"github.com/org/nixoci-action/internal/tally"
	"github.com/org/nixoci-action/proxy/push"
)

// metricPrefix starts the names of the metrics.
const metricPrefix = "nixoci_proxy_"

// Metrics measures a Service for Prometheus. Its labels have few values each,
// whatever clients ask for. One Metrics may be given to many Servers; their
// numbers are added up. It is safe for concurrent use.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
	counts   counts
	pushed   push.Counts

	service Service // set before the first Collect
}

// NewMetrics returns Metrics that have measured nothing. They are for the
// Options of each Server; Measure says of what they tell the state.
func NewMetrics() *Metrics {
	return &Metrics{
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

// Measure returns s with each request measured. It is called once, and before
// the first Collect.
func (m *Metrics) Measure(s Service) http.Handler {
	m.service = s
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sw := &reply.Writer{ResponseWriter: w}
		defer m.request(r, sw)()
		s.ServeHTTP(sw, r)
	})
}

// CountHits has the narinfos counted that u finds for a Union.
func (m *Metrics) CountHits(u *Upstreams) { u.Hits.Sum = &m.counts.upstreamHits }

// request measures a request until the returned function is called.
func (m *Metrics) request(r *http.Request, w *reply.Writer) func() {
	began, kind := time.Now(), kindOf(r)
	m.inFlight.Inc()
	return func() {
		m.inFlight.Dec()
		m.requests.WithLabelValues(kind, class(w.Status)).Inc()
		m.duration.WithLabelValues(kind).Observe(time.Since(began).Seconds())
	}
}

// kindOf tells what a request is for, be it below a cache's name or not.
func kindOf(r *http.Request) string {
	if r.Method == http.MethodPut {
		return "push"
	}
	_, f := bincache.Split(strings.TrimPrefix(r.URL.Path, "/"))
	switch f.Kind {
	case bincache.CacheInfo:
		return "cache-info"
	case bincache.NAR, bincache.UpstreamNAR:
		return "nar"
	case bincache.Narinfo:
		return "narinfo"
	case bincache.Listing, bincache.Log:
		return "document"
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
	value func(m *Metrics) float64
	label []string
}

func measured(kind prometheus.ValueType, name, help string, value func(m *Metrics) float64, labels ...string) measure {
	var names, values []string
	for i := 0; i < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	return measure{prometheus.NewDesc(metricPrefix+name, help, names, nil), kind, value, values}
}

func tallied(of func(c *counts) *tally.Counter) func(m *Metrics) float64 {
	return func(m *Metrics) float64 { return float64(of(&m.counts).Load()) }
}

// summed adds up what the open caches say.
func summed(of func(s *Server) float64) func(m *Metrics) float64 {
	return func(m *Metrics) float64 {
		sum := 0.0
		for _, s := range m.service.Servers() {
			sum += of(s)
		}
		return sum
	}
}

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue

	helpNarinfos = "Narinfos that caches were asked for, by where they were found. Of several caches that are served as one each counts that was asked."
)

var measures = []measure{
	measured(counter, "narinfos_total", helpNarinfos, tallied(func(c *counts) *tally.Counter { return &c.hits }), "result", "hit"),
	measured(counter, "narinfos_total", helpNarinfos, tallied(func(c *counts) *tally.Counter { return &c.upstreamHits }), "result", "upstream"),
	measured(counter, "narinfos_total", helpNarinfos, tallied(func(c *counts) *tally.Counter { return &c.misses }), "result", "miss"),
	measured(counter, "nars_total", "NARs, or parts of them, that were sent to their end.", tallied(func(c *counts) *tally.Counter { return &c.nars })),
	measured(counter, "nar_bytes_total", "Bytes of NARs that were sent.", tallied(func(c *counts) *tally.Counter { return &c.narBytes })),
	measured(counter, "nar_redirects_total", "NARs for which clients were sent to the registry's storage.", tallied(func(c *counts) *tally.Counter { return &c.redirects })),
	measured(counter, "nar_failures_total", "NARs that could not be sent for reasons on this side.", tallied(func(c *counts) *tally.Counter { return &c.narFailures })),
	measured(counter, "documents_total", "Listings and build logs that were sent.", tallied(func(c *counts) *tally.Counter { return &c.documents })),
	measured(counter, "document_failures_total", "Listings and build logs that could not be sent for reasons on this side.", tallied(func(c *counts) *tally.Counter { return &c.documentFailures })),
	measured(counter, "index_refresh_failures_total", "Times that a cache index could not be read.", tallied(func(c *counts) *tally.Counter { return &c.refreshFailures })),
	measured(counter, "pushed_paths_total", "Store paths that were pushed.", func(m *Metrics) float64 { return float64(m.pushed.Paths.Load()) }),
	measured(counter, "pushed_nars_total", "NARs that were pushed.", func(m *Metrics) float64 { return float64(m.pushed.NARs.Load()) }),
	measured(counter, "pushed_extras_total", "Listings, build logs and realisations that were pushed, for each path.", func(m *Metrics) float64 { return float64(m.pushed.Extras.Load()) }),
	measured(counter, "push_refusals_total", "Files that were refused when they were pushed.", func(m *Metrics) float64 { return float64(m.pushed.Refused.Load()) }),
	measured(gauge, "caches", "Caches that are open.", summed(func(*Server) float64 { return 1 })),
	measured(gauge, "index_entries", "Store paths in the indexes of the open caches.", summed(func(s *Server) float64 { return float64(s.Len()) })),
	measured(gauge, "unvouched_keys", "Public keys that the open caches name, and that none of their trusted keys vouches for: somebody who can write to a cache has put them there.", summed(func(s *Server) float64 {
		return float64(len(s.Keys().Unvouched))
	})),
	measured(gauge, "index_segments", "Segments of the indexes of the open caches.", summed(func(s *Server) float64 {
		if snap := s.snapshot.Load(); snap != nil {
			return float64(len(snap.Segments()))
		}
		return 0
	})),
	measured(gauge, "index_age_seconds", "Time since a registry last told what the index is, of the cache for which it is longest; since the start, if it never has.", func(m *Metrics) float64 {
		longest := time.Duration(0)
		for _, s := range m.service.Servers() {
			longest = max(longest, s.age())
		}
		return longest.Seconds()
	}),
	measured(gauge, "registry_unwell", "Caches whose NARs are not asked for at the moment because the registry does not deliver.", summed(func(s *Server) float64 {
		if s.registry.Open() {
			return 1
		}
		return 0
	})),
}

// age is how old what is known of the index may be.
func (s *Server) age() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refreshed.IsZero() {
		return time.Since(s.started)
	}
	return time.Since(s.refreshed)
}

var _ prometheus.Collector = (*Metrics)(nil)

// Describe is for Prometheus.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	m.requests.Describe(ch)
	m.duration.Describe(ch)
	m.inFlight.Describe(ch)
	for _, r := range measures {
		ch <- r.desc
	}
}

// Collect is for Prometheus.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.requests.Collect(ch)
	m.duration.Collect(ch)
	m.inFlight.Collect(ch)
	for _, r := range measures {
		ch <- prometheus.MustNewConstMetric(r.desc, r.kind, r.value(m), r.label...)
	}
}
