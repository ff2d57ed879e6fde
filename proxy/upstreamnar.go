package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/pieces"
	"github.com/org/nixoci-action/internal/reply"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/upstream"
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

// upstreamNAR is where an upstream has the NAR of a store path.
type upstreamNAR struct {
	url string
	tag string // of its contents
}

// foundTTL is how long it is remembered where a NAR is, so that most of them cost
// no second look-up. Nix asks for it soon after the narinfo, and signed URLs do
// not live long.
const foundTTL = 5 * time.Minute

// maxFound bounds how many are remembered.
const maxFound = 10_000

// ownFile is the NAR of an upstream among our files. It is ours in both modes. An
// absolute URL in a narinfo would not survive Nix 2.34, which sorts and encodes
// the query anew, and a signed one would be kept by Nix for a month. And it says
// of which path the NAR is, not where it is: else anybody could make the proxy
// fetch anything. The tag is of the NAR's hash: an upstream may have built the
// path anew, and Nix, who keeps narinfos for a month, must not get another NAR
// than it was promised.
func ownFile(id, hashPart, tag string) bincache.File {
	return bincache.File{Kind: bincache.UpstreamNAR, Name: id, Detail: hashPart + "-" + tag}
}

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// serveNAR answers a request for the NAR of an upstream.
func (u *Upstreams) serveNAR(w http.ResponseWriter, r *http.Request, f bincache.File, storeDir string) {
	hashPart, tag, _ := strings.Cut(f.Detail, "-")
	if !storepath.ValidHashPart(hashPart) {
		reply.NotFound(w)
		return
	}
	for _, c := range u.caches {
		if c.id != f.Name {
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
func (u *Upstreams) find(ctx context.Context, c *namedUpstream, hashPart, storeDir string) (upstreamNAR, bool) {
	if nar, ok := u.nars.Get(c.id + hashPart); ok {
		return nar, true
	}
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	if text, err := u.askOne(ctx, c, hashPart, storeDir); text == "" || err != nil {
		return upstreamNAR{}, false
	}
	return u.nars.Get(c.id + hashPart)
}

// stream passes a NAR on. As with our own, the status waits until the first
// bytes are in hand.
func (u *Upstreams) stream(w http.ResponseWriter, r *http.Request, c *namedUpstream, nar upstreamNAR) {
	if !c.Allow() {
		reply.NotFound(w)
		return
	}
	ctx, end := context.WithCancelCause(r.Context())
	defer end(context.Canceled)
	buf := pieces.Get()
	defer pieces.Put(buf)

	slow := time.AfterFunc(u.firstByte, func() { end(errUpstreamSlow) })
	defer slow.Stop()
	resp, n, err := begin(ctx, r, c, nar, buf[:])
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
	if c.Report(ok || errors.Is(err, upstream.ErrMiss)) {
		u.log.Warn("an upstream cache does not deliver; what it has is not found for a while", "upstream", c.String(), "error", causeOf(ctx, err))
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
				u.log.Warn("the NAR of an upstream cache broke off", "upstream", c.String(), "error", causeOf(ctx, err))
			}
			panic(http.ErrAbortHandler) // the end of the answer must not look like the NAR's
		}
	}
}

var errUpstreamSlow = errors.New("the upstream did not deliver in time")

// begin asks for the NAR and reads the first piece of it. The error is io.EOF
// if that is all. The caller closes the body of the answer, if there is one.
func begin(ctx context.Context, r *http.Request, c *namedUpstream, nar upstreamNAR, buf []byte) (*http.Response, int, error) {
	asked := r.Header.Get("Range")
	if r.Header.Get("If-Range") != "" { // there is no validator that could match
		asked = ""
	}
	resp, err := c.NAR(ctx, r.Method, nar.url, asked)
	if err != nil {
		return nil, 0, err
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
