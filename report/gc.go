package report

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/ui"
)

// GC is the plan and the result of a run of gc: what --json prints, and what the
// texts are made of. NewGC makes one. Sizes are in bytes, times in RFC 3339. The field names are
// an interface.
type GC struct {
	Status Status `json:"status"`
	Error  string `json:"error,omitempty"`
	// Hints are what can be done about Error.
	Hints []string `json:"hints,omitempty"`
	// Denied tells that the registry refused the credentials, or what they may
	// do.
	Denied  bool     `json:"denied,omitempty"`
	Cache   string   `json:"cache"`
	DryRun  bool     `json:"dryRun"`
	Flake   string   `json:"flake,omitempty"` // as Nix locked it
	Systems []string `json:"systems,omitempty"`
	// Unknown are attributes of the flake whose paths are not known. All that
	// was ever published under them is kept.
	Unknown []Unknown `json:"unknown,omitempty"`

	// Kept and Removed count the store paths in the cache by what the plan
	// does to them; Reasons does so by reason, the largest first, Paths has
	// each: those to be removed first, the largest first.
	Kept    index.Total   `json:"kept"`
	Removed index.Total   `json:"removed"`
	Reasons []Reason      `json:"reasons"`
	Paths   []PlannedPath `json:"paths"`
	// Publications are the records in the cache, oldest first; Pins the names
	// under which some are kept.
	Publications []Publication `json:"publications"`
	Pins         []Pin         `json:"pins"`
	// FreedSize is the size of the blobs that nothing will need any more.
	// Rewritten segments are replaced by Written new ones.
	FreedSize int64 `json:"freedSize"`
	Rewritten int   `json:"rewritten"`
	Written   int   `json:"written"`
	// Deletable are the manifests that were replaced before the delay,
	// Waiting those replaced since.
	Deletable []Manifest `json:"deletable"`
	Waiting   []Manifest `json:"waiting"`

	// Result is what was done; absent in a dry run, and if nothing was tried.
	Result *Collected `json:"result,omitempty"`
	Stages []Stage    `json:"stages"`

	now     time.Time
	delay   time.Duration
	planned bool // Plan was called
}

