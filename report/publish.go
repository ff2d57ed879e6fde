package report

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/matrix"
)

// Publish is the result of a run of publish: what --json prints, and what the
// texts are made of. Sizes are in bytes. The zero value is a run of which nothing
// is known.
type Publish struct {
	Status Status `json:"status"`
	Error  string `json:"error,omitempty"`
	// OtherError is Error without what Outputs and Failures say one by one; empty
	// if nothing else went wrong.
	OtherError string `json:"otherError,omitempty"`
	// Hints are what can be done about Error.
	Hints []string `json:"hints,omitempty"`
	// Denied tells that the registry refused the credentials, or what they may
	// do.
	Denied bool   `json:"denied,omitempty"`
	Cache  string `json:"cache"`
	DryRun bool   `json:"dryRun"`
	// BuildOnly says that a dry run has built.
	BuildOnly bool `json:"buildOnly,omitempty"`
	// PublicKeys are our own keys and those for which they vouch, RetiredKeys those
	// of them that were taken out of the cache.
	PublicKeys  []string `json:"publicKeys,omitempty"`
	RetiredKeys []string `json:"retiredKeys,omitempty"`
	Flake       string   `json:"flake,omitempty"`
	// Origin is where the publication comes from, as it is recorded.
	Origin    string   `json:"origin,omitempty"`
	Systems   []string `json:"systems,omitempty"`
	Upstreams []string `json:"upstreams"`

	Outputs []Output `json:"outputs,omitempty"`
	// Matrix is what --matrix plan has made.
	Matrix *matrix.Matrix `json:"matrix,omitempty"`

	Closure    Total `json:"closure"`
	OnUpstream Total `json:"onUpstream"`
	InCache    Total `json:"inCache"`
	Excluded   Total `json:"excluded"`
	New        Total `json:"new"`
	// Uploaded is what was sent; Reused is new, but the cache had the same
	// NAR under another path.
	Uploaded Total `json:"uploaded"`
	Reused   Total `json:"reused"`
	// Committed is the number of entries that this run made durable, the
	// Repeated ones among them, which only were made young again.
	Committed int `json:"committed"`
	Repeated  int `json:"repeated"`
	// Signed is the number of those that had no signature of ours before this run;
	// Bare that of paths that were added without any signature.
	Signed int `json:"signed,omitempty"`
	Bare   int `json:"bare,omitempty"`
	// Unsigned is what is published without our signature: it was not built here,
	// and no trusted key has signed it. UnsignedPaths names it, and OtherKeys the
	// keys that have signed some of it.
	Unsigned      Total    `json:"unsigned,omitzero"`
	UnsignedPaths []string `json:"unsignedPaths,omitempty"`
	OtherKeys     []string `json:"otherKeys,omitempty"`
	// Fingerprints are with --unsigned what was built here, or is known to be right
	// otherwise, for sign to sign.
	Fingerprints []Fingerprint `json:"fingerprints,omitempty"`
	// Adopted is what was taken over from nixcache-oci; in a dry run what would
	// be, as far as the registry has it.
	Adopted Adopted `json:"adopted,omitzero"`
	// Imported is what was imported from oranc; absent if that was not asked for.
	Imported *Imported `json:"imported,omitempty"`
	// Pin is the name that the publication is pinned under, PinKeep how many
	// of that name are; empty if it is not pinned.
	Pin     string `json:"pin,omitempty"`
	PinKeep int    `json:"pinKeep,omitempty"`

	// Stored is what the cache holds after this run, of all branches, and
	// History what each of the last publications like this one reaches in it,
	// the oldest first, this one last. Both are absent if this run did not come
	// to its end.
	Stored  *Stored        `json:"stored,omitempty"`
	History []collect.Past `json:"history,omitempty"`

	// Paths are in a dry run all paths of the closure, else those uploaded;
	// LeftOut are those that were to be excluded, and what needs them.
	Paths    []Path    `json:"paths"`
	LeftOut  []Path    `json:"leftOut,omitempty"`
	Failures []Failure `json:"failures,omitempty"`
	Segments []string  `json:"segments,omitempty"`
	Stages   []Stage   `json:"stages"`
}

