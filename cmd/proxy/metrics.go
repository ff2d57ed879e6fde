package main

import (
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/proxy"
)

const metricPrefix = "nixoci_proxy_"

// measured gathers what is measured, for Prometheus.
func measured(s *proxy.Server, repo registry.Repository, disk *proxy.DiskBlobs) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: metricPrefix + "build_info", Help: "Always 1; the labels tell which program this is.",
		ConstLabels: prometheus.Labels{"version": cli.Version(), "goversion": runtime.Version()},
	})
	info.Set(1)
	reg.MustRegister(s, info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if disk != nil {
		reg.MustRegister(disk)
	}
	if r, ok := repo.(interface{ Requests() int64 }); ok {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: metricPrefix + "registry_requests_total", Help: "HTTP requests to the registry.",
		}, func() float64 { return float64(r.Requests()) }))
	}
	return reg
}

func metricsHandler(reg *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}