// Unknown is an attribute of the flake whose paths are not known, and why.
type Unknown struct {
	Attr    string `json:"attr"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
}

// Reason counts the paths that are kept, or removed, for one reason.
type Reason struct {
	Keep   bool   `json:"keep"`
	Reason string `json:"reason"`
	index.Total
}

// PlannedPath is a store path in the cache, and what a collection does to it.
type PlannedPath struct {
	Path     string    `json:"path"`
	Keep     bool      `json:"keep"`
	Reason   string    `json:"reason"`
	NarSize  int64     `json:"narSize"`
	FileSize int64     `json:"fileSize"`
	Added    time.Time `json:"added"`
}

// Publication is a record in the cache, and whether it keeps what it names.
type Publication struct {
	Time     time.Time `json:"time"`
	Origin   string    `json:"origin,omitempty"`
	Flake    string    `json:"flake,omitempty"`
	Revision string    `json:"revision,omitempty"`
	Ref      string    `json:"ref,omitempty"`
	RunURL   string    `json:"runUrl,omitempty"`
	Systems  []string  `json:"systems,omitempty"`
	Pin      string    `json:"pin,omitempty"`
	Roots    int       `json:"roots"`
	Keep     bool      `json:"keep"`
	Reason   string    `json:"reason"`
	// Until is when it stops to be kept, or stopped; absent if never.
	Until *time.Time `json:"until,omitempty"`
}

// Pin is a name under which publications are kept.
type Pin struct {
	Name string `json:"name"`
	// Publications is the number of records that the name keeps, Newest when
	// the last of them was made.
	Publications int       `json:"publications"`
	Newest       time.Time `json:"newest"`
}

// Manifest is one that a newer one has replaced.
type Manifest struct {
	Tag      string    `json:"tag,omitempty"`
	Manifest string    `json:"manifest"`
	Replaced time.Time `json:"replaced"`
	// Until is when it may be deleted; absent if it may be now.
	Until *time.Time `json:"until,omitempty"`
}

// Collected is what a collection has done.
type Collected struct {
	// Kept and Removed count the store paths that are in the cache index, and
	// that no longer are.
	Kept    index.Total `json:"kept"`
	Removed index.Total `json:"removed"`
	// Rewritten segments were replaced by Segments; RepackedSize was copied
	// into new packs.
	Rewritten    int      `json:"rewritten"`
	Segments     []string `json:"segments"`
	RepackedSize int64    `json:"repackedSize"`
	// Deleted is the number of manifests that were deleted. Waiting must wait
	// for the delay, the last of them until WaitingUntil.
	Deleted      int        `json:"deleted"`
	Waiting      int        `json:"waiting"`
	WaitingUntil *time.Time `json:"waitingUntil,omitempty"`
	// Freed is what was freed in a directory. A registry frees by itself.
	Freed registry.Freed `json:"freed"`
	// Refused are manifests that the registry does not delete, by reason.
	Refused []Refusal `json:"refused,omitempty"`
	// Lost are store paths that were removed because the registry has lost
	// them, or something they refer to.
	Lost []string `json:"lost,omitempty"`
}

// Refusal names manifests that the registry does not delete, and why.
type Refusal struct {
	Reason    string   `json:"reason"`
	Remedy    string   `json:"remedy,omitempty"`
	Manifests []string `json:"manifests"`
}

// NewGC is the report of a run at the time now that has done nothing yet. delay
// is how long what was replaced must wait.
func NewGC(cache string, dryRun bool, now time.Time, delay time.Duration) *GC {
	return &GC{
		Cache: cache, DryRun: dryRun, now: now, delay: delay,
		Reasons: []Reason{}, Paths: []PlannedPath{}, Publications: []Publication{}, Pins: []Pin{},
		Deletable: []Manifest{}, Waiting: []Manifest{},
	}
}

// Plan takes in what is to be done.
func (r *GC) Plan(p *collect.Plan) {
	r.planned = true
	r.Kept, r.Removed, r.FreedSize = p.Kept, p.Removed, p.Freed
	r.Rewritten, r.Written = len(p.Rewritten), p.Written
	for _, x := range p.Paths {
		r.Paths = append(r.Paths, PlannedPath{x.Path.String(), x.Keep, x.Reason, x.NarSize, x.FileSize, x.Added})
	}
	r.Reasons = append(r.Reasons, reasons(p.Paths)...)
	r.publications(p.Verdicts)
	for _, m := range p.Deletable {
		r.Deletable = append(r.Deletable, Manifest{Tag: m.Tag, Manifest: m.Manifest.String(), Replaced: m.Since.UTC()})
	}
	for _, m := range p.Waiting {
		until := m.Since.Add(r.delay).UTC()
		r.Waiting = append(r.Waiting, Manifest{m.Tag, m.Manifest.String(), m.Since.UTC(), &until})
	}
}

// reasons counts paths by reason, the largest first.
func reasons(paths []collect.PlannedPath) []Reason {
	type key struct {
		keep   bool
		reason string
	}
	totals := map[key]*Reason{}
	for _, p := range paths {
		k := key{p.Keep, p.Reason}
		if totals[k] == nil {
			totals[k] = &Reason{Keep: p.Keep, Reason: p.Reason}
		}
		t := totals[k]
		t.Paths++
		t.NarSize += p.NarSize
		t.FileSize += p.FileSize
	}
	list := make([]Reason, 0, len(totals))
	for _, t := range totals {
		list = append(list, *t)
	}
	slices.SortFunc(list, func(a, b Reason) int {
		switch {
		case a.FileSize != b.FileSize:
			return cmp.Compare(b.FileSize, a.FileSize)
		case a.Reason != b.Reason:
			return strings.Compare(a.Reason, b.Reason)
		case a.Keep:
			return 1
		}
		return -1
	})
	return list
}

func (r *GC) publications(verdicts []collect.Verdict) {
	pins := map[string]*Pin{}
	for _, v := range verdicts {
		p := v.Publication
		one := Publication{
			Time: p.Time.UTC(), Origin: p.Origin, Flake: p.Flake, Revision: p.Revision, Ref: p.Ref, RunURL: p.RunURL, Systems: p.Systems, Pin: p.Pin,
			Roots: len(p.Roots), Keep: v.Keep, Reason: v.Reason,
		}
		if !v.Until.IsZero() {
			until := v.Until.UTC()
			one.Until = &until
		}
		r.Publications = append(r.Publications, one)
		if !v.Pinned {
			continue
		}
		if pins[p.Pin] == nil {
			pins[p.Pin] = &Pin{Name: p.Pin}
		}
		pins[p.Pin].Publications++
		pins[p.Pin].Newest = p.Time.UTC() // the verdicts are in the order of time
	}
	for _, pin := range pins {
		r.Pins = append(r.Pins, *pin)
	}
	slices.SortFunc(r.Pins, func(a, b Pin) int { return strings.Compare(a.Name, b.Name) })
}

// Collected takes in what was done.
func (r *GC) Collected(c collect.Collected) {
	res := &Collected{
		Removed: c.Removed, Rewritten: c.Rewritten, Segments: []string{}, RepackedSize: c.Repacked,
		Deleted: c.Deleted, Waiting: len(c.Waiting), Freed: c.Freed,
	}
	res.Kept = index.Total{
		Paths:    r.Kept.Paths + r.Removed.Paths - c.Removed.Paths,
		NarSize:  r.Kept.NarSize + r.Removed.NarSize - c.Removed.NarSize,
		FileSize: r.Kept.FileSize + r.Removed.FileSize - c.Removed.FileSize,
	}
	for _, s := range c.Segments {
		res.Segments = append(res.Segments, s.Tag)
	}
	for _, m := range c.Waiting {
		if until := m.Since.Add(r.delay).UTC(); res.WaitingUntil == nil || until.After(*res.WaitingUntil) {
			res.WaitingUntil = &until
		}
	}
	for _, e := range c.Lost {
		res.Lost = append(res.Lost, e.Path.String())
	}
	slices.Sort(res.Lost)
	res.Refused = refusals(c.Refused)
	r.Result = res
}

// refusals groups manifests by why they are not deleted.
func refusals(refused []collect.Refusal) []Refusal {
	var list []Refusal
	for _, f := range refused {
		why := Refusal{Reason: f.Err.Error(), Remedy: hint.Of(f.Err)}
		var re *registry.RefusedError
		if errors.As(f.Err, &re) {
			why = Refusal{Reason: re.Reason, Remedy: re.Remedy}
		}
		i := slices.IndexFunc(list, func(x Refusal) bool { return x.Reason == why.Reason })
		if i < 0 {
			i, list = len(list), append(list, why)
		}
		list[i].Manifests = append(list[i].Manifests, f.Manifest.String())
	}
	return list
}

// Failure is the error of a run that has come to Collected that did not do all it should have. err is
// what ended it, if anything did.
func (r *GC) Failure(err error) error {
	errs := []error{err}
	for _, f := range r.Result.Refused {
		errs = append(errs, hint.Wrap(fmt.Errorf("the registry does not delete %s that nothing needs: %s", ui.Count(len(f.Manifests), "manifest"), f.Reason), f.Remedy))
	}
	if n := len(r.Result.Lost); n > 0 {
		errs = append(errs, hint.Wrap(fmt.Errorf("the registry has lost %s, or what they refer to: %s", ui.Count(n, "path"), ui.Few(r.Result.Lost)),
			"publish again what is still wanted; does something else clean up in this repository?"))
	}
	all := errors.Join(errs...)
	if err == nil || r.Result.Rewritten > 0 || r.Result.Deleted > 0 {
		return AsPartly(all)
	}
	return all
}

// Finish takes in the end of the run. The error's class makes the status.
func (r *GC) Finish(stages []Stage, err error) {
	r.Stages = stages
	r.Status, r.Error, r.Denied = end(err)
	r.Hints = hint.All(err)
}
