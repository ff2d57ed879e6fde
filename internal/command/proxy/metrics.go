package proxy

import (
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/org/nixoci-action/internal/cli"
)

const metricPrefix = "nixoci_proxy_"

// measured gathers what is measured, for Prometheus.
func (o *opener) measured() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: metricPrefix + "build_info", Help: "Always 1; the labels tell which program this is.",
		ConstLabels: prometheus.Labels{"version": cli.Version(), "goversion": runtime.Version()},
	})
	info.Set(1)
	reg.MustRegister(o.metrics, info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if o.disk != nil {
		reg.MustRegister(o.disk)
	}
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: metricPrefix + "registry_requests_total", Help: "HTTP requests to the registries of the caches that --cache names.",
	}, func() float64 {
		n := int64(0)
		for _, repo := range o.repos {
			if r, ok := repo.(interface{ Requests() int64 }); ok {
				n += r.Requests()
			}
		}
		return float64(n)
	}))
	return reg
}

func metricsHandler(reg *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}
