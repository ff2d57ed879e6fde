package publish

import (
	"context"
	"fmt"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/report"
)

// adoptTick is the time between two lines about an adoption.
const adoptTick = 10 * time.Second

// adopt takes over what nixcache-oci has published. In a dry run it only says
// so.
func (p *publisher) adopt(ctx context.Context, base *index.Snapshot) (*index.Snapshot, error) {
	if !base.Foreign() {
		return base, nil
	}
	todo := base.Adoptable()
	blinding := p.blinding(base)
	if p.DryRun {
		if blinding != nil {
			p.Messages.Warn(blinding)
		}
		p.report.Adopted = report.Adopted{}
		p.report.adopted(index.Adopted{Total: todo})
		return base, nil
	}
	if blinding != nil {
		return nil, blinding
	}
	defer p.stages.Start("adopt")()
	p.Messages.Printf("taking over a cache of nixcache-oci: %s, %s", ui.Count(todo.Paths, "path"), ui.Bytes(todo.NarSize))
	last := time.Now()
	s, a, err := p.Index.Adopt(ctx, index.AdoptOptions{
		Config: format.Config{CompatIndex: p.compatIndex()},
		Progress: func(checked, total int) {
			if time.Since(last) >= adoptTick {
				last = time.Now()
				p.Messages.Printf("looked for %s of %s", ui.Number(checked), ui.Count(total, "NAR"))
			}
		},
	})
	p.adopted(a)
	return s, err
}

// blinding is the error of a takeover after which the old clients would find
// nothing, and nobody has said that there are none.
func (p *publisher) blinding(base *index.Snapshot) error {
	if p.CompatIndex != nil || len(base.Segments()) > 0 || base.Len() <= index.MaxCompatIndex {
		return nil
	}
	return hint.Wrap(fmt.Errorf("taking over this cache of nixcache-oci would empty it for nixcache-oci's own proxy: it has %s, and the index that is written for that proxy holds %s",
		ui.Count(base.Len(), "path"), ui.Number(index.MaxCompatIndex)), "move the clients to nixoci proxy, which serves the cache as it is; then publish with --compat-index off")
}

// adopted reports what was taken over, and what could not be.
func (p *publisher) adopted(a index.Adopted) {
	p.report.adopted(a)
	if len(a.Lost)+len(a.Incomplete) > 0 {
		p.Messages.Warn(hint.Wrap(
			fmt.Errorf("left out of what nixcache-oci has published: %s whose NAR the registry does not have, %s that need what is missing",
				ui.Count(len(a.Lost), "path"), ui.Number(len(a.Incomplete))),
			"publish what has them again; --json names them"))
	}
}

// compatIndex is what is asked for of the index for nixcache-oci; zero if that is
// left to the cache.
func (p *publisher) compatIndex() format.CompatIndex {
	if p.CompatIndex == nil {
		return format.CompatIndex{}
	}
	return format.CompatIndex{On: *p.CompatIndex, Time: time.Now().UTC().Truncate(time.Second)}
}

// packBelow is upload's option: nixcache-oci reads whole blobs only.
func (p *publisher) packBelow(base *index.Snapshot) int {
	on := base.Config().CompatIndex.On
	if p.CompatIndex != nil {
		on = *p.CompatIndex
	}
	if on {
		return -1
	}
	return 0
}
