package proxy

import (
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/httpd"
)

// listen opens the sockets, or takes those that the service manager passes.
func listen(c config, getenv func(string) string) ([]net.Listener, error) {
	listeners, err := httpd.Inherited(getenv)
	if err != nil {
		return nil, err
	}
	addrs := c.listen
	if len(addrs) == 0 && len(listeners) == 0 {
		addrs = []string{defaultListen}
	}
	own, err := httpd.Listen(addrs)
	if err != nil {
		return nil, errors.Join(hint.Wrap(err, listenHint(err)), httpd.Close(listeners))
	}
	return append(listeners, own...), nil
}

func listenHint(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "is another proxy running? --listen 127.0.0.1:0 picks a free port"
	case errors.Is(err, fs.ErrPermission):
		return "ports below 1024 are for root: choose a higher one, or have systemd open the socket"
	}
	return ""
}

// openAccessLog returns nil if none is wanted.
func openAccessLog(c config, stderr io.Writer, log *slog.Logger) (*httpd.AccessLog, error) {
	name := slog.String("cache", strings.Join(c.caches, ",")) // with --allow the path has the name
	switch c.accessLog {
	case accessLogOff:
		return nil, nil
	case "-":
		return httpd.NewAccessLog(stderr, name), nil
	}
	return httpd.OpenAccessLog(c.accessLog, log, name)
}

// newService completes the options of the server with what flags say.
func newService(c config, o httpd.Options, reg *prometheus.Registry) (*httpd.Server, error) {
	o.MaxConnections, o.Grace, o.Drain, o.Hosts = c.maxConnections, c.grace, c.drain, c.hosts
	o.Metrics = metricsHandler(reg)
	if c.tlsCert != "" {
		var err error
		if o.Certificate, err = httpd.LoadCertificate(c.tlsCert, c.tlsKey); err != nil {
			return nil, err
		}
	}
	srv := httpd.New(o)
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: metricPrefix + "connections", Help: "Connections that are open.",
	}, func() float64 { return float64(srv.Connections()) }))
	return srv, nil
}
