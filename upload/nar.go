package upload

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/nix-community/go-nix/pkg/nar"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/secret"
)

// dumper writes the NAR of a store path.
type dumper func(ctx context.Context, path string, w io.Writer) error

// ownDump is go-nix's writer: as Nix's, byte for byte, but for entries named
// like "..x", which it refuses, and macOS's case hack, which it ignores.
func ownDump(_ context.Context, path string, w io.Writer) error { return nar.DumpPath(w, path) }

// fromStore runs store with a function that writes p's compressed NAR, and
// which store may call again. It returns the NAR's listing as well. If our own reading of p fails or gives something
// else than the store's record says, it is run once more with Nix's.
func (r *run) fromStore(ctx context.Context, p nix.PathInfo, store func(write func(io.Writer) error) (v1.Descriptor, error)) (v1.Descriptor, *lister, error) {
	counted := int64(0) // of this path, as progress
	var list *lister
	with := func(dump dumper) func(io.Writer) error {
		return func(w io.Writer) (err error) {
			r.opts.Progress.Add(-counted)
			if r.opts.Listings {
				list = newLister()
			}
			counted, err = r.compress(ctx, p, dump, w, list)
			return err
		}
	}
	desc, err := store(with(ownDump))
	if errors.As(err, new(*sourceError)) && !errors.As(err, new(*SecretError)) && r.opts.Dump != nil && ctx.Err() == nil {
		r.opts.Logger.Info("reading the path with Nix itself", "path", p.Path, "because", err)
		desc, err = store(with(r.opts.Dump))
	}
	if err != nil {
		r.opts.Progress.Add(-counted)
	}
	return desc, list, err
}

// buffers gather the NAR writer's tiny pieces. A new one for each of thousands
// of small paths would cost more than reading them.
var buffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 256<<10) }}

// compress writes p's compressed NAR to w, the NAR itself to list unless that is
// nil, and fails if what it read has a secret in it, or is not
// what the store's record says. Errors of w pass through; others are
// *sourceError. It returns how many bytes of the NAR it read.
func (r *run) compress(ctx context.Context, p nix.PathInfo, dump dumper, w io.Writer, list *lister) (int64, error) {
	select {
	case r.turns <- struct{}{}:
		defer func() { <-r.turns }()
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	out := &outlet{ctx: ctx, w: w}
	enc, release, err := r.codec.writer(out)
	if err != nil {
		return 0, err
	}
	defer release()
	meter := &meter{sum: sha256.New(), progress: r.opts.Progress, limit: p.NarSize}
	buf := buffers.Get().(*bufio.Writer)
	defer func() {
		buf.Reset(nil)
		buffers.Put(buf)
	}()
	guard := r.opts.Secrets.Guard(enc)
	if list == nil {
		buf.Reset(io.MultiWriter(meter, guard))
	} else {
		buf.Reset(io.MultiWriter(meter, guard, list))
	}
	err = dump(ctx, p.Path, buf)
	if err == nil {
		err = buf.Flush()
	}
	if err == nil {
		err = guard.Flush()
	}
	if err == nil {
		err = enc.Close()
	}
	var found *secret.FoundError
	switch {
	case errors.As(err, &found):
		err = &sourceError{secretFound(p.Path, found.Kind)}
	case out.err != nil:
		err = out.err
	case errors.Is(err, errTooLong):
		err = &sourceError{&CorruptedError{Path: p.Path, Want: fmt.Sprintf("%d bytes", p.NarSize), Got: "more"}}
	case err != nil:
		err = &sourceError{fmt.Errorf("local store: reading %s: %w", p.Path, err)}
	case meter.hash() != p.NarHash || meter.n != p.NarSize:
		err = &sourceError{&CorruptedError{
			Path: p.Path,
			Want: fmt.Sprintf("%s, %d bytes", p.NarHash, p.NarSize),
			Got:  fmt.Sprintf("%s, %d bytes", meter.hash(), meter.n),
		}}
	}
	return meter.n, err
}

// outlet remembers the error of the writer below, to tell it from the errors
// of what is written.
type outlet struct {
	ctx context.Context //nolint:containedctx // the NAR writer takes none
	w   io.Writer
	err error
}

func (o *outlet) Write(b []byte) (int, error) {
	if o.err == nil && o.ctx.Err() != nil {
		o.err = context.Cause(o.ctx)
	}
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.w.Write(b)
	o.err = err
	return n, err
}

var errTooLong = errors.New("more bytes than recorded")

// meter counts and hashes an uncompressed NAR.
type meter struct {
	sum      hash.Hash
	n, limit int64
	progress Progress
}

func (m *meter) Write(b []byte) (int, error) {
	if m.n+int64(len(b)) > m.limit {
		return 0, errTooLong // a file that grows would never end
	}
	m.n += int64(len(b))
	m.sum.Write(b)
	m.progress.Add(int64(len(b)))
	return len(b), nil
}

func (m *meter) hash() string { return bincache.FormatHash(m.sum.Sum(nil)) }

func rawDigest(h v1.Hash) (sum [32]byte, err error) {
	b, err := hex.DecodeString(h.Hex)
	if err != nil || len(b) != len(sum) {
		return sum, fmt.Errorf("registry: %q is no SHA-256 digest", h)
	}
	return [32]byte(b), nil
}

func (res *Result) list(l *lister) {
	if res.Listing = l.listing(); res.Listing != nil {
		res.BuildIDs = l.buildIDs
	}
}
