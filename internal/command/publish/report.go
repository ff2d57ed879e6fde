package publish

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/upload"
)

// report is the result of a run: what --json prints, and what the summary is
// made of. Sizes are in bytes.
type report struct {
	Status string `json:"status"` // done, partly or failed
	Error  string `json:"error,omitempty"`
	// Denied tells that the registry refused the credentials, or what they may
	// do.
	Denied     bool     `json:"denied,omitempty"`
	Cache      string   `json:"cache"`
	DryRun     bool     `json:"dryRun"`
	PublicKeys []string `json:"publicKeys,omitempty"`
	Flake      string   `json:"flake,omitempty"`
	// Origin is where the publication comes from, as it is recorded.
	Origin    string   `json:"origin,omitempty"`
	Systems   []string `json:"systems,omitempty"`
	Upstreams []string `json:"upstreams"`

	Outputs []outputReport `json:"outputs,omitempty"`
	// Matrix is what --matrix plan has made.
	Matrix *matrix `json:"matrix,omitempty"`

	Closure    total `json:"closure"`
	OnUpstream total `json:"onUpstream"`
	InCache    total `json:"inCache"`
	Excluded   total `json:"excluded"`
	New        total `json:"new"`
	// Uploaded is what was sent; Reused is new, but the cache had the same
	// NAR under another path.
	Uploaded total `json:"uploaded"`
	Reused   total `json:"reused"`
	// Committed is the number of entries that this run made durable, the
	// Repeated ones among them, which only were made young again.
	Committed int `json:"committed"`
	Repeated  int `json:"repeated"`
	// Unsigned is what is published without our signature: it was not built here,
	// and no trusted key has signed it. UnsignedPaths names it, and OtherKeys the
	// keys that have signed some of it.
	Unsigned      total    `json:"unsigned,omitzero"`
	UnsignedPaths []string `json:"unsignedPaths,omitempty"`
	OtherKeys     []string `json:"otherKeys,omitempty"`
	// Adopted is what was taken over from nixcache-oci; in a dry run what would
	// be, as far as the registry has it.
	Adopted adoptReport `json:"adopted,omitzero"`
	// Imported is what was imported from oranc; absent if that was not asked for.
	Imported *importReport `json:"imported,omitempty"`
	// Pin is the name that the publication is pinned under, PinKeep how many
	// of that name are; empty if it is not pinned.
	Pin     string `json:"pin,omitempty"`
	PinKeep int    `json:"pinKeep,omitempty"`

	// Stored is what the cache holds after this run, of all branches, and
	// History what each of the last publications like this one reaches in it,
	// the oldest first, this one last. Both are absent if this run did not come
	// to its end.
	Stored  *storedReport  `json:"stored,omitempty"`
	History []collect.Past `json:"history,omitempty"`

	// Paths are in a dry run all paths of the closure, else those uploaded;
	// LeftOut are those that were to be excluded, and what needs them.
	Paths    []pathReport    `json:"paths"`
	LeftOut  []pathReport    `json:"leftOut,omitempty"`
	Failures []failureReport `json:"failures,omitempty"`
	Segments []string        `json:"segments,omitempty"`
	Stages   []cli.Stage     `json:"stages"`

	mu       sync.Mutex
	revision string
	complete bool // everything that was planned is in the cache
	partial  bool // something went wrong, something is published
	unsent   []error
	foreign  map[string]bool     // what is not signed, by store path
	logs     map[string]buildLog // by attribute
}

// adoptReport names the paths that were left out, because their NAR is lost or
// because they need one that is missing.
type adoptReport struct {
	total
	Lost       []string `json:"lost,omitempty"`
	Incomplete []string `json:"incomplete,omitempty"`
}

// IsZero reports whether there was nothing to take over.
func (a adoptReport) IsZero() bool {
	return a.total == total{} && len(a.Lost)+len(a.Incomplete) == 0
}

type total struct {
	Paths    int   `json:"paths"`
	NarSize  int64 `json:"narSize"`
	FileSize int64 `json:"fileSize,omitempty"`
}

func (t *total) add(narSize, fileSize int64) {
	t.Paths++
	t.NarSize += narSize
	t.FileSize += fileSize
}

type storedReport struct {
	Paths    int   `json:"paths"`
	FileSize int64 `json:"fileSize"`
}

