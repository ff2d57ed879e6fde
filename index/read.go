package index

import (
	"context"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
)

// rootState is what a reader knows of a root, or what a writer makes one of.
type rootState struct {
	format.SegmentList

	// retired is a layer of its own, which readers of the root do not need;
	// nil if it was not read.
	retired []format.Retired
	// foreign are the entries of nixcache-oci's index; nil for a root of ours.
	foreign *format.Segment
	skipped []string // hash parts of entries there that cannot be used
	// oranc are the hash parts of oranc's narinfos, if the tags were listed.
	oranc []string
	// damage is what cannot be used.
	damage []*DamageError

	// stub is the digest of the root's first layer, as far as it is known to
	// be in the repository.
	stub v1.Hash
	// form is the root's.
	form format.Form

	// For writing: compat is the root's first layer; over, unless it is zero,
	// the digest of the only root that may be overwritten, or if hasty of the
	// only one of nixcache-oci.
	compat []byte
	over   v1.Hash
	hasty  bool
}

// readRoot reads the root, and its segment list unless the root is the one
// already known; the retired segments only if they are wanted. Its errors wrap
// registry.ErrNotFound if there is no root, ErrForeign if it is not ours.
//
// Where a root is known its digest is asked for first: Docker Hub counts requests
// for manifests, but not for their digests. Reserve is that of a Cache.
func readRoot(ctx context.Context, repo registry.Repository, known v1.Hash, retired bool, reserve func(int64) error) (v1.Hash, rootState, error) {
	if known != (v1.Hash{}) {
		if digest, err := repo.Resolve(ctx, format.RootTag); err != nil || digest == known {
			return digest, rootState{}, err
		}
	}
	// layers may have been superseded and collected between the reads
	for try := 0; ; try++ {
		m, err := repo.Manifest(ctx, format.RootTag)
		if err != nil {
			return v1.Hash{}, rootState{}, err
		}
		if m.Digest == known {
			return known, rootState{}, nil
		}
		list, err := readLayers(ctx, repo, m, retired, reserve)
		if !errors.Is(err, registry.ErrNotFound) {
			return m.Digest, list, err
		}
		if try == 3 {
			return v1.Hash{}, list, fmt.Errorf("the cache index's layers are missing: %v", err) //nolint:errorlint // present root, so never "absent"
		}
	}
}

func readLayers(ctx context.Context, repo registry.Repository, m registry.Manifest, retired bool, reserve func(int64) error) (rootState, error) {
	layers, err := format.ParseRoot(m.Raw)
	if err != nil {
		return rootState{}, err
	}
	if layers.Foreign.Size > 0 {
		// the document, what is decoded of it, and the segment made of that
		if err := reserve(4 * layers.Foreign.Size); err != nil {
			return rootState{}, err
		}
		return readForeign(ctx, repo, layers.Foreign)
	}
	var list rootState
	var blob, retiredBlob []byte
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		blob, err = readList(gctx, repo, layers.Segments, reserve)
		return err
	})
	if retired && layers.Retired.Size != 0 {
		g.Go(func() (err error) {
			retiredBlob, err = readList(gctx, repo, layers.Retired, reserve)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return rootState{}, err
	}
	list.SegmentList, err = format.ParseSegmentList(blob)
	err = damaged(format.RootTag, err)
	list.stub, list.form = layers.Stub, layers.Form
	if err != nil || !retired {
		return list, err
	}
	list.retired = []format.Retired{}
	if retiredBlob == nil {
		return list, nil
	}
	list.retired, err = format.ParseRetired(retiredBlob)
	return list, damaged(format.RootTag, err)
}

// readList reads a layer of the root, and reserves what it takes, unpacked too.
func readList(ctx context.Context, repo registry.Repository, layer v1.Descriptor, reserve func(int64) error) ([]byte, error) {
	if err := reserve(layer.Size); err != nil {
		return nil, err
	}
	blob, err := readLayer(ctx, repo, layer, format.MaxSegmentListBlob)
	if err != nil {
		return nil, err
	}
	return blob, reserve(int64(format.UnpackedSize(blob, format.MaxSegmentList))) //nolint:gosec // at most maxSegmentList
}

func readForeign(ctx context.Context, repo registry.Repository, d v1.Descriptor) (rootState, error) {
	blob, err := readLayer(ctx, repo, d, format.MaxForeignIndex)
	if err != nil {
		return rootState{}, err
	}
	seg, skipped, err := format.ParseForeign(blob)
	return rootState{foreign: seg, skipped: skipped, retired: []format.Retired{}}, err
}

func readLayer(ctx context.Context, repo registry.Repository, d v1.Descriptor, limit int64) ([]byte, error) {
	if d.Size <= 0 || d.Size > limit {
		return nil, fmt.Errorf("a layer of the cache index has %d bytes", d.Size)
	}
	return registry.ReadBlob(ctx, repo, d.Digest, d.Size)
}
