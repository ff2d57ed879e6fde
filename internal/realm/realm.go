// Package realm lets a registry at a private address have its token service at
// another port of the same address.
package realm

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
)

// Transport leads requests to a token service that is at another port of a
// registry's address. go-containerregistry refuses realms at private
// addresses, because any registry could lead its clients into their networks with
// them; but this address is the one that the user has named. So the challenge is
// given a realm at the registry itself, and what goes there is led back.
//
// Realms elsewhere are left as they are, and so are those of registries that are
// named otherwise. It is safe for concurrent use.
type Transport struct {
	Next http.RoundTripper
	// Registry is the registry's host, with its port if it has one.
	Registry string

	real atomic.Pointer[url.URL]
}

// realmPath stands for the path of the real realm. No registry has it.
const realmPath = "/.nixoci/realm"

var realmRE = regexp.MustCompile(`(?i)(\brealm=")([^"]*)"`)

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	led := ""
	if real := t.real.Load(); real != nil && req.URL.Host == t.Registry && req.URL.Path == realmPath {
		u := *real
		u.RawQuery = strings.Trim(u.RawQuery+"&"+req.URL.RawQuery, "&")
		req = req.Clone(req.Context())
		req.URL, req.Host, led = &u, u.Host, u.Host
	}
	resp, err := t.Next.RoundTrip(req)
	if err != nil && led != "" {
		err = fmt.Errorf("asking the token service at %s: %w", led, err)
	}
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	challenges := resp.Header.Values("WWW-Authenticate")
	for i, c := range challenges {
		challenges[i] = realmRE.ReplaceAllStringFunc(c, func(param string) string {
			m := realmRE.FindStringSubmatch(param)
			u, err := url.Parse(m[2])
			if err != nil || u.Host == t.Registry || !sameAddress(u.Host, t.Registry) {
				return param
			}
			t.real.Store(u)
			return m[1] + u.Scheme + "://" + t.Registry + realmPath + `"`
		})
	}
	return resp, nil
}

// sameAddress reports whether two hosts, with or without ports, are one IP
// address, written as such.
func sameAddress(a, b string) bool {
	x, errA := netip.ParseAddr((&url.URL{Host: a}).Hostname())
	y, errB := netip.ParseAddr((&url.URL{Host: b}).Hostname())
	return errA == nil && errB == nil && x == y
}
