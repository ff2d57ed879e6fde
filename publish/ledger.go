package publish

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/index/migrate"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/report"
	"github.com/org/nixoci-action/upload"
)

// ledger is the report of a run while it is made, and what the run must know
// beside it.
type ledger struct {
	report.Publish

	mu       sync.Mutex
	revision string
	visible  bool // clients can get one of the outputs, even if nothing was committed
	unsent   []error
	foreign  map[string]bool     // what is not signed, by store path
	vouched  map[string]bool     // what is to be signed elsewhere, by store path
	unkeyed  map[string]bool     // what is added without a signature, by store path
	logs     map[string]buildLog // by attribute
}

const (
	notInStore  = "not in the local store"
	notUploaded = "not uploaded"
)

// output takes in an output that became what status says.
func (l *ledger) output(o *discover.Output, status report.OutputStatus) *report.Output {
	l.Outputs = append(l.Outputs, report.Output{Attr: o.Attr.String(), Kind: string(o.Kind), System: o.System, Status: status})
	return &l.Outputs[len(l.Outputs)-1]
}

func (l *ledger) flake(url, revision string, systems []string) {
	l.Flake, l.Systems, l.revision = url, systems, revision
}

func (l *ledger) discovered(skipped []discover.Skipped) {
	for _, s := range skipped {
		status := report.OutputSkipped
		if s.Reason.Failure() {
			status = report.OutputFailed
		}
		l.Outputs = append(l.Outputs, report.Output{
			Attr: s.Attr.String(), Kind: string(s.Kind), System: s.System, Status: status, Reason: string(s.Reason), Message: s.Message,
		})
	}
}

// built takes in what a build gave. Its error names what cannot be published.
// Where not all was to be built, unbuilt says why something may be missing.
func (l *ledger) built(built []discover.Built, unbuilt string) error {
	for i := range built {
		b := &built[i]
		o := l.output(&b.Output, report.OutputBuilt)
		o.Paths, o.Missing = b.Valid, b.Missing
		switch {
		case b.Unbuilt != nil:
			o.Reason = "without the shell itself, which does not build: what it needs is there"
		case len(b.Missing) > 0 && unbuilt != "":
			o.Status, o.Reason = report.OutputNotBuilt, unbuilt
		case len(b.Missing) > 0:
			o.Status, o.Reason = report.OutputFailed, "build failed"
			if errors.As(b.Err, new(*nix.InvalidPathsError)) {
				o.Reason = notInStore
			}
			known := l.logs[o.Attr]
			o.FailedDrv, o.Log, o.Message = known.drv, known.text, known.message
		case unbuilt == notInStore:
			o.Status = report.OutputPresent
		}
	}
	return l.CheckOutputs()
}

// cached takes in an output that need not be built.
func (l *ledger) cached(o *discover.Output, where string) {
	r := l.output(o, report.OutputCached)
	r.Reason, r.Paths = where, o.Paths()
}

// planned takes in an output that a job of the matrix builds.
func (l *ledger) planned(o *discover.Output, job string) {
	r := l.output(o, report.OutputPlanned)
	r.Job, r.Paths = job, o.Paths()
}

// absent takes in outputs that are to be recorded, and are not there.
func (l *ledger) absent(outputs []discover.Output) error {
	for i := range outputs {
		r := l.output(&outputs[i], report.OutputFailed)
		r.Reason, r.Missing = "not in the cache", outputs[i].Paths()
	}
	err := l.CheckOutputs()
	if err != nil && len(outputs) > 0 {
		err = hint.Wrap(err, "--matrix record builds nothing: did every job of the matrix succeed, with the same flake and the same key? Only what the key has signed counts: --trusted-key lets the jobs sign what they substitute")
	}
	return err
}

// plan takes in a plan, and the decisions on what is skipped beside it. Of that
// only what the cache has is counted: of the rest not even the size is known.
func (l *ledger) plan(p *closure.Plan, beside []closure.Decision) {
	l.Closure = report.Total{Paths: p.Set.Len(), NarSize: p.Set.NarSize()}
	sum := func(kinds ...closure.Kind) report.Total {
		t := p.Total(kinds...)
		return report.Total{Paths: t.Paths, NarSize: t.NarSize}
	}
	l.OnUpstream = sum(closure.KindOnUpstream, closure.KindBelow)
	l.InCache = sum(closure.KindInCache)
	l.New = sum(closure.KindNew)
	l.Excluded = sum(closure.KindExcluded, closure.KindNeedsExcluded)
	beside = slices.DeleteFunc(slices.Clone(beside), func(d closure.Decision) bool { return d.Kind != closure.KindInCache })
	for _, d := range beside {
		l.Closure.Add(d.Path.NarSize, 0)
		l.InCache.Add(d.Path.NarSize, 0)
	}
	for _, d := range append(beside, p.Decisions...) {
		path := report.Path{Path: d.Path.Path, Reason: d.Reason(), NarSize: d.Path.NarSize}
		if l.DryRun {
			l.Paths = append(l.Paths, path)
		}
		if d.Kind == closure.KindExcluded || d.Kind == closure.KindNeedsExcluded {
			l.LeftOut = append(l.LeftOut, path)
		}
	}
	why := map[string]string{}
	for _, path := range l.LeftOut {
		why[path.Path] = path.Reason
	}
	l.leaveOut(func(path string) string { return why[path] })
}

