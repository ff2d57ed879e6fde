package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/upload"
)

const (
	// graceTime is how long a run may take to commit after it was interrupted. A
	// runner of GitHub's waits for 7.5 s.
	graceTime = 5 * time.Second
	// firstCheckpoint and maxCheckpoint are the times between two commits while
	// something is built: each is twice as long as the one before.
	firstCheckpoint = 2 * time.Second
	maxCheckpoint   = 30 * time.Second
	// registryPause is how long the uploads wait for a registry that has gone,
	// while something is built.
	registryPause = 30 * time.Second
)

// stream publishes store paths while others are still built. It decides where
// the closure of each is, uploads what is nowhere, and commits. What it leaves
// undone finish does, or a later run.
type stream struct {
	*publisher
	stop  context.CancelCauseFunc         // ends the run
	grace context.Context                 // ends a while after the run's
	index func() (*index.Snapshot, error) // waits until it is read

	valid   *queue[string]
	uploads *queue[nix.PathInfo]
	decided chan struct{} // closed when all of valid is decided on
	sent    chan struct{} // closed when all of uploads is sent; nil before something is
	commits func()        // ends the commits; nil before there are any

	// Of who decides: a goroutine, and then finish.
	base    *index.Snapshot
	read    time.Time // when base was
	writer  *index.Writer
	pack    int                     // as upload.Options.PackBelow
	infos   map[string]nix.PathInfo // of all closures
	answers closure.Answers
	inBase  map[string]bool  // by hash part, what inCache has said of base
	checked map[string]bool  // by store path, what of base is repeated, or need not be
	done    map[string]bool  // by store path, what is reused or given to uploads
	unfit   []upload.Failure // what must not be

	mu         sync.Mutex
	wanted     map[string]bool         // by store path, what is published and not only used for that
	unwanted   map[string]bool         // by store path, what is valid, and left out so far
	onUpstream map[string]bool         // by hash part
	owed       map[string]nix.PathInfo // what is given to uploads and not sent

	// Of who uploads, to be read when that has ended.
	failures []upload.Failure
	sendErr  error
}

func (p *publisher) newStream(ctx context.Context, stop context.CancelCauseFunc, index func() (*index.Snapshot, error)) *stream {
	grace, end := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(graceTime, end) })
	return &stream{
		publisher: p, stop: stop, grace: grace, index: index,
		valid: newQueue[string](), uploads: newQueue[nix.PathInfo](), decided: make(chan struct{}),
		infos: map[string]nix.PathInfo{}, inBase: map[string]bool{}, checked: map[string]bool{}, done: map[string]bool{},
		wanted: map[string]bool{}, unwanted: map[string]bool{}, onUpstream: map[string]bool{}, owed: map[string]nix.PathInfo{},
	}
}

// start begins to publish what arrives.
func (s *stream) start(ctx context.Context) {
	go func() {
		defer close(s.decided)
		for {
			paths := s.valid.take(ctx)
			if len(paths) == 0 {
				return
			}
			// whatever goes wrong is met again at the end, if it lasts
			if _, err := s.decide(ctx, paths); err != nil {
				s.Log.Info("paths are left for the end", "paths", len(paths), "error", err)
			}
		}
	}()
}

// want says that store paths are published themselves, and not only used for it.
func (s *stream) want(paths []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range paths {
		if s.wanted[path] = true; s.unwanted[path] {
			delete(s.unwanted, path)
			s.valid.put(path)
		}
	}
}

