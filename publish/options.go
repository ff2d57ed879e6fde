// Package publish is one run of publishing. It puts what a flake builds, or
// store paths, into a binary cache in a repository. It reads no environment,
// and prints through the messages that it is given.
package publish

import (
	"context"
	"io"
	"log/slog"

	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/ci"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/progress"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/secret"
	"github.com/org/nixoci-action/internal/signing"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/matrix"
	"github.com/org/nixoci-action/report"
)

// Options say what to publish, how, and with what. Of those that say with what,
// Index, Repo, Nix, Messages and Log must be set. The others' zero values
// publish the closure of no path, into a cache that stays as it is, unsigned.
type Options struct {
	// Flake is a flake reference; "" for store paths.
	Flake string
	// Paths are store paths, or links to them, without Flake.
	Paths []string
	// Input has the paths instead, separated by white space. It is read while the
	// cache is opened. To read nothing at all is an error, an empty line is none.
	Input io.Reader

	// What is chosen of the flake, as in discover.Options.
	Systems          []string
	Kinds            []discover.Kind
	Include, Exclude []string
	DenyUnfree       bool
	AcceptConfig     bool
	// EvalJobs and EvalMemory are the Jobs and Memory of discover.Options.
	EvalJobs   int
	EvalMemory int64

	// SkipCached leaves outputs unbuilt that the cache or an upstream has.
	SkipCached bool
	// Matrix is matrix.Planning, matrix.Recording, or "" to build and publish.
	Matrix string
	// MatrixJobs and Runners are for Planning, as in matrix.Options.
	MatrixJobs int
	Runners    map[string]string
	// Part is the job of a matrix that this run does; nil if it is none. What it
	// chooses of the flake must be in the fields above.
	Part *matrix.Job

	// Pin is the name under which the publication is kept, and PinKeep how many
	// of that name are; "" for no pin.
	Pin     string
	PinKeep int
	// Series is of publications of store paths; "" to go by their names.
	Series string

	// ImportOranc imports what oranc has stored, and publishes nothing else.
	ImportOranc bool

	// ExcludePaths are globs over names of store paths that are left out, with
	// what refers to them.
	ExcludePaths []string
	// Compression, Level and Jobs are as in upload.Options.
	Compression string
	Level       int
	Jobs        int
	// CompatIndex says whether nixcache-oci's proxy can use the cache from now
	// on; nil leaves that as it is.
	CompatIndex *bool
	// BuildDeps publishes what is built only for others to be built with, too.
	BuildDeps bool
	// NoLogs keeps the logs of builds out of the cache.
	NoLogs bool
	// StreamLogs prints what builders print as it comes.
	StreamLogs bool
	// DryRun finds out what would be done, and writes and builds nothing. With
	// BuildOnly it does build.
	DryRun, BuildOnly bool

	// Cache is what the user calls the cache; Repo is where it is, and Index what
	// reads and writes it there.
	Cache string
	Repo  registry.Repository
	Index *index.Cache
	// Anonymous is Repo without a login, to say after the first publication
	// whether that can be read; nil to say nothing.
	Anonymous registry.Repository
	// Upstreams are caches whose paths are not published again.
	Upstreams []closure.Upstream
	// CacheDir is for what upstream caches were found to have; "" for none.
	CacheDir string
	Nix      *nix.Client
	// Keys sign. Trusted are the public keys whose signatures are as good as a
	// build here.
	Keys    signing.Keys
	Trusted []string
	// Unsigned leaves what is built here to be signed elsewhere: it is in the
	// report's Fingerprints. Of the cache then only what Trusted have signed
	// counts. There must be no Keys.
	Unsigned bool
	// Secrets must not be in what is published, nor in the report. It may be nil.
	Secrets *secret.Set
	// Job is the CI job that publishes; the zero value outside of CI.
	Job ci.Job
	// GitEnv is the environment, NAME=VALUE, of which Git gets what it needs. It is
	// asked where a folder was cloned from.
	GitEnv []string

	Messages *ui.Messages
	Log      *slog.Logger
}

// Run publishes, and reports also what it has done until an error. The class of
// the error is one of package report's; an error of none has published nothing.
// When ctx ends, what is in the cache's repository by then is committed.
func Run(ctx context.Context, o Options) (*report.Publish, error) {
	p := newPublisher(o)
	p.show = progress.New(progress.Options{Messages: o.Messages, Stream: o.StreamLogs, Redact: p.redact})
	err := p.run(ctx)
	p.show.End()
	p.report.Finish(p.stages.Stages(), err)
	p.report.Error, p.report.OtherError = p.redact(p.report.Error), p.redact(p.report.OtherError)
	for i, h := range p.report.Hints {
		p.report.Hints[i] = p.redact(h)
	}
	for i := range p.report.Outputs {
		o := &p.report.Outputs[i]
		o.Message, o.Log = p.redact(o.Message), p.redact(o.Log)
	}
	return &p.report.Publish, err
}
