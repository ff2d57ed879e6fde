package publish

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/signing"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/report"
	"github.com/org/nixoci-action/upload"
)

// lostTries is how often blobs that a registry's collector has taken away
// before they were named by a segment are uploaded again.
const lostTries = 3

// inCache reports whether the cache has a path in a form that clients can use:
// as the local store has it, in all that a signature covers, or as another build
// of ours. The rest is published again. Without a key every other build is taken
// for ours, but not one that has the same contents and says something else of
// them.
func (p *publisher) inCache(base *index.Snapshot, want *closure.Path) bool {
	e, ok := base.Lookup(want.Store.HashPart)
	if !ok {
		return false
	}
	local := record(want.Store, &want.PathInfo)
	switch {
	case e.Fingerprint() == local.Fingerprint():
		return true
	case len(p.Keys) > 0 || p.Unsigned:
		return p.ours(&e)
	}
	return e.NarHash != local.NarHash
}

// ours reports whether an entry of the index counts as a build of ours. Without
// keys every one does, but not where somebody else is going to sign: there a key
// that was given must have signed it.
func (p *publisher) ours(e *format.Entry) bool {
	if p.Unsigned {
		return signing.SignedBy(p.Trusted, e.Fingerprint(), e.Signatures)
	}
	return p.Keys.Signed(e.Fingerprint(), e.Signatures)
}

// close sends again what the registry has lost, commits, and records the
// publication. Without a plan, because the run has ended before there was one, it
// only commits.
func (s *stream) close(ctx context.Context, plan *closure.Plan, roots []root) error {
	defer s.stages.Start("commit")()
	s.failed(plan, slices.Concat(s.unfit, s.failures))
	sendErr := s.sendErr
	var result index.Result
	var err error
	for try := 0; ; try++ {
		result, err = s.record(ctx, plan, roots)
		if err != nil || len(result.Lost) == 0 || try == lostTries || ctx.Err() != nil {
			break
		}
		s.Log.Warn("the registry lost blobs, sending them again", "paths", len(result.Lost))
		var todo []nix.PathInfo
		if todo, err = s.again(result.Lost); err != nil {
			break
		}
		s.uploads.put(todo...)
		var failed []upload.Failure
		failed, sendErr = s.send(ctx)
		s.failed(plan, failed)
	}
	spare := func(e format.Entry) bool { return s.spare(plan, e.Path.String()) }
	result.Incomplete, result.Lost = slices.DeleteFunc(result.Incomplete, spare), slices.DeleteFunc(result.Lost, spare)
	available := func(path string) bool {
		parsed, err := storepath.Parse(path)
		return err == nil && s.writer.Available(parsed.HashPart)
	}
	s.report.committed(result, err, available)
	s.adopted(result.Adopted)
	if sendErr == nil && err == nil && len(result.Incomplete)+len(result.Lost) > 0 && len(s.report.Failures) == 0 {
		err = fmt.Errorf("%s not visible: something they refer to is missing", ui.Count(len(result.Incomplete)+len(result.Lost), "path"))
	}
	s.report.visible = sendErr == nil && err == nil && slices.ContainsFunc(roots, func(r root) bool { return available(r.path) })
	if unsigned := s.report.NotSigned(); unsigned != nil {
		s.Messages.Warn(unsigned)
	}
	return errors.Join(sendErr, report.UnsentError(s.report.unsent), err)
}

// spare reports whether this run has added a path, or tried to, that is in no
// root's closure: others were only built with it.
func (s *stream) spare(plan *closure.Plan, name string) bool {
	parsed, err := storepath.Parse(name)
	return err == nil && plan != nil && s.done[name] && plan.Set.LookupHash(parsed.HashPart) == nil
}

// failed takes in paths that were not uploaded. That one is missing with which
// others were only built is no failure of what was asked for.
func (s *stream) failed(plan *closure.Plan, failures []upload.Failure) {
	var without []upload.Failure
	s.report.failed(slices.DeleteFunc(slices.Clone(failures), func(f upload.Failure) bool {
		spare := s.spare(plan, f.Path)
		if spare {
			without = append(without, f)
		}
		return spare
	}))
	if len(without) > 0 {
		s.Messages.Warn(fmt.Errorf("not published: %s that others were only built with; the first: %w", ui.Count(len(without), "path"), without[0].Err))
	}
}

// again returns what must be uploaded again.
func (s *stream) again(lost []format.Entry) ([]nix.PathInfo, error) {
	var todo []nix.PathInfo
	for _, e := range lost {
		info, ok := s.infos[e.Path.String()]
		if !ok {
			return nil, hint.Wrap(fmt.Errorf("the registry has lost the NAR of %s, which was not built because the cache index has it", e.Path),
				"publish once without --skip-cached, which builds and uploads it again")
		}
		todo = append(todo, info)
	}
	return todo, nil
}

