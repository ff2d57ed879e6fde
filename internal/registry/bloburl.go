package registry

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// maxBlobURL is the longest URL of a blob that is passed on, in bytes.
const maxBlobURL = 8 << 10

// BlobURL returns the URL at the registry's storage to which it sends those
// who read the blob, as it came, and when that ends to be valid; zero if the
// URL does not tell. The URL is "" if the registry sends blobs itself, or if
// the URL is not for everybody: one that may need the registry's credentials,
// is less protected than the registry, or leads into a network of ours where
// the registry is not. It holds for GET, ranges included. If the blob is
// certainly absent, the error wraps ErrNotFound.
func (r *remote) BlobURL(ctx context.Context, digest v1.Hash) (at string, expires time.Time, err error) {
	q := request{
		method: http.MethodGet, url: r.endpoint("blobs", digest.String()),
		header: http.Header{"Range": {"bytes=0-0"}}, // who sends it himself sends little
		accept: []int{
			http.StatusOK, http.StatusPartialContent,
			http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect,
		},
		stay: true,
	}
	err = r.call(ctx, q, func(resp *http.Response) error {
		if location := resp.Header.Get("Location"); resp.StatusCode >= http.StatusMultipleChoices && r.public(location) {
			at, expires = location, expiry(location)
		}
		return nil
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("looking for the URL of blob %s: %w", digest, err)
	}
	return at, expires, nil
}

// public reports whether a redirect's target is for everybody.
func (r *remote) public(location string) bool {
	u, err := url.Parse(location)
	switch {
	case err != nil || len(location) > maxBlobURL || strings.ContainsFunc(location, func(c rune) bool { return c <= ' ' || c >= 0x7f }):
		return false
	case u.Host == "" || u.User != nil || u.Host == r.repo.RegistryStr(): // relative, or with the registry's own authorization
		return false
	case u.Scheme != "https" && (u.Scheme != "http" || r.repo.Scheme() != "http"):
		return false
	}
	return !inside(u.Hostname()) || inside((&url.URL{Host: r.repo.RegistryStr()}).Hostname())
}

// inside tells hosts that are only reached from this machine or network, as far
// as their names tell.
func inside(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	ip = ip.Unmap()
	return ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified()
}

// expiry reads when a signed URL ends to be valid, from the query parameters
// of the storage services that registries use; zero if there are none.
func expiry(location string) time.Time {
	u, err := url.Parse(location)
	if err != nil {
		return time.Time{}
	}
	q := u.Query()
	for _, name := range []string{"X-Amz-", "X-Goog-"} { // S3 and what speaks it, Google
		date, err := time.Parse("20060102T150405Z", q.Get(name+"Date"))
		lifetime, numErr := strconv.ParseInt(q.Get(name+"Expires"), 10, 32)
		if err == nil && numErr == nil {
			return date.Add(time.Duration(lifetime) * time.Second)
		}
	}
	if t, err := time.Parse(time.RFC3339, q.Get("se")); err == nil { // Azure
		return t
	}
	if s, err := strconv.ParseInt(q.Get("Expires"), 10, 40); err == nil && s > 0 { // CloudFront, S3's older form
		return time.Unix(s, 0)
	}
	return time.Time{}
}

// stay takes a redirect as the answer.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Renew forgets the credentials and the tokens made with them, so that the
// next request asks for both again. Requests that are under way go on.
func (r *remote) Renew() {
	r.session.login.Store(nil)
	r.deleting.login.Store(nil)
}
