package push

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"strings"

	"github.com/org/nixoci-action/internal/reply"
)

// refusal is the answer to a push that is not taken. Nix prints its text.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// client tells clients apart: by their address. A token may be that of many.
func client(r *http.Request) string {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	return host
}

// authorize returns nil if the client may push: from this machine if no token
// is asked for, else with the token, as the password of HTTP Basic
// authentication or as a bearer token. A web server on this machine that passes
// requests on is this machine, whoever asks it.
func (p *Receiver) authorize(r *http.Request) error {
	// A page in a browser on this machine must not push, not even one from
	// this very server: that could be another server under a rebound name. Nix
	// sends neither header.
	if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
		return &refusal{http.StatusForbidden, "refused: pushing is not for browsers"}
	}
	if len(p.tokens) == 0 {
		if !reply.FromLoopback(r) {
			return &refusal{http.StatusForbidden, "refused: without --push-token-file the proxy takes pushes only from its own machine"}
		}
		return nil
	}
	_, token, ok := r.BasicAuth()
	if !ok {
		token, ok = strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	}
	if !ok {
		return &refusal{http.StatusUnauthorized, "a token is needed to push: put it into netrc as the password for this host"}
	}
	sum := sha256.Sum256([]byte(token))
	match := 0
	for _, t := range p.tokens {
		match |= subtle.ConstantTimeCompare(sum[:], t[:])
	}
	if match == 0 {
		return &refusal{http.StatusUnauthorized, "the token is not one that may push"}
	}
	return nil
}
