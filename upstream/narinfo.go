package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/storepath"
)

// Allow reports whether the cache may be asked with Narinfo or NAR, which is not
// so while it is unwell. Whoever asked it calls Report, unless the result says
// nothing about it.
func (u *Cache) Allow() bool { return u.health.breaker.Allow() }

// Report tells how a request went. It returns true when the cache is taken to be
// unwell from now on.
func (u *Cache) Report(ok bool) (unwell bool) { return u.health.breaker.Report(ok) }

// Narinfo returns the narinfo of a path, of which everything is as it is in the
// cache, but for the URL, which is absolute; nil if the cache does not have it.
// It asks once, with GET. An answer that would make Nix fail, instead of look
// elsewhere, is an error that wraps ErrUnusable: a text that is no narinfo, such as
// a login page, one with a field that Nix cannot parse, and one of another path or
// store.
func (u *Cache) Narinfo(ctx context.Context, hashPart, storeDir string) (bincache.Fields, error) {
	req, err := u.request(ctx, http.MethodGet, u.narinfoURL(hashPart))
	if err != nil {
		return nil, err
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
	case absent(resp.StatusCode):
		_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // keeps the connection
		return nil, nil
	default:
		return nil, fmt.Errorf("the upstream answered %s", resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, bincache.MaxNarinfo+1))
	if err != nil {
		return nil, err
	}
	if len(body) > bincache.MaxNarinfo {
		return nil, fmt.Errorf("the narinfo is longer than %d bytes", bincache.MaxNarinfo) // and may have no end
	}
	fields, err := checkNarinfo(string(body), u.base, hashPart, storeDir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	return fields, nil
}

// ErrUnusable means that a cache has answered about one path with something that is
// of no use. That says nothing about other paths.
var ErrUnusable = errors.New("the upstream's answer is no narinfo of the path")

// ErrMiss means that the cache does not have a NAR, or not in the part that was
// asked for.
var ErrMiss = errors.New("the upstream has no such NAR")

// NAR asks for the NAR at the URL that the cache's narinfo has, with GET or HEAD,
// and for a part of it if byteRange is a Range header and not empty. The status
// is 200, or 206 if a part was asked for. Else there is an error, which wraps
// ErrMiss where the answer says nothing bad of the cache. The caller closes the
// body. What comes is not compared with the narinfo's FileHash: Nix does not look
// at that, and there are caches that have it wrong; it checks the NAR itself.
func (u *Cache) NAR(ctx context.Context, method, at, byteRange string) (*http.Response, error) {
	req, err := u.request(ctx, method, at)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	if byteRange != "" {
		req.Header.Set("Range", byteRange)
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := checkNAR(resp, byteRange != ""); err != nil {
		_ = resp.Body.Close() // nothing is left to lose
		return nil, err
	}
	return resp, nil
}

func checkNAR(resp *http.Response, partial bool) error {
	switch status := resp.StatusCode; {
	case status == http.StatusOK:
		if partial { // Nix would give up, and we announced ranges because the upstream did
			return ErrMiss
		}
	case status == http.StatusPartialContent:
		if !partial || resp.Header.Get("Content-Range") == "" {
			return fmt.Errorf("%w: it answered %s without a need", ErrMiss, resp.Status)
		}
	case status == http.StatusRequestedRangeNotSatisfiable, absent(status):
		return ErrMiss
	default:
		return fmt.Errorf("the upstream answered %s", resp.Status)
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return fmt.Errorf("%w without the Content-Encoding %q", ErrMiss, e)
	}
	return nil
}

// absent tells the answers that Nix takes for "not found". Has does not count 401
// among them: with other credentials the path might be there.
func absent(status int) bool {
	switch status {
	case http.StatusNotFound, http.StatusGone, http.StatusForbidden, http.StatusUnauthorized:
		return true
	}
	return false
}

// checkNarinfo reads a narinfo, and makes the URL in it absolute.
func checkNarinfo(text string, base *url.URL, hashPart, storeDir string) (bincache.Fields, error) {
	fields, err := bincache.ParseNarinfo(text)
	if err != nil {
		return nil, err
	}
	if p, err := storepath.Parse(fields.Get("StorePath")); err != nil || p.HashPart != hashPart || p.Dir != storeDir {
		return nil, fmt.Errorf("the narinfo is of %s", fields.Get("StorePath"))
	}
	at, err := base.Parse(fields.Get("URL"))
	if err != nil || at.Host == "" || at.Scheme != "http" && at.Scheme != "https" {
		return nil, errors.New("the narinfo has no usable URL")
	}
	fields.Set("URL", at.String())
	return fields, nil
}
