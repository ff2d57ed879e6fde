package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/ci"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/secret"
	"github.com/org/nixoci-action/internal/signing"
	"github.com/org/nixoci-action/internal/ui"
)

// publisher is one run of the command.
type publisher struct {
	cfg    config
	getenv func(string) string
	stdin  io.Reader
	msg    *ui.Messages
	log    *slog.Logger
	nix    *nix.Client
	keys   signing.Keys
	// trusted are the public keys whose signatures are as good as a build here
	trusted []string
	repo    registry.Repository
	cache   *index.Cache
	// secrets must not be in what is published, nor in what is printed
	secrets *secret.Set

	// complete: all that was to be published was built and uploaded, so that
	// it can be pinned, and take the place of what was published before
	complete bool

	// origin is where the flake comes from, if its reference does not say it
	origin string

	skipped   skipped
	upstreams []*closure.Upstream
	extras    extras

	report report
	stages cli.Stopwatch
}

// publish does what cfg asks for and prints the report. Its error carries the
// exit status.
func publish(ctx context.Context, cfg config, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) error {
	p, done, err := newPublisher(cfg, getenv, stdin, stderr)
	if err != nil {
		return err
	}
	defer done()
	err = p.run(ctx)
	p.report.finish(p.stages.Stages(), err)
	p.report.Error = p.redact(p.report.Error)
	switch {
	case cfg.JSON:
		err = errors.Join(err, cli.WriteJSON(stdout, &p.report))
	case cfg.Matrix == matrixPlan:
		err = errors.Join(err, p.report.Matrix.write(stdout))
	case cfg.DryRun:
		if _, werr := io.WriteString(stdout, p.report.planText()); werr != nil {
			err = errors.Join(err, fmt.Errorf("writing the plan: %w", werr))
		}
	}
	if p.report.Closure.Paths > 0 || len(p.report.Outputs) > 0 {
		p.msg.Printf("%s", p.report.text())
	}
	return err
}

func newPublisher(cfg config, getenv func(string) string, stdin io.Reader, stderr io.Writer) (*publisher, func(), error) {
	msg := ui.New(stderr, getenv)
	secrets := cli.Secrets(getenv)
	_, inURL := secret.Reference(cfg.Flake)
	secrets.Add("the login in the flake's URL", inURL...)
	keys, err := signing.Load(cfg.KeyFiles, cfg.KeyText)
	for _, k := range keys {
		secrets.AddKeys(k.String())
	}
	for _, s := range secrets.Texts() {
		msg.Mask(s)
	}
	if err != nil {
		return nil, nil, cli.WithStatus(err, cli.ExitUsage)
	}
	trusted, err := keys.Trusted(cfg.TrustedKeys)
	if err != nil {
		return nil, nil, cli.WithStatus(err, cli.ExitUsage)
	}
	for _, err := range cli.SecretFiles(getenv, cfg.KeyFiles...) {
		msg.Warn(err)
	}
	level := slog.LevelWarn
	if cfg.Verbose {
		level = slog.LevelDebug
	}
	nixLog := msg.Log()
	log := msg.Logger(level)
	own, _ := ci.Detect(getenv).Own(cfg.Cache)
	repo, err := cli.OpenRepository(cfg.Cache, registry.Options{
		Push:     !cfg.readOnly(),
		Keychain: cli.Remember(cli.Keychain(getenv), secrets),
		Advice:   own.Advice,
		Logger:   log,
	})
	if err != nil {
		return nil, nil, cli.WithStatus(err, cli.ExitUsage)
	}
	dir := cfg.CacheDir
	if cfg.DryRun {
		dir = "" // a dry run writes nothing anywhere
	}
	urls := []string{}
	var upstreams []*closure.Upstream
	for _, u := range cfg.Upstreams {
		up, err := closure.NewUpstream(u, closure.UpstreamOptions{Logger: log})
		if err != nil {
			return nil, nil, cli.WithStatus(err, cli.ExitUsage)
		}
		upstreams, urls = append(upstreams, up), append(urls, up.String())
	}
	p := &publisher{
		upstreams: upstreams,
		cfg:       cfg, getenv: getenv, stdin: stdin, msg: msg, log: log, keys: keys, trusted: trusted, repo: repo, secrets: secrets,
		nix:    nix.New(nix.Options{Env: os.Environ(), Args: cfg.NixArgs, Stderr: nixLog, Logger: log}),
		cache:  index.Open(repo, index.Options{Dir: dir, Logger: log}),
		report: report{Cache: repo.String(), DryRun: cfg.DryRun, PublicKeys: keys.PublicKeys(), Upstreams: urls, Paths: []pathReport{}, logs: map[string]buildLog{}},
	}
	return p, func() { nixLog.Close() }, nil
}