// Output is an output of the flake and what became of it.
type Output struct {
	Attr    string       `json:"attr"`
	Kind    string       `json:"kind"`
	System  string       `json:"system,omitempty"`
	Status  OutputStatus `json:"status"`
	Reason  string       `json:"reason,omitempty"`
	Job     string       `json:"job,omitempty"` // of the matrix
	Message string       `json:"message,omitempty"`
	Paths   []string     `json:"paths,omitempty"`
	Missing []string     `json:"missing,omitempty"`
	// FailedDrv is the derivation whose build failed, the output's own or one
	// that it needs, and Log the last lines that it printed; as far as known.
	FailedDrv string `json:"failedDrv,omitempty"`
	Log       string `json:"log,omitempty"`
}

// OutputStatus is what became of an output.
type OutputStatus string

// All statuses of outputs.
const (
	OutputBuilt    OutputStatus = "built"
	OutputPresent  OutputStatus = "present"  // in the local store, in a dry run that builds nothing
	OutputCached   OutputStatus = "cached"   // clients can get it, so it was not built
	OutputLeftOut  OutputStatus = "left out" // built, but a path of it is not published
	OutputPlanned  OutputStatus = "planned"  // a job of the matrix builds it
	OutputNotBuilt OutputStatus = "not built"
	OutputFailed   OutputStatus = "failed"
	OutputSkipped  OutputStatus = "skipped"
)

// OutputStatuses are all of them, in the order in which people want to read how
// many there are of each.
var OutputStatuses = []OutputStatus{OutputBuilt, OutputPresent, OutputCached, OutputLeftOut, OutputPlanned, OutputNotBuilt, OutputFailed, OutputSkipped}

// Good reports whether the output is published, if the run is.
func (s OutputStatus) Good() bool { return s == OutputBuilt || s == OutputPresent || s == OutputCached }

// Path is a store path and what was decided about it.
type Path struct {
	Path     string `json:"path"`
	Reason   string `json:"reason"`
	NarSize  int64  `json:"narSize"`
	FileSize int64  `json:"fileSize,omitempty"`
}

// New reports whether neither the cache nor an upstream cache had it.
func (p *Path) New() bool { return p.Reason == closure.KindNew.String() }

// Failure is a store path that is not published.
type Failure struct {
	Path  string `json:"path"`
	Error string `json:"error"`
}

// Adopted names the paths that were left out, because their NAR is lost or
// because they need one that is missing.
type Adopted struct {
	Total
	Lost       []string `json:"lost,omitempty"`
	Incomplete []string `json:"incomplete,omitempty"`
}

// IsZero reports whether there was nothing to take over.
func (a Adopted) IsZero() bool {
	return a.Total == Total{} && len(a.Lost)+len(a.Incomplete) == 0
}

// Imported is what was imported from oranc, or in a dry run would be.
type Imported struct {
	Total
	// Present is the number of oranc's paths that the cache had already.
	Present    int      `json:"present"`
	Lost       []string `json:"lost,omitempty"`
	Incomplete []string `json:"incomplete,omitempty"`
	// Unusable are the names of narinfos.
	Unusable []string `json:"unusable,omitempty"`
	// Realisations is the number of those of content-addressed derivations that
	// paths of the cache got.
	Realisations int `json:"realisations,omitempty"`
	// Other is the number of files that are not imported, such as logs.
	Other int `json:"other"`
	// SignedBy has the number of paths by the name of the key.
	SignedBy map[string]int `json:"signedBy"`
	Unsigned int            `json:"unsigned"`
}

// Stored is what a cache holds.
type Stored struct {
	Paths    int   `json:"paths"`
	FileSize int64 `json:"fileSize"`
}

// Finish takes in the end of the run. The error's class makes the status.
func (r *Publish) Finish(stages []Stage, err error) {
	r.Stages = stages
	slices.Sort(r.UnsignedPaths)
	slices.Sort(r.OtherKeys)
	slices.SortFunc(r.Fingerprints, func(a, b Fingerprint) int { return strings.Compare(a.Path, b.Path) })
	slices.SortFunc(r.Paths, func(a, b Path) int { return strings.Compare(a.Path, b.Path) })
	r.Status, r.Error, r.Denied = end(err)
	r.Hints = hint.All(err)
	r.OtherError = unlisted(err)
	if r.Status == Failed {
		r.Pin, r.PinKeep = "", 0
	}
}

