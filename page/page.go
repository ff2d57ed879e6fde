// Package page shows people what a cache holds, as HTML made from a snapshot of
// the cache index. A proxy serves it at / and below /_page/. It can also be
// exported as static files.
//
// The package owns the catalogue that is searched, the views and their
// templates. It does not know the registry, the proxy, or where files are
// written.
package page

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/ui"
)

// Prefix is where everything but the first page is. No name of Nix's binary
// cache protocol begins with it.
const Prefix = "/_page/"

// Owns reports whether a request for a path is for this package.
func Owns(path string) bool { return path == "/" || strings.HasPrefix(path, Prefix) }

// Options configures New. Snapshot is required; the zero value of everything
// else works.
type Options struct {
	// Snapshot returns the index to show, or nil if none is known yet. It is
	// called for each request and must be safe for concurrent use.
	Snapshot func() *index.Snapshot
	// Cache is the cache's name, as --cache takes it.
	Cache string
	// Version is the program's.
	Version string
	// URL is the substituter that serves the cache; if empty, that of a proxy
	// with its defaults.
	URL string
	// Health tells how the server of the page is; nil for no such page. It is
	// called for each request and must be safe for concurrent use.
	Health func() Health
	// Idle is how long the catalogue is kept in memory after the last request;
	// if less than or equal to 0, five minutes.
	Idle time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Health is how a server that reads a cache is.
type Health struct {
	Started time.Time
	// Succeeded is when the index was last read, Tried when that was last
	// tried; zero if never.
	Succeeded, Tried time.Time
	// Err is the last try's error.
	Err error
	// RegistryUnwell tells that NARs are not asked for at the moment.
	RegistryUnwell bool
	// Served counts what was served, in the order in which it is shown.
	Served []Count
}

// Count is a number of something, or with Bytes a size in bytes.
type Count struct {
	Name  string
	N     int64
	Bytes bool
}

const defaultURL = "http://127.0.0.1:37515"

// Page serves the pages of one cache. It is safe for concurrent use.
type Page struct {
	opts Options

	mu        sync.Mutex
	catalogue *catalogue // of the snapshot last asked for, nil when idle
	building  chan struct{}
	idle      *time.Timer
}

var _ http.Handler = (*Page)(nil)

// New returns the pages of a cache. Nothing is read yet.
func New(o Options) *Page {
	if o.Idle <= 0 {
		o.Idle = 5 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.URL == "" {
		o.URL = defaultURL
	}
	o.Cache = ui.Line(o.Cache)
	return &Page{opts: o, building: make(chan struct{}, 1)}
}

// current returns the catalogue of the present snapshot, nil if there is no
// snapshot or ctx ended. The first request after a change makes it; those that
// come meanwhile wait for it.
func (p *Page) current(ctx context.Context) *catalogue {
	snap := p.opts.Snapshot()
	if snap == nil {
		return nil
	}
	now := p.opts.Now()
	if c := p.known(snap, now); c != nil {
		return c
	}
	select {
	case p.building <- struct{}{}:
		defer func() { <-p.building }()
	case <-ctx.Done():
		return nil
	}
	if c := p.known(snap, now); c != nil {
		return c
	}
	c := newCatalogue(snap, now)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.catalogue = c
	p.wake()
	return c
}

// known returns the catalogue if it shows snap as it is on the day of now.
func (p *Page) known(snap *index.Snapshot, now time.Time) *catalogue {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.catalogue; c != nil && c.snapshot == snap && c.day == day(now) {
		p.wake()
		return c
	}
	return nil
}

// wake begins the idle time anew.
func (p *Page) wake() {
	if p.idle != nil {
		p.idle.Stop()
	}
	p.idle = time.AfterFunc(p.opts.Idle, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.catalogue = nil
	})
}

// Number is the number for people.
func (c Count) Number() string { return ui.Number(int(c.N)) }
