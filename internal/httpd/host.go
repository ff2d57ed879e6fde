package httpd

import (
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
)

// foreign reports whether a request is for what not everybody may see, and comes
// under a name that is not known to be this server's. A page in a browser
// may have pointed its own name here to read along.
func (s *Server) foreign(r *http.Request) bool {
	private := r.URL.Path == PathMetrics && s.opts.Metrics != nil || s.opts.Private != nil && s.opts.Private(r)
	// With TLS a browser has compared the name with the certificate.
	return private && r.TLS == nil && !s.ownName(r.Host)
}

// ownName reports whether a Host is one that no other site can be called: an
// address, localhost, a name without a dot, that of this machine, or one of
// Options.Hosts.
func (s *Server) ownName(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if !strings.Contains(host, ".") || strings.HasSuffix(host, ".localhost") {
		return true
	}
	if name, err := os.Hostname(); err == nil && strings.EqualFold(name, host) {
		return true
	}
	return slices.ContainsFunc(s.opts.Hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

var hostRE = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*$`)

// CheckHost reports whether a name can be one of Options.Hosts: a host's, without
// a port.
func CheckHost(name string) bool { return hostRE.MatchString(name) }