// config is what this run adds to the cache's configuration.
func (p *publisher) config(paths []string) format.Config {
	c := format.Config{PublicKeys: p.Keys.PublicKeys(), Upstreams: p.report.Upstreams, CompatIndex: p.compatIndex()}
	for _, name := range paths {
		if dir := path.Dir(name); dir != storepath.DefaultDir {
			c.StoreDir = dir
		}
	}
	return c
}

// repeat writes again, without an upload, the entries this publish relies on
// that are old, or lack our signature or a realisation. What is signed is the
// record of the local store, if there is one, and only where the entry says the
// same: nobody here has seen what else the index says.
func (s *stream) repeat(ctx context.Context, decisions []closure.Decision, recorded bool) error {
	decisions = slices.DeleteFunc(slices.Clone(decisions), func(d closure.Decision) bool {
		return d.Kind != closure.KindInCache || s.checked[d.Path.Path]
	})
	type present struct {
		format.Entry
		changed, ok     bool
		same, certified bool // as the local store has it; and nothing is missing of what certify adds
	}
	all := make([]present, len(decisions))
	inParallel(len(decisions), func(i int) {
		d, x := decisions[i], &all[i]
		if x.Entry, x.changed, x.ok = s.lookup(s.base, d.Path.Store.HashPart); !x.ok {
			return
		}
		local := record(d.Path.Store, &d.Path.PathInfo)
		fingerprint := x.Fingerprint()
		x.same = recorded && fingerprint == local.Fingerprint()
		x.certified = !s.Unsigned && len(s.extras.realisationsOf(d.Path.Store.HashPart)) == 0 && s.Keys.Signed(fingerprint, x.Signatures)
	})
	for i, d := range decisions {
		s.checked[d.Path.Path] = true
		e, changed := all[i].Entry, all[i].changed
		if !all[i].ok {
			return fmt.Errorf("%s is gone from the index", d.Path.Path) // it was there a moment ago
		}
		if all[i].same && !all[i].certified {
			signatures := len(e.Signatures)
			certified, err := s.certify(&e, &d.Path.PathInfo)
			if err != nil {
				return err
			}
			if len(e.Signatures) > signatures {
				s.report.Signed++
			}
			changed = changed || certified
		}
		// what others have added since the writer was made counts for it when it is repeated
		if !changed && time.Since(e.Added) < format.PinAfter && s.writer.Available(d.Path.Store.HashPart) {
			continue
		}
		s.report.Repeated++
		if err := s.writer.Add(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// inParallel calls f for each number below n, on all processors.
func inParallel(n int, f func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// reuse adds the paths whose contents the cache has under another path, and
// returns those that must be uploaded. Paths that would make some clients fail are
// neither.
func (s *stream) reuse(ctx context.Context, paths []*closure.Path) ([]nix.PathInfo, error) {
	var todo []nix.PathInfo
	for _, path := range paths {
		if s.done[path.Path] {
			continue
		}
		s.done[path.Path] = true
		if path.CA != "" {
			if err := bincache.CheckCA(path.CA); err != nil {
				s.unfit = append(s.unfit, upload.Failure{Path: path.Path, Err: err})
				continue
			}
		}
		same, ok := s.base.LookupNARHash(path.NarHash)
		if _, found := s.Secrets.Find([]byte(path.Path + " " + path.Deriver)); found {
			ok = false // upload refuses it
		}
		if !ok || same.NarSize != path.NarSize || same.NAR.Packed() && s.pack < 0 {
			todo = append(todo, path.PathInfo)
			continue
		}
		e, err := s.entry(path.PathInfo)
		if err != nil {
			return nil, err
		}
		e.Compression, e.FileHash, e.NAR = same.Compression, same.FileHash, same.NAR
		e.Listing, e.BuildIDs = same.Listing, same.BuildIDs
		s.report.Reused.Add(path.NarSize, 0)
		if err := s.writer.Add(ctx, e); err != nil {
			return nil, err
		}
	}
	return todo, nil
}

// uploaded adds the entry of a path that was uploaded. It is called concurrently.
func (s *stream) uploaded(ctx context.Context, r upload.Result) error {
	e, err := s.entry(r.Info)
	if err != nil {
		return err
	}
	e.Compression, e.FileHash = r.Compression, bincache.FormatHash(r.FileHash[:])
	e.NAR = format.Location{Blob: r.Blob.Digest, BlobSize: r.Blob.Size, Offset: r.Offset, Size: r.FileSize}
	e.BuildIDs = r.BuildIDs[:min(len(r.BuildIDs), format.MaxBuildIDs)]
	s.report.uploaded(r)
	s.mu.Lock()
	delete(s.owed, r.Info.Path)
	s.mu.Unlock()
	return s.writer.AddWith(ctx, e, s.documents(ctx, &r))
}

// entry makes a signed entry of what the store records; where its NAR is stays
// open.
func (p *publisher) entry(info nix.PathInfo) (format.Entry, error) {
	parsed, err := storepath.Parse(info.Path)
	if err != nil {
		return format.Entry{}, err
	}
	e := record(parsed, &info)
	_, err = p.certify(&e, &info)
	if !p.Unsigned && len(p.Keys)+len(e.Signatures) == 0 && e.CA == "" { // a content address needs no signature
		p.report.bare(info.Path)
	}
	return e, err
}

// certify signs an entry that says what the local store says, and adds which
// outputs it is; without keys it puts into the report what is to be signed
// elsewhere. It reports whether that changes the entry.
func (p *publisher) certify(e *format.Entry, info *nix.PathInfo) (changed bool, err error) {
	signed, err := p.sign(e, info)
	if err != nil {
		return false, err
	}
	rs := p.realisations(e, info)
	if p.Unsigned && p.known(e, info) {
		f := report.NewFingerprint(e)
		if info.Ultimate {
			f.Realisations = slices.Clone(rs)
		}
		p.report.vouch(f)
	}
	realised, err := p.realise(e, info, rs)
	return signed || realised, err
}

// record makes an entry of what the store records, with the signatures that it
// has there.
func record(store storepath.Path, info *nix.PathInfo) format.Entry {
	e := format.Entry{Path: store, NarHash: info.NarHash, NarSize: info.NarSize, CA: info.CA, Signatures: bincache.Signatures(info.Signatures)}
	for _, r := range info.References {
		e.References = append(e.References, path.Base(r))
	}
	slices.Sort(e.References)
	if info.Deriver != "" {
		e.Deriver = path.Base(info.Deriver)
	}
	return e
}

// sign adds our signatures to an entry that says what the local store says, if
// we know where the path is from: it was built here, its name proves its
// contents, or a trusted key has signed it. What was substituted or copied here
// keeps the signatures that it has. It reports whether it has added any.
func (p *publisher) sign(e *format.Entry, info *nix.PathInfo) (bool, error) {
	fingerprint := e.Fingerprint()
	if p.Keys.Signed(fingerprint, e.Signatures) && !p.Unsigned {
		return false, nil
	}
	if !p.known(e, info) {
		p.report.unsigned(info)
		return false, nil
	}
	if p.Unsigned {
		return false, nil
	}
	var err error
	e.Signatures, err = p.Keys.Sign(fingerprint, e.Signatures)
	return err == nil, err
}

// known reports whether we know where a path is from.
func (p *publisher) known(e *format.Entry, info *nix.PathInfo) bool {
	// the store takes a content address only if path and contents fit it
	return info.Ultimate || info.CA != "" || signing.SignedBy(p.Trusted, e.Fingerprint(), slices.Concat(info.Signatures, e.Signatures))
}

// record commits, even if ctx has ended: what is in the registry should not have
// been sent for nothing. With a plan it records the publication.
func (s *stream) record(ctx context.Context, plan *closure.Plan, roots []root) (index.Result, error) {
	if ctx.Err() != nil || plan == nil {
		return s.writer.Close(s.grace, nil)
	}
	s.complete = s.complete && len(s.report.unsent) == 0
	if s.Pin != "" && !s.complete {
		s.Messages.Warn(fmt.Errorf("not pinned as %s, because not all of it is published; what was pinned before stays", s.Pin))
	}
	pub := s.publication(roots)
	if s.complete {
		pub.BuildDeps = s.builtWith(plan)
	}
	s.report.record(pub)
	said := &pub
	if s.base.Published(pub, time.Now().Add(-format.PinAfter)) {
		said = nil
	}
	result, err := s.writer.Close(s.grace, said)
	if err == nil {
		s.report.published(s.Index.Current(), pub)
	}
	return result, err
}

// builtWith returns the base names of what this run has added beside a plan.
func (s *stream) builtWith(plan *closure.Plan) (names []string) {
	for name := range s.done {
		if _, found := s.Secrets.Find([]byte(name)); !found && s.spare(plan, name) {
			names = append(names, path.Base(name))
		}
	}
	slices.Sort(names)
	return names[:min(len(names), format.MaxBuildDeps)]
}
