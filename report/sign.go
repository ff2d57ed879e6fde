package report

import (
	"errors"
	"fmt"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/internal/ui"
)

// Fingerprint is all of a store path that signatures cover. References are base
// names.
type Fingerprint struct {
	Path         string               `json:"path"`
	NarHash      string               `json:"narHash"`
	NarSize      int64                `json:"narSize"`
	References   []string             `json:"references"`
	Realisations []format.Realisation `json:"realisations,omitempty"`
}

// NewFingerprint is that of an entry, without its realisations.
func NewFingerprint(e *format.Entry) Fingerprint {
	return Fingerprint{Path: e.Path.String(), NarHash: e.NarHash, NarSize: e.NarSize, References: append([]string{}, e.References...)}
}

// Entry is an entry with nothing but what a signature covers. Only the path is
// checked.
func (f *Fingerprint) Entry() (format.Entry, error) {
	path, err := storepath.Parse(f.Path)
	return format.Entry{Path: path, NarHash: f.NarHash, NarSize: f.NarSize, References: f.References}, err
}

// Sign is the result of a run of sign: what --json prints.
type Sign struct {
	Status     Status   `json:"status"`
	Error      string   `json:"error,omitempty"`
	Hints      []string `json:"hints,omitempty"` // what can be done about it
	Denied     bool     `json:"denied,omitempty"`
	Cache      string   `json:"cache"`
	PublicKeys []string `json:"publicKeys"`
	// Signed are in the cache with our signature since this run, Already those
	// that had it.
	Signed  []string  `json:"signed"`
	Already []string  `json:"already"`
	Refused []Failure `json:"refused,omitempty"`
}

// Finish takes in the end of the run, and returns its error with what was
// refused.
func (r *Sign) Finish(err error) error {
	if n := len(r.Refused); n > 0 {
		errs := []error{err}
		for _, f := range r.Refused[:min(n, 5)] {
			errs = append(errs, fmt.Errorf("not signed: %s: %s", f.Path, f.Error))
		}
		refused := hint.Wrap(errors.Join(append(errs, fmt.Errorf("%s not signed", ui.Count(n, "path")))...),
			"if another job has published them meanwhile, build and sign again; else find out who has written to the registry")
		if err = refused; len(r.Signed)+len(r.Already) > 0 {
			err = AsPartly(err)
		}
	}
	r.Status, r.Error, r.Denied = end(err)
	r.Hints = hint.All(err)
	return err
}
