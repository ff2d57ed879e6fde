package publish

import (
	"context"
	"errors"
	"time"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/ghpackages"
	"github.com/org/nixoci-action/internal/registry"
)

// readersTimeout bounds how long a run waits for what is only good to know.
const readersTimeout = 10 * time.Second

// sayWhoReads tells whether one must log in to read what was published. Whoever
// publishes for the first time may not know: it depends on the registry, its
// settings, and the repository.
func (p *publisher) sayWhoReads(ctx context.Context) {
	ctx, cancel := registry.Within(ctx, readersTimeout)
	defer cancel()
	page := ghpackages.PackagePage(p.Cache)
	_, err := p.Anonymous.Resolve(ctx, format.RootTag)
	switch {
	case err == nil && page != "":
		p.Messages.Printf("everybody can read %s, without a login", p.Cache)
	case registry.Denied(err) || errors.Is(err, registry.ErrNotFound):
		p.Messages.Printf("nobody can read %s without a login", p.Cache)
		if page != "" {
			p.Messages.Printf("to change that: %s, Package settings, Change visibility; a public package cannot be made private again", page)
		}
	}
}