// arrived takes store paths that are valid.
func (s *stream) arrived(paths []string) {
	if s.DryRun {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range paths {
		if s.BuildDeps || s.wanted[path] {
			s.valid.put(path)
		} else {
			s.unwanted[path] = true
		}
	}
}

// decide finds out where the closure of paths is, and has uploaded what is
// nowhere.
func (s *stream) decide(ctx context.Context, paths []string) (*closure.Plan, error) {
	set, err := s.closure(ctx, paths)
	if err != nil {
		return nil, err
	}
	if err := s.begin(ctx, paths); err != nil {
		return nil, err
	}
	plan, err := s.filter(ctx, set)
	if err != nil || s.DryRun {
		return plan, err
	}
	s.upstreamHas(plan.Decisions)
	if err := s.repeat(ctx, plan.Decisions, true); err != nil {
		return nil, err
	}
	todo, err := s.reuse(ctx, plan.Uploads())
	if err != nil {
		return nil, err
	}
	s.extras.expect(todo)
	s.mu.Lock()
	size := int64(0)
	for _, info := range todo {
		s.owed[info.Path] = info
		size += info.NarSize
	}
	s.uploads.put(todo...)
	s.mu.Unlock()
	s.show.Expect(len(todo), size)
	return plan, nil
}

// closure returns the closure of paths, asking Nix only about those of which it
// has not told yet.
func (s *stream) closure(ctx context.Context, paths []string) (*closure.Set, error) {
	paths = slices.Compact(slices.Sorted(slices.Values(paths)))
	unknown := slices.DeleteFunc(slices.Clone(paths), func(path string) bool {
		_, known := s.infos[path]
		return known
	})
	if len(unknown) > 0 {
		infos, err := s.Nix.PathInfo(ctx, unknown, true)
		if err != nil {
			return nil, err
		}
		for _, info := range infos {
			s.infos[info.Path] = info
		}
	}
	return closure.New(s.reachable(paths), paths)
}

// reachable returns what is known of paths and of all that they refer to. Of a
// long run that is far less than everything.
func (s *stream) reachable(paths []string) (infos []nix.PathInfo) {
	seen := map[string]bool{}
	for todo := slices.Clone(paths); len(todo) > 0; {
		path := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if info, known := s.infos[path]; known && !seen[path] {
			seen[path] = true
			infos = append(infos, info)
			todo = append(todo, info.References...)
		}
	}
	return infos
}

// begin waits for the index, and begins to upload and to commit. After a long
// time it has the index read again: what a collection has removed since must not
// count as there.
func (s *stream) begin(ctx context.Context, paths []string) (err error) {
	switch {
	case s.base == nil:
		if s.base, err = s.index(); err != nil {
			return err
		}
	case time.Since(s.read) < maxIndexAge:
		return nil
	default:
		base, err := s.sweep(ctx)
		if err == nil {
			base, err = s.adopt(ctx, base)
		}
		if err != nil {
			return err
		}
		s.base, s.inBase, s.checked = base, map[string]bool{}, map[string]bool{}
	}
	s.read = time.Now()
	if s.DryRun || s.writer != nil {
		return nil
	}
	s.writer, err = s.Index.NewWriter(s.base, index.WriterOptions{
		OnUpstream: func(hashPart string) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.onUpstream[hashPart]
		},
		Config: s.config(paths),
		Committed: func(tag string, entries int) {
			s.Log.Info("committed", "segment", tag, "entries", entries)
			s.report.Segments = append(s.report.Segments, tag)
		},
	})
	if err != nil {
		s.stop(err) // nothing can be published
		return err
	}
	s.pack = s.packBelow(s.base)
	s.sent = make(chan struct{})
	go func() {
		defer close(s.sent)
		s.upload(ctx)
	}()
	s.commits = s.commit(ctx)
	return nil
}

// commit commits from time to time what is complete, until the function that it
// returns is called.
func (s *stream) commit(ctx context.Context) (end func()) {
	enough, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for wait := firstCheckpoint; ; wait = min(2*wait, maxCheckpoint) {
			select {
			case <-time.After(wait):
			case <-ctx.Done(): // at once, while the builds are stopped
			case <-enough:
				return
			}
			if err := s.writer.Checkpoint(s.grace); err != nil {
				s.Log.Warn("what was uploaded is not committed yet", "error", err)
			}
			if ctx.Err() != nil {
				return
			}
		}
	}()
	return func() {
		close(enough)
		<-ended
	}
}

// filter decides on a closure.
func (s *stream) filter(ctx context.Context, set *closure.Set) (*closure.Plan, error) {
	var unknown []*closure.Path
	paths := set.Paths()
	for i := range paths {
		if _, known := s.inBase[paths[i].Store.HashPart]; !known {
			unknown = append(unknown, &paths[i])
		}
	}
	there := make([]bool, len(unknown))
	inParallel(len(unknown), func(i int) { there[i] = s.inCache(s.base, unknown[i]) })
	for i, path := range unknown {
		// what this run has added is new
		s.inBase[path.Store.HashPart] = there[i] && !s.done[path.Path]
	}
	return s.ask(ctx, set, func(hashPart string) bool { return s.inBase[hashPart] }, s.ExcludePaths, &s.answers)
}

