package push

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/signing"
	"github.com/org/nixoci-action/internal/storepath"
)

// commitTimeout is how long a client waits until its path is durable.
const commitTimeout = 5 * time.Minute

// putNarinfo takes a path whose NAR is here. It returns 201 when the path is
// durable, 200 when it was before.
func (p *Receiver) putNarinfo(r *http.Request, hashPart string) (int, error) {
	text, err := p.text(r, bincache.MaxNarinfo)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), commitTimeout, fmt.Errorf("the registry did not take the path within %s", commitTimeout))
	defer cancel()
	// One after the other: the second is compared with what the first has stored.
	done, err := p.paths.take(ctx, hashPart)
	if err != nil {
		return 0, err
	}
	defer done()
	held := p.listings.get(hashPart)
	a, hash, n, err := p.addition(ctx, text, hashPart, held)
	if err != nil {
		return 0, err
	}
	if a == nil {
		p.listings.drop(hashPart, held)
		p.taken(hash, n)
		return http.StatusOK, nil
	}
	err = p.group.Add(ctx, *a)
	var lost *index.LostError
	var incomplete *index.IncompleteError
	switch {
	case err == nil:
		p.listings.drop(hashPart, held)
		p.taken(hash, n)
		p.acknowledge(a.Entry)
		return http.StatusCreated, nil
	case errors.As(err, &lost):
		gone := bincache.HashDigits(lost.FileHash)
		p.lost.PutFor(gone, struct{}{}, time.Hour)
		if gone == hash {
			p.forget(hash, n)
		}
		return 0, fmt.Errorf("%w: copy it again", lost)
	case errors.As(err, &incomplete):
		return 0, missing(incomplete.Path, incomplete.Missing)
	case errors.Is(err, format.ErrForeign):
		return 0, errForeign
	}
	return 0, fmt.Errorf("storing %s: %w", a.Entry.Path, err)
}

var errForeign = &refusal{http.StatusForbidden, "the cache is one of nixcache-oci; run publish once, which takes it over"}

func missing(path storepath.Path, refs []string) error {
	return &refusal{http.StatusConflict, fmt.Sprintf("%s refers to %s, which neither the cache nor an upstream cache has; copy the whole closure, with --refresh if Nix takes it to be there",
		path.Base(), strings.Join(refs[:min(3, len(refs))], ", "))}
}

// addition makes of a narinfo, and of the listing that came before, what is to be
// stored; nil if all of it is there.
func (p *Receiver) addition(ctx context.Context, text, hashPart string, held *listing) (*index.Addition, string, *pendingNAR, error) {
	bad := func(format string, args ...any) error {
		return &refusal{http.StatusBadRequest, fmt.Sprintf(format, args...)}
	}
	e, url, err := format.ParseNarinfo(text)
	if err != nil {
		return nil, "", nil, bad("%v", err)
	}
	if e.Path.HashPart != hashPart || e.Path.Dir != p.server.StoreDir() {
		return nil, "", nil, bad("the narinfo is of %s; %s in %s was announced", e.Path, hashPart, p.server.StoreDir())
	}
	f := bincache.Parse(url)
	hash := f.Name
	if f.Kind != bincache.NAR || !bincache.ValidDigits(hash) {
		return nil, "", nil, bad("the narinfo's URL %q is not that of a NAR that was pushed here", url)
	}
	n, ok := p.nar(hash)
	if !ok {
		return nil, "", nil, &refusal{http.StatusConflict, "the NAR " + hash + " was not pushed, or is gone; copy again"}
	}
	if e.Compression != n.compression {
		return nil, "", nil, bad("the narinfo says %s, its NAR is compressed with %s", e.Compression, n.compression)
	}
	if e.NarHash != n.narHash || e.NarSize != n.narSize {
		return nil, "", nil, bad("the narinfo says %s and %d bytes, its NAR has %s and %d", e.NarHash, e.NarSize, n.narHash, n.narSize)
	}
	e.FileHash, e.NAR = bincache.HashOf(hash), n.at
	a := &index.Addition{Entry: e}
	if n.held != nil {
		a.Data = n.held.data
		e.NAR = format.Location{Blob: v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}, BlobSize: n.held.size, Size: n.held.size} // not yet
	}
	if err := e.Validate(); err != nil {
		return nil, "", nil, bad("%v", err)
	}
	if err := p.sign(&e); err != nil {
		return nil, "", nil, err
	}
	a.Entry = e
	if held != nil && held.end <= e.NarSize {
		a.Listing, a.Entry.BuildIDs = held.doc, held.buildIDs
	} else if held != nil {
		p.log.Info("a listing that was pushed is not of the path, and left out", "path", e.Path.String())
	}
	if old, ok := p.server.Lookup(hashPart); ok {
		if a, err = p.renew(a, old); err != nil || a == nil {
			return nil, hash, n, err
		}
	}
	a.Upstream, err = p.onUpstream(ctx, a.Entry)
	return a, hash, n, err
}