// leaveOut marks the outputs of which a path is not published. The function
// tells why it is not, or "".
func (l *ledger) leaveOut(why func(path string) string) {
	for i := range l.Outputs {
		o := &l.Outputs[i]
		for _, path := range o.Paths {
			if reason := why(path); reason != "" && o.Status.Good() {
				o.Status, o.Reason = report.OutputLeftOut, reason
			}
		}
	}
}

// uploaded is called concurrently.
func (l *ledger) uploaded(u upload.Result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Uploaded.Add(u.Info.NarSize, u.Sent)
	l.Paths = append(l.Paths, report.Path{Path: u.Info.Path, Reason: closure.KindNew.String(), NarSize: u.Info.NarSize, FileSize: u.Sent})
}

// unsigned takes in a path that is not signed. It is called concurrently, and
// again for a path that is sent again.
func (l *ledger) unsigned(info *nix.PathInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.foreign[info.Path] {
		return
	}
	if l.foreign == nil {
		l.foreign = map[string]bool{}
	}
	l.foreign[info.Path] = true
	l.Unsigned.Add(info.NarSize, 0)
	l.UnsignedPaths = append(l.UnsignedPaths, info.Path)
	for _, s := range info.Signatures {
		if name, _, ok := strings.Cut(s, ":"); ok && !slices.Contains(l.OtherKeys, name) {
			l.OtherKeys = append(l.OtherKeys, name)
		}
	}
}

// bare takes in a path that is added without a signature, because there is no key.
// It is called concurrently, and again for a path that is sent again.
func (l *ledger) bare(path string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unkeyed == nil {
		l.unkeyed = map[string]bool{}
	}
	l.unkeyed[path] = true
	l.Bare = len(l.unkeyed)
}

// vouch takes in what is to be signed elsewhere. It is called concurrently, and
// again for a path that is sent again.
func (l *ledger) vouch(f report.Fingerprint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.vouched == nil {
		l.vouched = map[string]bool{}
	}
	if !l.vouched[f.Path] {
		l.vouched[f.Path] = true
		l.Fingerprints = append(l.Fingerprints, f)
	}
}

func (l *ledger) failed(fs []upload.Failure) {
	for _, f := range fs {
		l.Failures = append(l.Failures, report.Failure{Path: f.Path, Error: f.Err.Error()})
		l.unsent = append(l.unsent, f.Err)
	}
}

// history is how many publications the report tells of.
const history = 20

func (l *ledger) published(s *index.Snapshot, p format.Publication) {
	l.Stored = &report.Stored{Paths: s.Len(), FileSize: s.Stored()}
	l.History = collect.History(s, p, history)
}

// record takes in what is recorded of the publication, or would be.
func (l *ledger) record(p format.Publication) {
	l.Origin, l.Pin, l.PinKeep = p.Origin, p.Pin, p.PinKeep
}

// adopted may be called again, for what was found later.
func (l *ledger) adopted(a index.Adopted) {
	l.Adopted.Paths += a.Paths
	l.Adopted.NarSize += a.NarSize
	l.Adopted.FileSize += a.FileSize
	for _, e := range a.Lost {
		l.Adopted.Lost = append(l.Adopted.Lost, e.Path.String())
	}
	for _, e := range a.Incomplete {
		l.Adopted.Incomplete = append(l.Adopted.Incomplete, e.Path.String())
	}
}

func (l *ledger) imported(im migrate.Imported) {
	names := func(paths []storepath.Path) (all []string) {
		for _, p := range paths {
			all = append(all, p.String())
		}
		return all
	}
	l.Imported = &report.Imported{
		Total: report.Total{Paths: im.Paths, NarSize: im.NarSize, FileSize: im.FileSize}, Present: im.Present,
		Lost: names(im.Lost), Incomplete: names(im.Incomplete), Unusable: im.Unusable,
		Realisations: im.Realisations, Other: im.Other, SignedBy: im.Keys, Unsigned: im.Unsigned,
	}
	for _, s := range im.Segments {
		l.Segments = append(l.Segments, s.Tag)
	}
}

// committed takes in what a Writer did, the error that ended it, and whether
// clients can get a store path then.
func (l *ledger) committed(res index.Result, err error, available func(path string) bool) {
	l.Committed = res.Committed
	why := map[string]string{}
	for _, f := range l.Failures {
		why[f.Path] = f.Error
	}
	reason := "uploaded, but something it refers to is missing"
	if err != nil {
		reason = "sent, but not published: the cache index could not be written"
	}
	for _, e := range append(res.Incomplete, res.Lost...) {
		if p := e.Path.String(); why[p] == "" {
			why[p] = reason
			l.Failures = append(l.Failures, report.Failure{Path: p, Error: reason})
		}
	}
	l.leaveOut(func(path string) string {
		if available(path) {
			return ""
		}
		return cmp.Or(why[path], notUploaded)
	})
}