// CheckOutputs sorts the outputs. Its error names those that failed.
func (r *Publish) CheckOutputs() error {
	slices.SortStableFunc(r.Outputs, func(a, b Output) int { return strings.Compare(a.Attr, b.Attr) })
	var failed []string
	for _, o := range r.Outputs {
		if o.Status == OutputFailed {
			failed = append(failed, o.Attr+" ("+o.Reason+")")
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return asListed(fmt.Errorf("%s failed: %s", ui.Count(len(failed), "output"), ui.Few(failed)))
}

// UnsentError is the error for paths that were not uploaded, of which errs has
// one for each: the first five messages, and how many there are. It is nil
// without errs.
func UnsentError(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	const few = 5
	seen := map[string]bool{}
	var first []error
	for _, err := range errs {
		if !seen[err.Error()] && len(first) < few {
			seen[err.Error()] = true
			first = append(first, err)
		}
	}
	return asListed(errors.Join(append(first, hint.Wrap(
		fmt.Errorf("%s not uploaded", ui.Count(len(errs), "path")),
		"run it again: what has arrived is not sent again"))...))
}

// NotSigned is what to say of paths that are not signed; nil if there are none.
func (r *Publish) NotSigned() error {
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

// Count is the number of outputs by status.
func (r *Publish) Count() map[OutputStatus]int {
	n := map[OutputStatus]int{}
	for _, o := range r.Outputs {
		n[o.Status]++
	}
	return n
}

// Published is the number of outputs that are published.
func (r *Publish) Published() int {
	if r.Status == Failed || r.DryRun {
		return 0
	}
	n := 0
	for _, o := range r.Outputs {
		if o.Status.Good() {
			n++
		}
	}
	return n
}

// Cause is why outputs failed: their evaluation, or a build.
type Cause struct {
	Reason, Message, FailedDrv, Log string
	// Attrs are the outputs.
	Attrs []string
}

// Causes gathers the outputs that failed. Those that need the same failed build
// have one cause.
func (r *Publish) Causes() []Cause {
	var all []Cause
	place := map[[4]string]int{}
	for _, o := range r.Outputs {
		if o.Status != OutputFailed {
			continue
		}
		c := [4]string{o.Reason, o.Message, o.FailedDrv, o.Log}
		i, ok := place[c]
		if !ok {
			i = len(all)
			place[c] = i
			all = append(all, Cause{Reason: o.Reason, Message: o.Message, FailedDrv: o.FailedDrv, Log: o.Log})
		}
		all[i].Attrs = append(all[i].Attrs, o.Attr)
	}
	return all
}

// Text says why, in plain text, with the last lines of the log.
func (c *Cause) Text() string {
	text := c.Reason
	if c.FailedDrv != "" {
		text += ", in " + c.Drv()
	}
	if len(c.Attrs) > 1 {
		text = strings.Join(c.Attrs, ", ") + ": " + text
	}
	if c.Message != "" {
		text += ": " + c.Message
	}
	if c.Log != "" {
		text += "\nlast lines of its log:\n" + c.Log
	}
	return text
}

// Drv is the name of the derivation that failed, without its suffix; "" if it is
// not known.
func (c *Cause) Drv() string {
	if c.FailedDrv == "" {
		return ""
	}
	return Name(strings.TrimSuffix(c.FailedDrv, ".drv"))
}

// Name is the name of a store path: "hello-1.0" for
// "/nix/store/<hash part>-hello-1.0".
func Name(storePath string) string {
	base := path.Base(storePath)
	if _, name, ok := strings.Cut(base, "-"); ok {
		return name
	}
	return base
}

// Part is a part of the closure, named for people.
type Part struct {
	Name string
	Total
	// Usual says that people look for it, even if there is nothing of it.
	Usual bool
}

// Parts divides the closure by what became of it: what need not be sent, and
// last what was sent, or in a dry run would be.
func (r *Publish) Parts() []Part {
	parts := []Part{
		{"on upstream caches", r.OnUpstream, true}, {"in the cache already", r.InCache, true},
		{"same contents as in the cache", r.Reused, false}, {"left out", r.Excluded, false},
	}
	switch {
	case r.BuildOnly:
		return append(parts, Part{"new, not uploaded", r.New, true})
	case r.DryRun:
		return append(parts, Part{"to upload", r.New, true})
	case r.Status == Failed && r.Uploaded.Paths > 0:
		return append(parts, Part{"sent, not published", r.Uploaded, true})
	}
	return append(parts, Part{"uploaded", r.Uploaded, true})
}