type outputReport struct {
	Attr    string   `json:"attr"`
	Kind    string   `json:"kind"`
	System  string   `json:"system,omitempty"`
	Status  string   `json:"status"` // built, cached, left out, planned, not built, failed or skipped
	Reason  string   `json:"reason,omitempty"`
	Job     string   `json:"job,omitempty"` // of the matrix
	Message string   `json:"message,omitempty"`
	Paths   []string `json:"paths,omitempty"`
	Missing []string `json:"missing,omitempty"`
	// FailedDrv is the derivation whose build failed, the output's own or one
	// that it needs, and Log the last lines that it printed; as far as known.
	FailedDrv string `json:"failedDrv,omitempty"`
	Log       string `json:"log,omitempty"`
}

type pathReport struct {
	Path     string `json:"path"`
	Reason   string `json:"reason"`
	NarSize  int64  `json:"narSize"`
	FileSize int64  `json:"fileSize,omitempty"`
}

type failureReport struct {
	Path  string `json:"path"`
	Error string `json:"error"`
}

const (
	statusBuilt    = "built"
	statusCached   = "cached"   // clients can get it, so it was not built
	statusLeftOut  = "left out" // built, but a path of it is not published
	statusPlanned  = "planned"  // a job of the matrix builds it
	statusNotBuilt = "not built"
	statusFailed   = "failed"
	statusSkipped  = "skipped"
)

const notInStore = "not in the local store"

func (r *report) discovered(d discover.Result) {
	r.Flake, r.Systems, r.revision = d.Flake.URL, d.Systems, d.Flake.Revision
	for _, s := range d.Skipped {
		status := statusSkipped
		if s.Reason.Failure() {
			status = statusFailed
		}
		r.Outputs = append(r.Outputs, outputReport{
			Attr: s.Attr.String(), Kind: string(s.Kind), System: s.System, Status: status, Reason: string(s.Reason), Message: s.Message,
		})
	}
}

// built takes in what a build gave. Its error names what cannot be published.
func (r *report) built(built []discover.Built, dryRun bool) error {
	for _, b := range built {
		o := outputReport{Attr: b.Attr.String(), Kind: string(b.Kind), System: b.System, Status: statusBuilt, Paths: b.Valid, Missing: b.Missing}
		switch {
		case len(b.Missing) > 0 && dryRun:
			o.Status, o.Reason = statusNotBuilt, notInStore
		case len(b.Missing) > 0:
			o.Status, o.Reason = statusFailed, "build failed"
			if errors.As(b.Err, new(*nix.InvalidPathsError)) {
				o.Reason = notInStore
			}
			known := r.logs[o.Attr]
			o.FailedDrv, o.Log, o.Message = known.drv, known.text, known.message
		}
		r.Outputs = append(r.Outputs, o)
	}
	return r.failedOutputs()
}

// cached takes in an output that need not be built.
func (r *report) cached(o *discover.Output, where string) {
	r.Outputs = append(r.Outputs, outputReport{Attr: o.Attr.String(), Kind: string(o.Kind), System: o.System, Status: statusCached, Reason: where, Paths: o.Paths()})
}

