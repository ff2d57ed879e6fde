package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/org/nixoci-action/internal/pieces"
	"github.com/org/nixoci-action/internal/reply"
	"github.com/org/nixoci-action/internal/storepath"
)

// UpstreamNARs says how clients get NARs that an upstream cache has.
type UpstreamNARs string

const (
	// RedirectNARs sends clients to the upstream. It is the zero value's
	// meaning, too.
	RedirectNARs UpstreamNARs = "redirect"
	// StreamNARs passes the NARs on, for clients that reach only the proxy.
	StreamNARs UpstreamNARs = "stream"
)

// prefixUpstream begins the URLs of upstream NARs:
// upstream/<upstream>/<hash part>-<tag>.nar. They are ours in both modes. An
// absolute URL in a narinfo would not survive Nix 2.34, which sorts and encodes
// the query anew, and a signed one would be kept by Nix for a month. And they
// say of which path the NAR is, not where it is: else anybody could make the
// proxy fetch anything.
const prefixUpstream = "/upstream/"

// upstreamNAR is where an upstream has the NAR of a store path.
type upstreamNAR struct {
	url   string
	tag   string // of its contents
	until time.Time
}

// foundTTL is how long it is remembered where a NAR is. Nix asks for it soon
// after the narinfo, and signed URLs do not live long.
const foundTTL = 5 * time.Minute

// maxFound bounds how many are remembered.
const maxFound = 10_000

// foundNARs remembers where NARs are, by upstream and hash part, so that most
// of them cost no second look-up. The zero value is empty.
type foundNARs struct {
	mu sync.Mutex
	at map[string]upstreamNAR
}

func (f *foundNARs) add(key string, nar upstreamNAR) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at == nil || len(f.at) >= maxFound {
		f.at = map[string]upstreamNAR{}
	}
	nar.until = time.Now().Add(foundTTL)
	f.at[key] = nar
}

func (f *foundNARs) get(key string) (upstreamNAR, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	nar, ok := f.at[key]
	return nar, ok && time.Now().Before(nar.until)
}

func upstreamID(base *url.URL) string { return shortHash(base.String()) }

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// ownURL gives a narinfo that rewriteNarinfo has made our URL. The tag in it
// is of the NAR's hash: an upstream may have built the path anew, and Nix, who
// keeps narinfos for a month, must not get another NAR than it was promised.
func ownURL(text, id, hashPart string) (string, upstreamNAR) {
	var nar upstreamNAR
	var out strings.Builder
	rest := ""
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch key {
		case "URL":
			nar.url, rest = value, out.String()
			out.Reset()
			continue
		case "NarHash":
			nar.tag = shortHash(value)
		}
		out.WriteString(line)
	}
	return rest + "URL: " + prefixUpstream[1:] + id + "/" + hashPart + "-" + nar.tag + ".nar\n" + out.String(), nar
}

// serveNAR answers a request for the NAR of an upstream.
func (u *Upstreams) serveNAR(w http.ResponseWriter, r *http.Request, path, storeDir string) {
	id, file, _ := strings.Cut(strings.TrimPrefix(path, prefixUpstream), "/")
	name, ok := strings.CutSuffix(file, ".nar")
	hashPart, tag, _ := strings.Cut(name, "-")
	if !ok || !storepath.ValidHashPart(hashPart) {
		reply.NotFound(w)
		return
	}
	for _, c := range u.caches {
		if c.id != id {
			continue
		}
		nar, ok := u.find(r.Context(), c, hashPart, storeDir)
		switch {
		case !ok || nar.tag != tag:
		case u.mode != StreamNARs:
			w.Header().Set("Location", nar.url)
			w.WriteHeader(http.StatusFound)
			return
		default:
			u.stream(w, r, c, nar)
			return
		}
	}
	reply.NotFound(w)
}

// find returns where the NAR is.
func (u *Upstreams) find(ctx context.Context, c *upstream, hashPart, storeDir string) (upstreamNAR, bool) {
	if nar, ok := u.nars.get(c.id + hashPart); ok {
		return nar, true
	}
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	if text, err := u.askOne(ctx, c, hashPart, storeDir); text == "" || err != nil {
		return upstreamNAR{}, false
	}
	return u.nars.get(c.id + hashPart)
}

