package collect

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
)

// pusher is a proxy that two clients push to: each a closure, references
// first, without what the proxy showed when it began. What it has acknowledged
// stays for the delay; what is published then, as other publications do.
func (m *model) pusher() func(*actor) error {
	const line = "refs/heads/pushed"
	versions := slices.Clone(m.versions[line])
	if versions == nil {
		versions = make([]int, packages)
	}
	versions[2+m.r.IntN(packages-2)] = m.r.IntN(4)
	m.versions[line] = versions
	paths := map[string][]string{}
	var roots []string
	for range 2 {
		roots = append(roots, closure(versions, 2+m.r.IntN(packages-2), paths))
	}
	packing := m.r.IntN(2) == 0
	layers := 1 + m.r.IntN(30)
	return func(a *actor) error {
		ctx := context.Background()
		c := index.Open(a, a.options())
		var mu sync.Mutex
		var base *index.Snapshot
		var read time.Time
		fresh := func(ctx context.Context) (*index.Snapshot, error) { // for one goroutine at a time
			var err error
			if base == nil || time.Since(read) > time.Hour {
				read = time.Now()
				base, err = c.Sweep(ctx)
			}
			return base, err
		}
		if _, err := fresh(ctx); err != nil {
			return err
		}
		// in a model a request may take hours
		g := c.NewGroup(index.GroupOptions{Base: fresh, SegmentLayers: layers, Timeout: maxRun})
		var pushed []string
		errs := make([]error, len(roots))
		var wg sync.WaitGroup
		for i, root := range roots {
			wg.Go(func() {
				done, err := m.push(ctx, a, g, base, root, paths, packing)
				mu.Lock()
				defer mu.Unlock()
				pushed, errs[i] = append(pushed, done...), err
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil || len(pushed) == 0 {
			return err
		}
		return m.publishPushed(ctx, a, g, line, pushed, paths)
	}
}

// push is one client. What the cache has lost meanwhile ends it, as it ends
// `nix copy`.
func (m *model) push(ctx context.Context, a *actor, g *index.Group, base *index.Snapshot, root string, paths map[string][]string, packing bool) (pushed []string, err error) {
	var order []string
	var visit func(key string)
	visit = func(key string) {
		if upstream(key) || slices.Contains(order, key) || base.Has(modelPath(key).HashPart) {
			return
		}
		for _, ref := range paths[key] {
			visit(ref)
		}
		order = append(order, key)
	}
	visit(root)
	for _, key := range order {
		var x index.Addition
		var refs []string
		for _, ref := range paths[key] {
			refs = append(refs, modelPath(ref).Base())
			if upstream(ref) {
				x.Upstream = append(x.Upstream, modelPath(ref).HashPart)
			}
		}
		slices.Sort(refs)
		x.Entry = indextest.EntryFor(key, v1.Descriptor{}, refs...)
		if packing {
			x.Data = modelNAR(key)
		} else {
			desc, err := a.PutBlob(ctx, modelNAR(key))
			if err != nil {
				return pushed, err
			}
			x.Entry.NAR = format.Location{Blob: desc.Digest, BlobSize: desc.Size, Size: desc.Size}
		}
		x.Entry.Realisations = []format.Realisation{indextest.ModelRealisation(key)}
		docs := modelDocuments(key)
		var err error
		if x.Listing, err = format.EncodeDocument(docs.Listing); err != nil {
			return pushed, err
		}
		err = g.Add(ctx, x)
		if e, ok := g.Lookup(x.Entry.Path.HashPart); ok && err == nil {
			err = m.attach(ctx, g, e, docs.Log)
		}
		if errors.As(err, new(*index.LostError)) || errors.As(err, new(*index.IncompleteError)) {
			m.logf("%s cannot push %s: %v", a.name, key, err)
			return pushed, nil
		}
		if err != nil {
			return pushed, err
		}
		pushed = append(pushed, key)
		m.mu.Lock()
		m.pushed[key] = time.Now()
		m.mu.Unlock()
	}
	return pushed, nil
}

// attach adds the log of a path. It is no failure that the cache has lost what
// it belongs to, or loses the log itself.
func (m *model) attach(ctx context.Context, g *index.Group, e format.Entry, log []byte) error {
	enc, err := format.EncodeDocument(log)
	if err == nil {
		err = g.Attach(ctx, e, index.Attachment{Log: enc})
	}
	if errors.Is(err, index.ErrChanged) || errors.Is(err, index.ErrNotTaken) || errors.As(err, new(*index.LostError)) || errors.As(err, new(*index.IncompleteError)) {
		return nil
	}
	return err
}

// publishPushed records what was pushed and nothing else that was refers to.
func (m *model) publishPushed(ctx context.Context, a *actor, g *index.Group, line string, pushed []string, paths map[string][]string) error {
	pub := format.Publication{Ref: line, Time: a.now().UTC().Truncate(time.Second)}
	attempt := ack{line: line, time: pub.Time, made: time.Now(), paths: map[string]bool{}}
	var need func(key string)
	need = func(key string) {
		if !upstream(key) {
			attempt.paths[key] = true
			for _, ref := range paths[key] {
				need(ref)
			}
		}
	}
	for _, key := range pushed {
		if !slices.ContainsFunc(pushed, func(other string) bool { return slices.Contains(paths[other], key) }) {
			pub.Roots = append(pub.Roots, format.Root{Path: modelPath(key).Base()})
			need(key)
		}
	}
	m.mu.Lock()
	m.attempts = append(m.attempts, attempt)
	m.mu.Unlock()
	recorded, err := g.Settle(ctx, &pub)
	if recorded {
		m.mu.Lock()
		m.acks = append(m.acks, attempt)
		m.mu.Unlock()
		m.logf("%s has published %s", a.name, line)
	}
	return err
}
