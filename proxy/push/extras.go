package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/signing"
	"github.com/org/nixoci-action/internal/storepath"
)

const (
	// maxListing is the largest listing that is kept, in bytes: that of a
	// hundred thousand files.
	maxListing = 8 << 20
	// maxLog is the largest build log, in bytes; publish uploads no larger one
	// either.
	maxLog = 16 << 20
	// maxSmallExtra bounds realisations and debug info.
	maxSmallExtra = 1 << 20
	// documentSize bounds the listings and logs that are received at once, in
	// bytes, and documentWait how long one waits for the others.
	documentSize = 48 << 20
	documentWait = 2 * time.Minute
)

// putListing takes the listing of a path, which Nix sends before the NAR: 201
// if it is durable, 200 if it waits for the path, or is not needed.
func (p *Receiver) putListing(r *http.Request, hashPart string) (int, error) {
	if r.ContentLength > maxListing && r.ContentLength <= format.MaxDocument {
		// without it the path is as good, while a refusal would end `nix copy`
		p.log.Info("a listing is too large, and left out", "hash", hashPart, "size", r.ContentLength)
		return http.StatusOK, receive(discard{}, r)
	}
	doc, done, err := p.document(r, maxListing)
	if err != nil {
		return 0, err
	}
	defer done()
	l, err := p.checkListing(doc)
	if err != nil {
		return 0, &refusal{http.StatusBadRequest, err.Error()}
	}
	e, ok := p.server.Lookup(hashPart)
	if !ok {
		p.listings.hold(hashPart, l)
		return http.StatusOK, nil
	}
	if p.has(e.Listing) {
		return http.StatusOK, nil
	}
	if l.end > e.NarSize {
		return 0, &refusal{http.StatusConflict, fmt.Sprintf("the listing is not of %s as the cache has it: its files take more than the NAR", e.Path.Base())}
	}
	if err := p.attach(r.Context(), e, index.Attachment{Listing: l.doc, BuildIDs: l.buildIDs}); err != nil {
		return 0, err
	}
	return http.StatusCreated, nil
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// checkListing makes a document of what is a listing. One at a time, since a
// listing takes many times its size when it is decoded.
func (p *Receiver) checkListing(doc []byte) (*listing, error) {
	p.checking.Lock()
	defer p.checking.Unlock()
	ids, end, err := format.CheckListing(doc)
	if err != nil {
		return nil, err
	}
	l := &listing{buildIDs: ids, end: end}
	l.doc, err = format.EncodeDocument(doc)
	return l, err
}

// has reports whether the cache has a document, as far as is known.
func (p *Receiver) has(l format.Location) bool { return l.Size > 0 && !p.server.Corrupt(l.Blob.Hex) }

// putLog takes the log of a build, for the paths that it has made: 201 when it
// is durable, 200 if there is nothing to store.
func (p *Receiver) putLog(r *http.Request, name string) (int, error) {
	drv, err := storepath.ParseBase(name)
	if err != nil || !strings.HasSuffix(name, ".drv") {
		return 0, &refusal{http.StatusBadRequest, "a log is named by its derivation: /log/<hash>-<name>.drv"}
	}
	doc, done, err := p.document(r, maxLog)
	if err != nil {
		return 0, err
	}
	defer done()
	if len(doc) == 0 {
		return http.StatusOK, nil
	}
	paths := p.derived(drv.Base())
	if len(paths) == 0 {
		return 0, &refusal{http.StatusConflict, "the cache has no path that " + drv.Base() + " has made; copy one first, then the log"}
	}
	paths = slices.DeleteFunc(paths, func(e format.Entry) bool { return p.has(e.Log) })
	if len(paths) == 0 {
		return http.StatusOK, nil
	}
	enc, err := format.EncodeDocument(doc)
	if err != nil {
		return 0, &refusal{http.StatusRequestEntityTooLarge, err.Error()}
	}
	g, ctx := errgroup.WithContext(r.Context())
	for _, e := range paths { // so they share a segment
		g.Go(func() error { return p.attach(ctx, e, index.Attachment{Log: enc}) })
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	return http.StatusCreated, nil
}

// derived are the entries that a derivation has made.
func (p *Receiver) derived(drv string) []format.Entry {
	es := p.group.Derived(drv)
	snap := p.server.Snapshot()
	if snap == nil {
		return es
	}
	for _, e := range snap.Derived(drv) {
		if _, newer := p.group.Lookup(e.Path.HashPart); !newer {
			es = append(es, e)
		}
	}
	return es
}

// putRealisation takes what an output of a content-addressed derivation is,
// for a path that the cache has.
func (p *Receiver) putRealisation(r *http.Request, f bincache.File) (int, error) {
	text, err := p.text(r, maxSmallExtra)
	if err != nil {
		return 0, err
	}
	real, base, err := format.ParseRealisation(f, []byte(text))
	if err != nil {
		return 0, &refusal{http.StatusBadRequest, err.Error()}
	}
	e, ok := p.server.Lookup(base[:storepath.HashPartLen])
	if !ok || e.Path.Base() != base {
		return 0, &refusal{http.StatusConflict, "the realisation is " + base + ", which the cache does not have; copy that first"}
	}
	if p.opts.RequireSignatures && !signing.SignedBy(p.trustedKeys(), real.Fingerprint(base), real.Signatures) {
		return 0, &refusal{http.StatusForbidden, "the realisation of " + base + " is not signed by a key that the proxy trusts, or not for itself alone"}
	}
	if old, of, ok := p.server.Realisation(real); ok && of.Path != e.Path {
		p.log.Info("a realisation was pushed that the cache has as another path; it keeps that", "path", e.Path.String(), "has", of.Path.String())
		return http.StatusOK, nil
	} else if ok { // what it has is not signed again
		real.Signatures = append(slices.Clone(old.Signatures), real.Signatures...)
	}
	if real.Signatures, err = p.opts.Keys.Sign(real.Fingerprint(base), real.Signatures); err != nil {
		return 0, err
	}
	rs := []format.Realisation{real}
	if _, output, ok := strings.Cut(real.ID, "!"); ok && strings.HasSuffix(e.Deriver, ".drv") && !p.opts.RequireSignatures {
		// The same for Nix since 2.35, as publish does. It is not signed: the
		// client has not said it, and anybody may have written the deriver.
		rs = append(rs, format.Realisation{Drv: e.Deriver, Output: output})
	}
	if now := e; !now.Realise(rs...) {
		return http.StatusOK, nil
	}
	if err := p.attach(r.Context(), e, index.Attachment{Realisations: rs}); err != nil {
		return 0, err
	}
	return http.StatusCreated, nil
}

// putDebugInfo answers for what the listing says already.
func (p *Receiver) putDebugInfo(r *http.Request, name string) (int, error) {
	id := strings.TrimSuffix(name, ".debug")
	if !format.ValidBuildID(id) {
		return 0, &refusal{http.StatusBadRequest, "debug info is named by a build ID of 40 hex digits"}
	}
	text, err := p.text(r, maxSmallExtra)
	if err != nil {
		return 0, err
	}
	var info struct{ Archive, Member string }
	if err := json.Unmarshal([]byte(text), &info); err != nil || path.Clean("/"+info.Member) != "/lib/debug/.build-id/"+id[:2]+"/"+id[2:]+".debug" {
		return 0, &refusal{http.StatusBadRequest, "that does not say where the symbols of this build ID are"}
	}
	if !p.listings.names(id) && !p.server.HasDebugInfo(id) {
		return 0, &refusal{http.StatusConflict, "the cache knows debug symbols from listings: copy with write-nar-listing=1 as well"}
	}
	return http.StatusOK, nil
}

// attach makes durable what belongs to a path.
func (p *Receiver) attach(ctx context.Context, e format.Entry, x index.Attachment) error {
	ctx, cancel := context.WithTimeoutCause(ctx, commitTimeout, fmt.Errorf("the registry did not take it within %s", commitTimeout))
	defer cancel()
	err := p.group.Attach(ctx, e, x)
	var lost *index.LostError
	var incomplete *index.IncompleteError
	switch {
	case err == nil:
		p.Counts.Extras.Add(1)
		p.kickRoot()
		return nil
	case errors.Is(err, index.ErrChanged):
		return &refusal{http.StatusConflict, fmt.Sprintf("%s: %v", e.Path.Base(), err)}
	case errors.As(err, &lost):
		p.lost.PutFor(bincache.HashDigits(lost.FileHash), struct{}{}, time.Hour)
		return &refusal{http.StatusConflict, lost.Error() + ": copy the path again"}
	case errors.As(err, &incomplete):
		return missing(incomplete.Path, incomplete.Missing)
	case errors.Is(err, format.ErrForeign):
		return errForeign
	}
	return fmt.Errorf("storing what belongs to %s: %w", e.Path, err)
}

// document reads a listing or a log of at most limit bytes. done gives back the
// memory.
func (p *Receiver) document(r *http.Request, limit int64) (doc []byte, done func(), err error) {
	size := r.ContentLength
	switch {
	case size < 0:
		return nil, nil, &refusal{http.StatusLengthRequired, "its length must be announced"}
	case size > limit:
		return nil, nil, &refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("that is longer than %d bytes", limit)}
	}
	if err := plain(r); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), documentWait)
	defer cancel()
	if err := p.documents.Acquire(ctx, size); err != nil {
		return nil, nil, &refusal{http.StatusServiceUnavailable, "too many listings and logs are being pushed at once, try again"}
	}
	done = func() { p.documents.Release(size) }
	s := &spool{data: make([]byte, 0, size)}
	if err := receive(s, r); err != nil {
		done()
		return nil, nil, err
	}
	if err := p.secretless("it", s.data); err != nil {
		done()
		return nil, nil, err
	}
	return s.data, done, nil
}

// plain refuses a text that is compressed on its way, which would be stored as
// it is.
func plain(r *http.Request) error {
	if c := r.Header.Get("Content-Encoding"); c != "" && c != "identity" {
		return &refusal{http.StatusUnsupportedMediaType, "texts are taken uncompressed: copy without narinfo-compression, ls-compression and log-compression"}
	}
	return nil
}