// sign checks an entry's signatures and adds the server's.
func (p *Receiver) sign(e *format.Entry) (err error) {
	if p.opts.RequireSignatures && !signing.SignedBy(p.trustedKeys(), e.Fingerprint(), e.Signatures) {
		return &refusal{http.StatusForbidden, fmt.Sprintf("%s is not signed by a key that the proxy trusts; sign it with `nix store sign`", e.Path.Base())}
	}
	e.Signatures, err = p.opts.Keys.Sign(e.Fingerprint(), e.Signatures)
	return err
}

// renew compares an addition with what the cache has of that path. It returns
// what is left to store: nothing, if clients can use what there is. A path with
// other contents is refused, unless they take the place of those that are there.
func (p *Receiver) renew(a *index.Addition, old format.Entry) (*index.Addition, error) {
	now := a.Entry
	if old.Fingerprint() != now.Fingerprint() {
		// another build of the same derivation, with other contents
		keys := p.trustedKeys()
		if len(p.trusted) == 0 {
			keys = p.server.Keys().Trusted
		}
		if len(keys) == 0 || signing.SignedBy(keys, old.Fingerprint(), old.Signatures) || !signing.SignedBy(keys, now.Fingerprint(), now.Signatures) {
			return nil, &refusal{http.StatusConflict, fmt.Sprintf("the cache has %s with other contents, from another build, and keeps those; copy again, Nix then takes it to be there", now.Path.Base())}
		}
		return a, nil
	}
	if p.lost.Has(bincache.HashDigits(old.FileHash)) {
		return a, nil
	}
	sigs := slices.Clone(old.Signatures)
	for _, s := range now.Signatures {
		if !slices.Contains(sigs, s) {
			sigs = append(sigs, s)
		}
	}
	if p.has(old.Listing) {
		a.Listing = nil
	} else if len(old.BuildIDs) == 0 {
		old.BuildIDs = now.BuildIDs
	}
	if len(sigs) == len(old.Signatures) && a.Listing == nil && time.Since(old.Added) < format.PinAfter {
		return nil, nil
	}
	old.Signatures = sigs
	return &index.Addition{Entry: old, Listing: a.Listing}, nil
}

// askJobs is how many references of a path are looked up at once.
const askJobs = 16

// onUpstream returns the hash parts of the references that are on an upstream
// cache, of those that the cache does not have.
func (p *Receiver) onUpstream(ctx context.Context, e format.Entry) ([]string, error) {
	var mu sync.Mutex
	var found []string
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(askJobs)
	for _, r := range e.References {
		hashPart := r[:storepath.HashPartLen]
		if _, ok := p.server.Lookup(hashPart); ok || hashPart == e.Path.HashPart {
			continue
		}
		g.Go(func() error {
			if p.server.UpstreamHas(gctx, hashPart) {
				mu.Lock()
				defer mu.Unlock()
				found = append(found, hashPart)
			}
			return nil // it may be added at this moment
		})
	}
	return found, g.Wait()
}