// failedOutputs sorts the outputs. Its error names those that failed.
func (r *report) failedOutputs() error {
	slices.SortStableFunc(r.Outputs, func(a, b outputReport) int { return strings.Compare(a.Attr, b.Attr) })
	var failed []string
	for _, o := range r.Outputs {
		if o.Status == statusFailed {
			failed = append(failed, o.Attr+" ("+o.Reason+")")
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return fmt.Errorf("%s failed: %s", ui.Count(len(failed), "output"), ui.Few(failed))
}

// plan takes in a plan, and the decisions on what is skipped beside it. Of that
// only what the cache has is counted: of the rest not even the size is known.
func (r *report) plan(p *closure.Plan, beside []closure.Decision) {
	r.Closure = total{Paths: p.Set.Len(), NarSize: p.Set.NarSize()}
	sum := func(kinds ...closure.Kind) total {
		t := p.Total(kinds...)
		return total{Paths: t.Paths, NarSize: t.NarSize}
	}
	r.OnUpstream = sum(closure.KindOnUpstream, closure.KindBelow)
	r.InCache = sum(closure.KindInCache)
	r.New = sum(closure.KindNew)
	r.Excluded = sum(closure.KindExcluded, closure.KindNeedsExcluded)
	beside = slices.DeleteFunc(beside, func(d closure.Decision) bool { return d.Kind != closure.KindInCache })
	for _, d := range beside {
		r.Closure.add(d.Path.NarSize, 0)
		r.InCache.add(d.Path.NarSize, 0)
	}
	for _, d := range append(beside, p.Decisions...) {
		path := pathReport{Path: d.Path.Path, Reason: d.Reason(), NarSize: d.Path.NarSize}
		if r.DryRun {
			r.Paths = append(r.Paths, path)
		}
		if d.Kind == closure.KindExcluded || d.Kind == closure.KindNeedsExcluded {
			r.LeftOut = append(r.LeftOut, path)
		}
	}
	for i := range r.Outputs {
		o := &r.Outputs[i]
		for _, path := range r.LeftOut {
			if o.Status == statusBuilt && slices.Contains(o.Paths, path.Path) {
				o.Status, o.Reason = statusLeftOut, path.Reason
			}
		}
	}
}

// uploaded is called concurrently.
func (r *report) uploaded(u upload.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Uploaded.add(u.Info.NarSize, u.Sent)
	r.Paths = append(r.Paths, pathReport{Path: u.Info.Path, Reason: closure.KindNew.String(), NarSize: u.Info.NarSize, FileSize: u.Sent})
}

// unsigned takes in a path that is not signed. It is called concurrently, and
// again for a path that is sent again.
func (r *report) unsigned(info *nix.PathInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.foreign[info.Path] {
		return
	}
	if r.foreign == nil {
		r.foreign = map[string]bool{}
	}
	r.foreign[info.Path] = true
	r.Unsigned.add(info.NarSize, 0)
	r.UnsignedPaths = append(r.UnsignedPaths, info.Path)
	for _, s := range info.Signatures {
		if name, _, ok := strings.Cut(s, ":"); ok && !slices.Contains(r.OtherKeys, name) {
			r.OtherKeys = append(r.OtherKeys, name)
		}
	}
}

// notSigned is what to say of paths that are not signed; nil if there are none.
func (r *report) notSigned() error {
	if r.Unsigned.Paths == 0 {
		return nil
	}
	by := ""
	if len(r.OtherKeys) > 0 {
		by = " (some are signed by " + ui.Few(r.OtherKeys) + ")"
	}
	return hint.Wrap(fmt.Errorf("%s not signed: they were substituted or copied here, and no trusted key has signed them%s", ui.Count(r.Unsigned.Paths, "path"), by),
		"trust the key that has signed them with --trusted-key NAME:BASE64 (the action's trusted-keys), or sign with `nix store sign` what you know to be right; clients take these paths only if they trust such a key themselves")
}

func (r *report) failed(fs []upload.Failure) {
	for _, f := range fs {
		r.Failures = append(r.Failures, failureReport{f.Path, f.Err.Error()})
		r.unsent = append(r.unsent, f.Err)
	}
}

// failures is the error of the paths that were not uploaded: the first five
// messages, and how many there are.
func (r *report) failures() error {
	if len(r.unsent) == 0 {
		return nil
	}
	const few = 5
	seen := map[string]bool{}
	var errs []error
	for _, err := range r.unsent {
		if !seen[err.Error()] && len(errs) < few {
			seen[err.Error()] = true
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, hint.Wrap(
		fmt.Errorf("%s not uploaded", ui.Count(len(r.unsent), "path")),
		"what does not refer to them is published; the next run sends the rest"))...)
}

// history is how many publications the report tells of.
const history = 20

func (r *report) published(s *index.Snapshot, p format.Publication) {
	r.Stored = &storedReport{s.Len(), s.Stored()}
	r.History = collect.History(s, p, history)
}

// record takes in what is recorded of the publication, or would be.
func (r *report) record(p format.Publication) {
	r.Origin, r.Pin, r.PinKeep = p.Origin, p.Pin, p.PinKeep
}

// adopted may be called again, for what was found later.
func (r *report) adopted(a index.Adopted) {
	r.Adopted.Paths += a.Paths
	r.Adopted.NarSize += a.NarSize
	r.Adopted.FileSize += a.FileSize
	for _, e := range a.Lost {
		r.Adopted.Lost = append(r.Adopted.Lost, e.Path.String())
	}
	for _, e := range a.Incomplete {
		r.Adopted.Incomplete = append(r.Adopted.Incomplete, e.Path.String())
	}
}

// committed takes in what a Writer did, and the error that ended it.
func (r *report) committed(res index.Result, err error) {
	r.Committed = res.Committed
	why := "uploaded, but something it refers to is missing"
	if err != nil {
		why = "sent, but not published: the cache index could not be written"
	}
	for _, e := range append(res.Incomplete, res.Lost...) {
		p := e.Path.String()
		if !slices.ContainsFunc(r.Failures, func(f failureReport) bool { return f.Path == p }) {
			r.Failures = append(r.Failures, failureReport{p, why})
		}
	}
}

func (r *report) finish(stages []cli.Stage, err error) {
	r.Stages = stages
	slices.Sort(r.UnsignedPaths)
	slices.Sort(r.OtherKeys)
	slices.SortFunc(r.Paths, func(a, b pathReport) int { return strings.Compare(a.Path, b.Path) })
	r.Status = "done"
	if err != nil {
		r.Status, r.Error, r.Denied = "failed", err.Error(), registry.Denied(err)
		if r.partial {
			r.Status = "partly"
		}
	}
	if r.Status == "failed" {
		r.Pin, r.PinKeep = "", 0
	}
}

// text is the summary for people.
func (r *report) text() string {
	var b strings.Builder
	var rows [][]string
	row := func(what string, t total, extra string) {
		rows = append(rows, []string{what, ui.Number(t.Paths), ui.Bytes(t.NarSize), extra})
	}
	if r.Adopted.Paths > 0 {
		row("taken over", r.Adopted.total, "from nixcache-oci")
	}
	if r.Closure.Paths > 0 {
		row("closure", r.Closure, "")
		row("on upstream caches", r.OnUpstream, "")
		row("in the cache already", r.InCache, "")
		if r.Excluded.Paths > 0 {
			row("excluded", r.Excluded, "")
		}
		if r.DryRun {
			row("to upload", r.New, "")
		} else {
			if r.Reused.Paths > 0 {
				row("same contents as in the cache", r.Reused, "")
			}
			extra := ""
			if r.Uploaded.Paths > 0 {
				extra = fmt.Sprintf("%s compressed (%s)", ui.Bytes(r.Uploaded.FileSize), ui.Ratio(r.Uploaded.FileSize, r.Uploaded.NarSize))
			}
			what := "uploaded"
			if r.Status == "failed" && r.Uploaded.Paths > 0 {
				what = "sent, not published"
			}
			row(what, r.Uploaded, extra)
		}
	}
	fmt.Fprintf(&b, "%s\n", r.outputsText())
	b.WriteString(r.Matrix.text())
	if rows != nil {
		b.WriteString(ui.Table([]string{"", "paths", "NAR size", ""}, rows))
	}
	if r.Unsigned.Paths > 0 {
		fmt.Fprintf(&b, "not signed: %s, %s\n", ui.Count(r.Unsigned.Paths, "path"), ui.Bytes(r.Unsigned.NarSize))
	}
	if r.Pin != "" {
		stay := "newest stays"
		if r.PinKeep > 1 {
			stay = fmt.Sprintf("newest %d stay", r.PinKeep)
		}
		fmt.Fprintf(&b, "pinned: %s (the %s until gc --unpin %s)\n", r.Pin, stay, r.Pin)
	}
	var times []string
	for _, s := range r.Stages {
		times = append(times, fmt.Sprintf("%s %.1f s", s.Name, s.Seconds))
	}
	if times != nil {
		fmt.Fprintf(&b, "time: %s\n", strings.Join(times, ", "))
	}
	fmt.Fprintf(&b, "cache: %s", r.Cache)
	if r.Status == "failed" && !r.DryRun {
		b.WriteString("\nnothing is published")
	}
	return b.String()
}

// outputsText counts the outputs, and names those that are not published.
func (r *report) outputsText() string {
	if len(r.Outputs) == 0 {
		return "summary"
	}
	n := map[string]int{}
	left := map[string][]string{} // attributes by reason
	for _, o := range r.Outputs {
		n[o.Status]++
		if o.Status != statusBuilt && o.Status != statusCached && o.Status != statusPlanned {
			reason := o.Status + " (" + o.Reason + ")"
			left[reason] = append(left[reason], o.Attr)
		}
	}
	s := "outputs: " + ui.Number(len(r.Outputs)) + " found"
	for _, status := range []string{statusBuilt, statusCached, statusLeftOut, statusPlanned, statusNotBuilt, statusFailed, statusSkipped} {
		if n[status] > 0 {
			s += fmt.Sprintf(", %d %s", n[status], status)
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(left)) {
		s += "\n" + reason + ": " + ui.Few(left[reason])
	}
	return s
}

// planText is the plan of a dry run, a line for each path.
func (r *report) planText() string {
	var rows [][]string
	for _, p := range r.Paths {
		rows = append(rows, []string{ui.Bytes(p.NarSize), path.Base(p.Path), p.Reason})
	}
	seen := map[string]bool{}
	for _, o := range r.Outputs {
		if o.Status == statusNotBuilt {
			for _, m := range o.Missing {
				if seen[m] {
					continue
				}
				seen[m] = true
				rows = append(rows, []string{"-", path.Base(m), "not built yet: " + o.Attr})
			}
		}
	}
	if rows == nil {
		return ""
	}
	return ui.Table([]string{"NAR size", "path", "reason"}, rows) + "\n"
}
