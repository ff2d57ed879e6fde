package registry

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// connections that stay open between transfers; uploads and index reads of
// one run share them.
const idleConnections = 64

// NewTransport returns a transport as Open makes one for each repository, to
// be shared by many. Nothing in it belongs to a repository or to a user:
// credentials are in the requests.
//
// With publicOnly it connects to addresses of the public Internet only,
// wherever a name, a redirect or a registry's token service leads, and goes
// there directly: what an HTTP proxy would connect to cannot be told here.
func NewTransport(publicOnly bool) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = idleConnections
	t.DisableCompression = true // bodies are digests' subjects
	t.WriteBufferSize = 64 << 10
	t.ReadBufferSize = 64 << 10
	// a dead HTTP/2 connection must be left before the stall guard fires:
	// a request that is cancelled leaves it in place for the next try
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: stallTimeout / 4, PingTimeout: stallTimeout / 4}
	if publicOnly {
		d := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, Control: refusePrivate}
		t.DialContext, t.Proxy = d.DialContext, nil
	}
	return t
}

// refusePrivate is asked about each address before it is connected to, after
// its name has been resolved, so that no name stands for another address a
// moment later.
func refusePrivate(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || !public(ap.Addr()) {
		return permanentError{fmt.Errorf("%s is not a public address, and its registry was not named in full", address)}
	}
	return nil
}

// special are addresses that lead elsewhere than to the public Internet, or
// stand for others that may, and that package netip does not know (IANA's
// registries of special-purpose addresses).
var special = prefixes("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
	"203.0.113.0/24", "240.0.0.0/4", "::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32",
	"2002::/16", "3fff::/20", "5f00::/16", "fec0::/10")

func prefixes(all ...string) []netip.Prefix {
	ps := make([]netip.Prefix, len(all))
	for i, s := range all {
		ps[i] = netip.MustParsePrefix(s)
	}
	return ps
}

func public(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// Host returns the host, with its port if it has one, of the registry that a
// cache's name names; "" for a directory and for what is no such name.
func Host(cache string) string {
	repo, err := parseRepository(cache)
	if err != nil || strings.HasPrefix(cache, layoutScheme) {
		return ""
	}
	return repo.RegistryStr()
}

// Plain reports whether a cache is reached without TLS: because its name says
// so, or because its registry's host is a loopback or a private address.
func Plain(cache string) bool {
	repo, err := parseRepository(cache)
	return err == nil && repo.Scheme() == "http"
}

// Loopback reports whether a registry's host, with or without a port, is this
// machine by its name.
func Loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return a.Unmap().IsLoopback()
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}