// stream passes a NAR on. As with our own, the status waits until the first
// bytes are in hand. What comes is not compared with the narinfo's FileHash:
// Nix does not look at that, and there are caches that have it wrong; it checks
// the NAR itself.
func (u *Upstreams) stream(w http.ResponseWriter, r *http.Request, c *upstream, nar upstreamNAR) {
	if !c.breaker.Allow() {
		reply.NotFound(w)
		return
	}
	ctx, end := context.WithCancelCause(r.Context())
	defer end(context.Canceled)
	buf := pieces.Get()
	defer pieces.Put(buf)

	slow := time.AfterFunc(u.firstByte, func() { end(errUpstreamSlow) })
	defer slow.Stop()
	resp, n, err := u.begin(ctx, r, nar, buf[:])
	if resp != nil {
		defer resp.Body.Close()
	}
	slow.Stop()
	if r.Context().Err() != nil { // says nothing about the upstream
		reply.NotFound(w)
		return
	}
	done := errors.Is(err, io.EOF)
	ok := err == nil || done
	if c.breaker.Report(ok || errors.Is(err, errUpstreamMiss)) {
		u.log.Warn("an upstream cache does not deliver; what it has is not found for a while", "upstream", c.base.String(), "error", causeOf(ctx, err))
	}
	if !ok {
		reply.NotFound(w)
		return
	}
	passHeaders(w.Header(), resp)
	w.WriteHeader(resp.StatusCode)
	rc := http.NewResponseController(w)
	for {
		_ = rc.SetWriteDeadline(time.Now().Add(reply.Stall))
		if _, err := w.Write(buf[:n]); err != nil || done {
			return
		}
		slow.Reset(u.stall)
		n, err = readPiece(resp.Body, buf[:])
		slow.Stop()
		if done = errors.Is(err, io.EOF); err != nil && !done {
			if r.Context().Err() == nil {
				u.log.Warn("the NAR of an upstream cache broke off", "upstream", c.base.String(), "error", causeOf(ctx, err))
			}
			panic(http.ErrAbortHandler) // the end of the answer must not look like the NAR's
		}
	}
}

var (
	errUpstreamSlow = errors.New("the upstream did not deliver in time")
	errUpstreamMiss = errors.New("the upstream has no such NAR")
)

// begin asks for the NAR and reads the first piece of it. The error is io.EOF
// if that is all. The caller closes the body of the answer, if there is one.
func (u *Upstreams) begin(ctx context.Context, r *http.Request, nar upstreamNAR, buf []byte) (*http.Response, int, error) {
	req, err := http.NewRequestWithContext(ctx, r.Method, nar.url, nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("User-Agent", u.agent)
	req.Header.Set("Accept-Encoding", "identity")
	asked := r.Header.Get("Range")
	if asked != "" && r.Header.Get("If-Range") == "" { // there is no validator that could match
		req.Header.Set("Range", asked)
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	partial := req.Header.Get("Range") != ""
	switch resp.StatusCode {
	case http.StatusOK:
		if partial { // Nix would give up, and we announced ranges because the upstream did
			return resp, 0, errUpstreamMiss
		}
	case http.StatusPartialContent:
		if !partial || resp.Header.Get("Content-Range") == "" {
			return resp, 0, fmt.Errorf("the upstream answered %s without a need", resp.Status)
		}
	case http.StatusRequestedRangeNotSatisfiable, http.StatusNotFound, http.StatusGone, http.StatusForbidden, http.StatusUnauthorized:
		return resp, 0, errUpstreamMiss
	default:
		return resp, 0, fmt.Errorf("the upstream answered %s", resp.Status)
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return resp, 0, fmt.Errorf("the upstream sends a NAR with the Content-Encoding %q", e)
	}
	if r.Method == http.MethodHead {
		return resp, 0, io.EOF
	}
	n, err := readPiece(resp.Body, buf)
	return resp, n, err
}

// readPiece fills p, or returns io.EOF with what is left.
func readPiece(body io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = body.Read(p[n:])
		n += m
	}
	return n, err
}

func passHeaders(h http.Header, resp *http.Response) {
	h.Set("Content-Type", reply.TypeNAR)
	for _, key := range []string{"Accept-Ranges", "Content-Range"} {
		if v := resp.Header.Get(key); v != "" {
			h.Set(key, v)
		}
	}
	if resp.ContentLength >= 0 {
		h.Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
}

// causeOf is why a transfer that we ended was ended.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		return cause
	}
	return err
}
