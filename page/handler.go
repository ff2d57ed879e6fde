package page

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// policy lets pages use nothing but what comes from here: what is in an index
// is other people's text.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// ServeHTTP answers requests for what Owns says is this package's.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	name := homeName
	if r.URL.Path != "/" {
		name = strings.TrimPrefix(r.URL.Path, Prefix)
	}
	if a, ok := assets[name]; ok {
		h.Set("Cache-Control", "no-cache")
		answer(w, r, http.StatusOK, a.contentType, a.etag, a.body)
		return
	}
	p.servePage(w, r, name)
}

func (p *Page) servePage(w http.ResponseWriter, r *http.Request, name string) {
	l := linksFrom(name, false)
	health := p.health()
	c := p.current(r.Context())
	w.Header().Set("Cache-Control", "no-cache")
	if name == healthName && health != nil {
		p.send(w, r, http.StatusOK, "", c, view{links: l, Title: "Health", Section: healthName, Template: "health", Health: health})
		return
	}
	if c == nil {
		p.send(w, r, http.StatusServiceUnavailable, "", nil, view{links: l, Title: "Not read yet", Template: "unread", Health: health})
		return
	}
	etag := p.etag(c, health)
	if matches(r, etag) {
		answer(w, r, http.StatusNotModified, "", etag, nil) // without making the page
		return
	}
	v, ok := p.view(c, l, name, r.URL.Query())
	if !ok {
		v, etag = view{Title: "Not found", Template: "missing"}, ""
	}
	v.links, v.Health = l, health
	status := http.StatusOK
	if !ok {
		status = http.StatusNotFound
	}
	p.send(w, r, status, etag, c, v)
}

// etag stands for all that pages show but for their address.
func (p *Page) etag(c *catalogue, h *Health) string {
	text := c.key + " " + p.opts.Version + " " + p.opts.Cache + " " + p.opts.URL
	if h != nil && h.trouble() {
		text += fmt.Sprint(" ", h.Succeeded, h.RegistryUnwell, h.Err)
	}
	sum := sha256.Sum256([]byte(text))
	return strconv.Quote(hex.EncodeToString(sum[:12]))
}

func (p *Page) health() *Health {
	if p.opts.Health == nil {
		return nil
	}
	h := p.opts.Health()
	return &h
}

// trouble reports whether all pages should say that something is wrong.
func (h *Health) trouble() bool { return h.Err != nil || h.RegistryUnwell }

func (p *Page) send(w http.ResponseWriter, r *http.Request, status int, etag string, c *catalogue, v view) {
	body, err := p.render(c, v)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	answer(w, r, status, "text/html; charset=utf-8", etag, body)
}

func answer(w http.ResponseWriter, r *http.Request, status int, contentType, etag string, body []byte) {
	h := w.Header()
	if etag != "" {
		h.Set("ETag", etag)
		if matches(r, etag) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that went away needs no answer
	}
}

func matches(r *http.Request, etag string) bool {
	for tag := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
		if strings.TrimPrefix(strings.TrimSpace(tag), "W/") == etag {
			return true
		}
	}
	return false
}
