package publish

import (
	"cmp"
	"context"
	"errors"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/upload"
)

// extras is what a run publishes besides narinfos and NARs. Whatever goes wrong
// with it costs a warning, never the publish.
type extras struct {
	mu sync.Mutex
	// realised are content-addressed outputs that were built or used, by hash part.
	realised map[string][]nix.Realisation
	logs     map[string]*pendingLog // by derivation
	noLogs   int                    // derivations in a row that have none
}

// pendingLog is a build log for as long as an upload may need it.
type pendingLog struct {
	uploads int
	read    func() []byte
}

// maxLog is how much of a build log is published, in bytes. Of a longer one the
// middle is left out: what went wrong stands at the end, how it was called at
// the beginning.
const maxLog = 16 << 20

// maxNoLogs is how many builds in a row may have no log before none is looked
// for any more: each costs a Nix process, and some keep no logs.
const maxNoLogs = 16

// built remembers the realisations of what was built.
func (x *extras) built(outputs []discover.Built) {
	for _, b := range outputs {
		for _, r := range b.Realised {
			x.realise(r)
		}
	}
}

func (x *extras) realise(r nix.Realisation) {
	p, err := storepath.Parse(r.Path)
	if err != nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.realised == nil {
		x.realised = map[string][]nix.Realisation{}
	}
	x.realised[p.HashPart] = append(x.realised[p.HashPart], r)
}

func (x *extras) realisationsOf(hashPart string) []nix.Realisation {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.realised[hashPart]
}

// expect tells which paths are going to be uploaded.
func (x *extras) expect(paths []nix.PathInfo) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.logs == nil {
		x.logs = map[string]*pendingLog{}
	}
	for _, p := range paths {
		if p.Deriver == "" || !p.Ultimate {
			continue
		}
		if x.logs[p.Deriver] == nil {
			x.logs[p.Deriver] = &pendingLog{}
		}
		x.logs[p.Deriver].uploads++
	}
}

// documents are those of a path that was uploaded. What was not built here has
// no log.
func (p *publisher) documents(ctx context.Context, r *upload.Result) index.Documents {
	d := index.Documents{Listing: r.Listing}
	if !p.NoLogs && r.Info.Ultimate && r.Info.Deriver != "" {
		d.Log = p.buildLog(ctx, r.Info.Deriver)
	}
	return d
}

// buildLog returns the log of a derivation's build, read once for all of its
// outputs.
func (p *publisher) buildLog(ctx context.Context, drv string) []byte {
	x := &p.extras
	x.mu.Lock()
	l := x.logs[drv]
	if l == nil {
		l = &pendingLog{uploads: 1}
		x.logs[drv] = l
	}
	if l.read == nil {
		l.read = sync.OnceValue(func() []byte { return p.readLog(ctx, drv) })
	}
	if l.uploads--; l.uploads <= 0 {
		delete(x.logs, drv)
	}
	x.mu.Unlock()
	return l.read()
}

func (p *publisher) readLog(ctx context.Context, drv string) []byte {
	x := &p.extras
	x.mu.Lock()
	givenUp := x.noLogs >= maxNoLogs
	x.mu.Unlock()
	if givenUp {
		return nil
	}
	log, err := p.Nix.WholeLog(ctx, drv, maxLog)
	x.mu.Lock()
	x.noLogs++
	if err == nil {
		x.noLogs = 0
	}
	x.mu.Unlock()
	if err != nil {
		// Nix keeps no logs, or it was built before they were deleted
		if !errors.As(err, new(*nix.CommandError)) && ctx.Err() == nil {
			p.Log.Warn("a build log is not published", "error", err)
		}
		p.Log.Debug("no build log", "drv", drv, "error", err)
		return nil
	}
	// Nix and its builders do not get the variables that hold secrets, but
	// without a sandbox there are other ways
	return p.Secrets.Redact(log)
}

// realisations are the outputs that an entry is, by what the local store says,
// without signatures.
func (p *publisher) realisations(e *format.Entry, info *nix.PathInfo) []format.Realisation {
	var rs []format.Realisation
	for _, r := range p.extras.realisationsOf(e.Path.HashPart) {
		if r.ID != "" {
			// Nix's own signatures cover what the realisation depends on
			rs = append(rs, format.Realisation{ID: r.ID})
		}
		// The resolved derivation. Nix before 2.35, which does not say it,
		// computes another path of what refers to itself; since then Nix refuses
		// that one, and does not build.
		old := r.Drv == "" && slices.Contains(e.References, e.Path.Base())
		if drv := cmp.Or(r.Drv, path.Base(info.Deriver)); strings.HasSuffix(drv, ".drv") && !old {
			rs = append(rs, format.Realisation{Drv: drv, Output: r.Output})
		}
	}
	return slices.DeleteFunc(rs, func(r format.Realisation) bool {
		err := r.Validate()
		if err != nil {
			p.Log.Warn("a realisation is not published", "path", e.Path.String(), "error", err)
		}
		return err != nil
	})
}

// realise adds realisations to an entry, and reports whether that changes it.
// What was built here is signed. A realisation that came from elsewhere is not:
// Nix takes those from substituters unseen.
func (p *publisher) realise(e *format.Entry, info *nix.PathInfo, rs []format.Realisation) (changed bool, err error) {
	for i := range rs {
		if info.Ultimate {
			if rs[i].Signatures, err = p.Keys.Sign(rs[i].Fingerprint(e.Path.Base()), nil); err != nil {
				return false, err
			}
		}
	}
	changed = e.Realise(rs...)
	if changed && e.Deriver == "" && info.Deriver != "" {
		e.Deriver = path.Base(info.Deriver)
	}
	return changed, nil
}