// run goes through the stages. The index is read, and the right to write
// proved, while Nix evaluates and builds: an hour's build must not end at a
// locked door.
func (p *publisher) run(ctx context.Context) error {
	if p.cfg.ImportOranc {
		return p.importOranc(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	opened, begin := make(chan struct{}), time.Now()
	var base *index.Snapshot
	var openErr error
	go func() {
		defer close(opened)
		if base, openErr = p.open(ctx); openErr != nil {
			cancel(openErr)
		}
	}()
	wait := func() (*index.Snapshot, error) {
		<-opened
		return base, openErr
	}
	var roots []root
	var rootsErr error
	if p.cfg.Matrix == matrixPlan {
		rootsErr = p.planMatrix(ctx, wait)
	} else {
		roots, rootsErr = p.roots(ctx, wait)
	}
	<-opened
	if openErr != nil && !errors.Is(openErr, context.Canceled) {
		return p.explain(openErr)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(roots)+len(p.skipped.roots) == 0 {
		return rootsErr // with no error there were no paths on standard input, or in a dry run nothing is built
	}
	set, err := p.closure(ctx, roots)
	if err != nil {
		return errors.Join(rootsErr, err)
	}
	if base, err = p.fresh(ctx, base, begin); err != nil {
		return errors.Join(rootsErr, p.explain(err))
	}
	plan, err := p.filter(ctx, set, base)
	if err != nil {
		return errors.Join(rootsErr, err)
	}
	p.report.plan(plan, p.skipped.beside(plan))
	roots = append(roots, p.skipped.roots...)
	p.complete = rootsErr == nil
	if p.cfg.DryRun {
		p.report.record(p.publication(roots))
		return rootsErr
	}
	if err := p.upload(ctx, plan, base, roots); err != nil {
		return p.partly(errors.Join(rootsErr, p.explain(err)))
	}
	return p.partly(rootsErr)
}

// partly gives an error the status that fits what has been published in spite
// of it.
func (p *publisher) partly(err error) error {
	if err == nil || p.report.Committed == 0 && !p.report.complete {
		return err
	}
	p.report.partial = true
	return cli.WithStatus(err, cli.ExitPartly)
}

// open reads the cache index, makes sure that the cache can be written to, and
// takes it over if it is nixcache-oci's.
func (p *publisher) open(ctx context.Context) (*index.Snapshot, error) {
	base, err := p.cache.Sweep(ctx)
	if p.cfg.Matrix == matrixPlan {
		return p.readable(base, err)
	}
	if err == nil && !p.cfg.DryRun {
		err = p.cache.Prepare(ctx)
	}
	if err != nil {
		return nil, err
	}
	p.noticeOranc(base)
	return p.adopt(ctx, base)
}

// maxIndexAge is how old the index may be when paths are chosen. What gc has
// removed since must not count as there.
const maxIndexAge = time.Hour

// fresh reads the index again if a long build has passed since.
func (p *publisher) fresh(ctx context.Context, base *index.Snapshot, since time.Time) (*index.Snapshot, error) {
	if time.Since(since) < maxIndexAge {
		return base, nil
	}
	base, err := p.cache.Sweep(ctx)
	if err != nil {
		return nil, err
	}
	return p.adopt(ctx, base)
}

// explain adds hints to what the index reports.
func (p *publisher) explain(err error) error {
	var tooNew *index.TooNewError
	switch {
	case errors.Is(err, index.ErrForeign):
		return hint.Wrap(err, "name a repository of its own with --cache; "+p.cfg.Cache+" is left as it is")
	case errors.As(err, &tooNew):
		return hint.Wrap(err, "use a newer version of nixoci-action")
	}
	return err
}

// root is a store path that the user asked for, and the attribute it is.
type root struct{ attr, path string }

// roots returns the store paths to publish, all of them valid, without those
// that are skipped. An error beside them tells of outputs that are not among
// them.
func (p *publisher) roots(ctx context.Context, wait func() (*index.Snapshot, error)) ([]root, error) {
	if p.cfg.Flake == "" {
		return p.given(ctx)
	}
	outputs, err := p.discover(ctx)
	if err != nil {
		return nil, err
	}
	if p.cfg.SkipCached || p.cfg.Matrix == matrixRecord {
		base, err := wait()
		if err == nil {
			outputs, err = p.skip(ctx, base, outputs)
		}
		if err != nil {
			return nil, err
		}
	}
	if p.cfg.Matrix == matrixRecord {
		return nil, p.report.absent(outputs)
	}
	built, err := p.build(ctx, outputs)
	if err != nil {
		return nil, err
	}
	p.extras.built(built)
	var roots []root
	for _, b := range built {
		for _, path := range b.Valid {
			roots = append(roots, root{b.Attr.String(), path})
		}
	}
	return roots, p.report.built(built, p.cfg.DryRun)
}

// discover evaluates the flake.
func (p *publisher) discover(ctx context.Context) ([]discover.Output, error) {
	end := p.stages.Start("discover")
	endGroup := p.msg.Group("discovering the outputs of %s", p.printable(p.cfg.Flake))
	found, err := discover.Discover(ctx, p.nix, discover.Options{
		Flake: p.cfg.Flake, Systems: p.cfg.Systems, Kinds: p.cfg.Kinds, Include: p.cfg.Include, Exclude: p.cfg.Exclude,
		DenyUnfree: p.cfg.DenyUnfree, Floating: !p.cfg.DryRun, Logger: p.log,
	})
	endGroup()
	end()
	if err != nil {
		return nil, err
	}
	p.origin = p.flakeOrigin(ctx, found.Flake)
	found.Flake.URL = p.printable(found.Flake.URL)
	p.report.discovered(found)
	for _, s := range found.Skipped {
		if s.Reason.Failure() {
			p.msg.Printf("skipped %s: %s: %s", s.Attr, s.Reason, s.Message)
		}
	}
	if len(found.Outputs) == 0 {
		return nil, hint.Wrap(fmt.Errorf("the flake has no outputs to publish for %s (%s skipped)", strings.Join(found.Systems, ", "), ui.Count(len(found.Skipped), "attribute")),
			"try --system, --kinds or --include; --json lists what was skipped and why")
	}
	return found.Outputs, nil
}

// build builds outputs, or in a dry run looks which of them are there.
func (p *publisher) build(ctx context.Context, outputs []discover.Output) ([]discover.Built, error) {
	if len(outputs) == 0 {
		return nil, nil
	}
	if p.cfg.DryRun {
		return p.valid(ctx, outputs)
	}
	defer p.stages.Start("build")()
	endGroup := p.msg.Group("building %s", ui.Count(len(outputs), "output"))
	defer endGroup()
	built, err := discover.Build(ctx, p.nix, outputs, 0)
	if err != nil && (built == nil || ctx.Err() != nil) {
		return nil, err
	}
	p.explainBuilds(ctx, built)
	return built, nil
}

func (p *publisher) valid(ctx context.Context, outputs []discover.Output) ([]discover.Built, error) {
	var all []string
	for i := range outputs {
		all = append(all, outputs[i].Paths()...)
	}
	missing, err := p.nix.Invalid(ctx, all)
	if err != nil {
		return nil, err
	}
	built := make([]discover.Built, len(outputs))
	for i, o := range outputs {
		built[i].Output = o
		for _, path := range o.Paths() {
			if _, absent := slices.BinarySearch(missing, path); absent {
				built[i].Missing = append(built[i].Missing, path)
			} else {
				built[i].Valid = append(built[i].Valid, path)
			}
		}
	}
	return built, nil
}

func (p *publisher) closure(ctx context.Context, roots []root) (*closure.Set, error) {
	defer p.stages.Start("closure")()
	var paths []string
	for _, r := range roots {
		paths = append(paths, r.path)
	}
	slices.Sort(paths)
	paths = slices.Compact(paths)
	infos, err := p.nix.PathInfo(ctx, paths, true)
	if err != nil {
		return nil, err
	}
	return closure.New(infos, paths)
}

func (p *publisher) filter(ctx context.Context, set *closure.Set, base *index.Snapshot) (*closure.Plan, error) {
	defer p.stages.Start("filter")()
	if set.Len() > 0 {
		p.msg.Printf("closure of %s, %s; asking %s", ui.Count(set.Len(), "path"), ui.Bytes(set.NarSize()), strings.Join(append(slices.Clone(p.report.Upstreams), "the cache index"), ", "))
	}
	return p.ask(ctx, set, func(hashPart string) bool { return p.inCache(base, set.LookupHash(hashPart)) }, p.cfg.ExcludePaths)
}

// ask decides on a closure, and warns of upstream caches that could not say
// what they have.
func (p *publisher) ask(ctx context.Context, set *closure.Set, inCache func(hashPart string) bool, exclude []string) (*closure.Plan, error) {
	plan, err := closure.Filter(ctx, set, closure.Options{
		InCache: inCache, Upstreams: p.upstreams, Exclude: exclude, HitsDir: p.cfg.CacheDir, DryRun: p.cfg.DryRun, Logger: p.log,
	})
	if err != nil {
		return nil, err
	}
	for _, r := range plan.Upstreams {
		if r.Unknown > 0 {
			p.msg.Warn(hint.Wrap(fmt.Errorf("upstream cache %s could not say of %s whether it has them: %w", r.URL, ui.Count(r.Unknown, "path"), r.Err),
				"they are published as if it had not"))
		}
	}
	return plan, nil
}
