package push

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net/http"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index/format"
)

// pendingNAR is a NAR that was pushed, until a path has it.
type pendingNAR struct {
	contents
	// at is where it is in the repository; held is the NAR itself if it is not
	// there yet.
	at   format.Location
	held *spool
	// client has sent it, or asked for it last, at since.
	client string
	since  time.Time
}

// pendingFor is how long a NAR waits for its path after its client has pushed
// anything. Since 2.35, `nix copy` sends the narinfos after all NARs.
const pendingFor = time.Hour

// putNAR takes the NAR with a file hash: what does not have that, or is no NAR, is
// kept nowhere.
func (p *Receiver) putNAR(r *http.Request, hash string) (int, error) {
	if !bincache.ValidDigits(hash) {
		return 0, &refusal{http.StatusBadRequest, "a NAR is named by its SHA-256 in Nix base32"}
	}
	switch size := r.ContentLength; {
	case size < 0:
		return 0, &refusal{http.StatusLengthRequired, "a NAR's length must be announced"}
	case size == 0:
		return 0, &refusal{http.StatusBadRequest, "the NAR is empty"}
	case size > p.opts.MaxBlobSize:
		return 0, &refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("the registry takes no NAR over %d bytes", p.opts.MaxBlobSize)}
	}
	s, err := p.spools.take(r.Context(), r.ContentLength)
	if err != nil {
		return 0, err
	}
	held := false
	defer func() {
		if !held {
			s.close()
		}
	}()
	sum := sha256.New()
	if err := receive(io.MultiWriter(s, sum), r); err != nil {
		return 0, err
	}
	if got := bincache.HashDigits(bincache.FormatHash(sum.Sum(nil))); got != hash {
		return 0, &refusal{http.StatusBadRequest, "the NAR that came is " + got + ", not what its name says"}
	}
	n, err := p.storeNAR(r.Context(), s, client(r))
	if err != nil {
		return 0, err
	}
	held = n.held != nil
	p.mu.Lock()
	old := p.nars[hash]
	p.nars[hash] = n
	p.mu.Unlock()
	if old != nil && old.held != nil {
		old.held.close()
	}
	p.lost.Remove(hash)
	p.Counts.NARs.Add(1)
	return http.StatusCreated, nil
}

// storeNAR checks a NAR and puts it into the repository. A small one stays in
// memory: it is stored with its path, together with others. Nothing is sent
// before all of it is checked: what has a secret in it must not go out.
func (p *Receiver) storeNAR(ctx context.Context, s *spool, client string) (*pendingNAR, error) {
	n := &pendingNAR{client: client, since: time.Now()}
	var err error
	if n.contents, err = p.verify(ctx, s, client); err != nil {
		return nil, err
	}
	if s.file == nil {
		n.held = s
		return n, nil
	}
	desc, err := p.opts.Repository.WriteBlob(ctx, func(w io.Writer) error { // several times, perhaps
		_, err := io.Copy(w, s.reader())
		return err
	})
	n.at = format.Location{Blob: desc.Digest, BlobSize: desc.Size, Size: desc.Size}
	return n, err
}

// nar returns what is known of a NAR: from those that were pushed, or from the
// index unless the registry turned out to have lost it.
func (p *Receiver) nar(hash string) (*pendingNAR, bool) {
	p.mu.Lock()
	n, ok := p.nars[hash]
	p.mu.Unlock()
	if ok {
		return n, true
	}
	e, ok := p.server.LookupNAR(hash)
	if !ok || p.lost.Has(hash) {
		return nil, false
	}
	return &pendingNAR{contents: contents{e.Compression, e.NarHash, e.NarSize}, at: e.NAR}, true
}

// taken drops a NAR that a path has now.
func (p *Receiver) taken(hash string, n *pendingNAR) {
	if _, ok := p.server.LookupNAR(hash); ok {
		p.forget(hash, n)
	}
}

func (p *Receiver) forget(hash string, n *pendingNAR) {
	p.mu.Lock()
	mine := p.nars[hash] == n
	if mine {
		delete(p.nars, hash)
	}
	p.mu.Unlock()
	if mine && n.held != nil {
		n.held.close()
	}
}

// expire drops the NARs whose path has not come.
func (p *Receiver) expire() {
	p.mu.Lock()
	var old []*pendingNAR
	for hash, n := range p.nars {
		if time.Since(n.since) > pendingFor && time.Since(p.seen[n.client]) > pendingFor {
			delete(p.nars, hash)
			old = append(old, n)
		}
	}
	maps.DeleteFunc(p.seen, func(_ string, last time.Time) bool { return time.Since(last) > pendingFor })
	p.mu.Unlock()
	for _, n := range old {
		if n.held != nil {
			n.held.close()
		}
	}
}

// Asked answers what Nix asks before it sends a NAR: whether one with this file
// hash is here.
func (p *Receiver) Asked(r *http.Request, hash string) bool {
	allowed := p.authorize(r) == nil
	if allowed {
		p.session.touch()
		p.active(r)
	}
	n, ok := p.nar(hash)
	if ok && allowed { // it will not be sent again
		p.mu.Lock()
		n.client, n.since = client(r), time.Now()
		p.mu.Unlock()
	}
	return ok
}

// active notes that a client is pushing.
func (p *Receiver) active(r *http.Request) {
	p.mu.Lock()
	p.seen[client(r)] = time.Now()
	p.mu.Unlock()
}
