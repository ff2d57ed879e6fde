package upload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/nix"
)

const (
	// smallNAR is the NAR size up to which a path is compressed in memory.
	smallNAR = 1 << 20
	// packSize is the size at which a pack is sent, in bytes. It fits a
	// registry's single request, and a reader's memory.
	packSize = 8 << 20
)

// small compresses a NAR in memory and gives it to the packer, or uploads it
// in a blob of its own.
func (r *run) small(ctx context.Context, same []nix.PathInfo, start time.Time) error {
	var buf bytes.Buffer
	_, list, err := r.fromStore(ctx, same[0], func(write func(io.Writer) error) (v1.Descriptor, error) {
		buf.Reset()
		return v1.Descriptor{}, write(&buf)
	})
	if err != nil {
		return err
	}
	m := member{same: same, list: list, data: buf.Bytes(), size: int64(buf.Len()), sum: sha256.Sum256(buf.Bytes()), start: start}
	if len(m.data) < r.opts.PackBelow {
		return r.packs.add(ctx, m)
	}
	return r.sendPack(ctx, []member{m})
}

// member is one compressed NAR of a pack.
type member struct {
	same  []nix.PathInfo
	data  []byte // nil when it is in a pack
	size  int64
	sum   [32]byte
	list  *lister
	start time.Time // of reading it
	since time.Time // when it began to wait
}

// packer gathers small NARs until they fill a pack.
type packer struct {
	run *run

	mu      sync.Mutex
	members []member
	size    int
}

func (p *packer) add(ctx context.Context, m member) error {
	m.since = time.Now()
	p.mu.Lock()
	p.members = append(p.members, m)
	p.size += len(m.data)
	var full []member
	if p.size >= packSize {
		full, p.members, p.size = p.members, nil, 0
	}
	p.mu.Unlock()
	if full == nil {
		return nil
	}
	return p.send(ctx, full)
}

// flush sends what has gathered, if its first member has waited so long.
func (p *packer) flush(ctx context.Context, wait time.Duration) error {
	p.mu.Lock()
	var due []member
	if len(p.members) > 0 && time.Since(p.members[0].since) >= wait {
		due, p.members, p.size = p.members, nil, 0
	}
	p.mu.Unlock()
	if due == nil {
		return nil
	}
	return p.send(ctx, due)
}

// send uploads a pack. All its members fail with it.
func (p *packer) send(ctx context.Context, members []member) error {
	err := p.run.sendPack(ctx, members)
	groups := make([][]nix.PathInfo, len(members))
	for i, m := range members {
		groups[i] = m.same
	}
	return wrapStop(p.run.settle(ctx, groups, err))
}

// wrapStop keeps settle from being asked a second time about the same error.
func wrapStop(err error) error {
	if err == nil {
		return nil
	}
	return &stopError{err}
}

// sendPack uploads the members in one blob and delivers them.
func (r *run) sendPack(ctx context.Context, members []member) error {
	blob := members[0].data
	if len(members) > 1 {
		blob = make([]byte, 0, packSize+r.opts.PackBelow)
		for i := range members {
			blob = append(blob, members[i].data...)
			members[i].data = nil
		}
	}
	desc, err := r.repo.PutBlob(ctx, blob)
	if err != nil {
		for _, m := range members {
			r.opts.Progress.Add(-m.same[0].NarSize)
		}
		return err
	}
	offset := int64(0)
	for _, m := range members {
		res := Result{Compression: r.codec.name, FileHash: m.sum, FileSize: m.size, Blob: desc, Offset: offset, Sent: m.size}
		res.list(m.list)
		if err := r.deliver(ctx, m.same, res, m.start); err != nil {
			return err
		}
		offset += m.size
	}
	return nil
}
