package index

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/storepath"
)

// Attachment is what Group.Attach adds to a path. The zero value is nothing.
type Attachment struct {
	// Listing and Log are documents as EncodeDocument makes them. They take
	// the place of those that the path has.
	Listing, Log []byte
	// BuildIDs and Realisations are added to those that the path has.
	BuildIDs     []string
	Realisations []format.Realisation
}

// ErrChanged tells that nothing was attached to a path because the cache no
// longer has it, or has another build of it.
var ErrChanged = errors.New("the cache does not have the path any more, or another build of it")

// ErrNotTaken tells that a path is durable, and what was attached to it is not.
var ErrNotTaken = errors.New("the registry did not take what belongs to the path")

// Attach adds to what the cache has of a path, e, which was looked up before.
// It returns when that is durable. Its errors are ErrChanged, ErrNotTaken and
// those of Add.
// What is attached to a path at the same time, or pushed, is merged.
func (g *Group) Attach(ctx context.Context, e format.Entry, x Attachment) error {
	check := format.Extras{BuildIDs: x.BuildIDs, Realisations: x.Realisations}
	if err := check.ValidateExtras(); err != nil {
		return err
	}
	return g.enter(ctx, &addition{Addition: Addition{Entry: e}, attached: &x})
}

// place puts additions among what is pending, those that attach last.
func (g *Group) place(w *Writer, batch []*addition, upstream map[string]bool) {
	for _, a := range batch {
		if a.attached == nil {
			for _, hashPart := range a.Upstream {
				upstream[hashPart] = true
			}
			g.put(w, a, a.Entry, Attachment{Listing: a.Listing})
		}
	}
	for _, a := range batch {
		if a.attached == nil {
			continue
		}
		known := g.known(w, a.Entry.Path.HashPart)
		if len(known) == 0 || known[0].NarHash != a.Entry.NarHash || known[0].Deriver != a.Entry.Deriver {
			a.failed = ErrChanged
			continue
		}
		if _, _, waits := w.waiting(a.Entry.Path.HashPart); !waits {
			// what an entry refers to is in the cache or on an upstream (rule 4)
			for _, r := range known[0].References {
				if h := r[:storepath.HashPartLen]; len(g.known(w, h)) == 0 {
					upstream[h] = true
				}
			}
		}
		g.put(w, a, known[0], *a.attached)
	}
}

// put makes e pending, with what the cache has of its path already, and with x.
func (g *Group) put(w *Writer, a *addition, e format.Entry, x Attachment) {
	hashPart := e.Path.HashPart
	e.Added = g.cache.opts.Now()
	for _, old := range g.known(w, hashPart) {
		if old.Fingerprint() == e.Fingerprint() {
			e.Signatures = format.Union(e.Signatures, old.Signatures)
		}
		e.Inherit(&old)
		e.Added = later(e.Added, old.Added)
	}
	e.BuildIDs = format.Union(e.BuildIDs, x.BuildIDs)
	e.BuildIDs = e.BuildIDs[:min(len(e.BuildIDs), format.MaxBuildIDs)]
	e.Realise(x.Realisations...)
	enc := &encoded{}
	if waits, old, _ := w.waiting(hashPart); old != nil && waits.NarHash == e.NarHash && waits.Deriver == e.Deriver {
		*enc = *old
	}
	if len(x.Listing) > 0 {
		enc.listing = x.Listing
	}
	if len(x.Log) > 0 {
		enc.log = x.Log
	}
	a.Entry = e
	w.place(e, enc)
}

// known are the entries that there are for a path, those that count more first.
func (g *Group) known(w *Writer, hashPart string) []format.Entry {
	var known []format.Entry
	if e, _, ok := w.waiting(hashPart); ok {
		return []format.Entry{e} // of the others it has what they have
	}
	if e, ok := g.Lookup(hashPart); ok {
		known = append(known, e)
	}
	if e, ok := w.base.Lookup(hashPart); ok {
		known = append(known, e)
	}
	slices.SortStableFunc(known, func(a, b format.Entry) int { return int(b.Added.Unix() - a.Added.Unix()) })
	return known
}

// later returns t, or when it is not a second after old, such a time: an entry
// has whole seconds, and of two with the same it is taken for granted that they
// say the same (rule 8). Years end at 9999 in the format.
func later(t, old time.Time) time.Time {
	if next := old.Truncate(time.Second).Add(time.Second); next.After(t) && next.UTC().Year() <= 9999 {
		return next
	}
	return t
}

// taken tells whether e, which is durable, has what the addition attached.
func (a *addition) taken(e format.Entry) error {
	if a.attached == nil {
		return nil
	}
	have := true
	for _, r := range a.attached.Realisations {
		have = have && slices.ContainsFunc(e.Realisations, func(o format.Realisation) bool { return o.Key() == r.Key() })
	}
	if len(a.attached.Listing) > 0 && e.Listing.Size == 0 || len(a.attached.Log) > 0 && e.Log.Size == 0 || !have {
		return fmt.Errorf("%s: %w", e.Path, ErrNotTaken)
	}
	return nil
}