// upstreamHas remembers what upstream caches have.
func (s *stream) upstreamHas(decisions []closure.Decision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range decisions {
		if d.Kind == closure.KindOnUpstream || d.Kind == closure.KindBelow {
			s.onUpstream[d.Path.Store.HashPart] = true
		}
	}
}

// upload sends what is given to uploads. While something is built, it waits for
// a registry that has gone; at the end that is an error.
func (s *stream) upload(ctx context.Context) {
	for {
		failed, err := s.send(ctx)
		last := err == nil || s.uploads.isClosed() || ctx.Err() != nil || registry.Denied(err)
		if registry.Denied(err) {
			s.stop(err) // an hour's build must not end at a locked door
		}
		if last {
			s.failures, s.sendErr = failed, err
			return
		}
		s.Messages.Warn(hint.Wrap(fmt.Errorf("uploads have stopped: %w", err), "the build goes on, and the uploads will be tried again"))
		select {
		case <-time.After(registryPause):
		case <-s.decided: // the end is near
		case <-ctx.Done():
		}
		s.mu.Lock()
		s.uploads.refill(slices.Collect(maps.Values(s.owed)))
		s.mu.Unlock()
	}
}

// send uploads what is given to uploads until that is closed, and adds the
// entries.
func (s *stream) send(ctx context.Context) ([]upload.Failure, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	arriving := make(chan []nix.PathInfo)
	go func() {
		defer close(arriving)
		for {
			todo := s.uploads.take(ctx)
			if len(todo) == 0 {
				return
			}
			select {
			case arriving <- todo:
			case <-ctx.Done():
				return
			}
		}
	}()
	return upload.Run(ctx, s.Repo, arriving, upload.Options{
		Compression: s.Compression, Level: s.Level, Jobs: s.Jobs, PackBelow: s.pack,
		MaxBlobSize: registry.MaxBlobSize(s.Cache), Dump: s.Nix.Dump, Progress: s.show, Logger: s.Log,
		Listings: true, Secrets: s.Secrets,
		Background: func() bool { return !s.valid.isClosed() }, // builds go first
	}, s.uploaded)
}

// finish publishes what is left of roots, and records the publication, unless
// ctx is done: then it only commits what is there. rootsErr tells of what is not
// among the roots.
func (s *stream) finish(ctx context.Context, roots []root, rootsErr error) error {
	s.valid.close()
	<-s.decided
	var plan *closure.Plan
	err := context.Cause(ctx)
	if err == nil && len(roots)+len(s.skipped.roots) > 0 {
		plan, err = s.conclude(ctx, roots)
		roots = append(roots, s.skipped.roots...)
		s.complete = rootsErr == nil && err == nil
	}
	if s.DryRun {
		if plan != nil {
			s.report.record(s.publication(roots))
		}
		return err
	}
	s.uploads.close()
	if s.writer == nil {
		s.report.leaveOut(func(string) string { return notUploaded })
		return err
	}
	<-s.sent
	s.commits()
	return errors.Join(err, s.close(ctx, plan, roots))
}

// conclude decides on all of roots. That is what the report tells.
func (s *stream) conclude(ctx context.Context, roots []root) (*closure.Plan, error) {
	paths := func(roots []root) (paths []string) {
		for _, r := range roots {
			paths = append(paths, r.path)
		}
		return paths
	}
	// what is skipped need not be in the store, but in a cache for the same one
	if err := s.begin(ctx, slices.Concat(paths(roots), paths(s.skipped.roots))); err != nil {
		return nil, err
	}
	plan, err := s.decide(ctx, paths(roots))
	if err != nil {
		return nil, err
	}
	if set := plan.Set; set.Len() > 0 {
		s.Messages.Printf("closure of %s, %s; asked %s", ui.Count(set.Len(), "path"), ui.Bytes(set.NarSize()), strings.Join(append(slices.Clone(s.report.Upstreams), "the cache index"), ", "))
	}
	s.doubt(plan)
	beside := s.skipped.beside(plan)
	s.report.plan(plan, beside)
	if s.DryRun {
		return plan, nil
	}
	s.upstreamHas(beside)
	return plan, s.repeat(ctx, beside, false)
}
