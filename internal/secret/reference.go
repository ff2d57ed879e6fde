package secret

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strings"
)

// Named reports whether what has this name is likely a secret: a variable, or a
// parameter of a URL.
func Named(name string) bool {
	name = strings.ToUpper(name)
	for _, word := range []string{"TOKEN", "JWT", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "PRIVATE_KEY", "SIGNING_KEY", "API_KEY", "APIKEY"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

// public are the parameters of flake references, none of which is a secret.
var public = map[string]bool{
	"dir": true, "ref": true, "rev": true, "narHash": true, "host": true, "submodules": true, "shallow": true, "allRefs": true,
	"exportIgnore": true, "lfs": true, "lastModified": true, "revCount": true, "unpack": true, "name": true, "verifyCommit": true,
	"keytype": true, "publicKey": true, "publicKeys": true, hidden: true,
}

// hidden is the parameter that stands for those that nobody knows.
const hidden = "hidden"

// Reference returns a flake reference, or another URL, without the secrets that
// it may have in it, and these: a password, a user without one (of HTTP it may be
// a token), and parameters that are not those of a flake. A short hash stands for
// the latter, because they may choose what a server sends, but for those with the
// name of a secret. What has none of these is returned as it is.
func Reference(ref string) (clean string, secrets []string) {
	rest, query, hasQuery := strings.Cut(ref, "?")
	scheme, address, isURL := strings.Cut(rest, "://")
	if isURL {
		host, path, hasPath := strings.Cut(address, "/")
		if at := strings.LastIndexByte(host, '@'); at >= 0 {
			user, password, both := strings.Cut(host[:at], ":")
			switch {
			case both:
				secrets = append(secrets, forms(password)...)
				host = host[at+1:]
			case !strings.HasSuffix(scheme, "ssh"):
				secrets = append(secrets, forms(user)...)
				host = host[at+1:]
			}
		}
		rest = scheme + "://" + host
		if hasPath {
			rest += "/" + path
		}
	}
	var kept, unknown []string
	for _, p := range strings.Split(query, "&") {
		name, value, _ := strings.Cut(p, "=")
		if public[name] || p == "" {
			kept = append(kept, p)
			continue
		}
		secrets = append(secrets, forms(value)...)
		if plain, err := url.QueryUnescape(name); err != nil || !Named(plain) && !strings.EqualFold(plain, "sig") && !strings.HasSuffix(strings.ToUpper(plain), "SIGNATURE") {
			unknown = append(unknown, p)
		}
	}
	if len(unknown) > 0 {
		sum := sha256.Sum256([]byte(strings.Join(unknown, "&")))
		kept = append(kept, hidden+"="+hex.EncodeToString(sum[:4]))
	}
	if query = strings.Join(kept, "&"); hasQuery && query != "" {
		rest += "?" + query
	}
	return rest, secrets
}

// forms are a part of a URL as it stands there, and what it means.
func forms(part string) []string {
	if plain, err := url.PathUnescape(part); err == nil && plain != part {
		return []string{part, plain}
	}
	return []string{part}
}
