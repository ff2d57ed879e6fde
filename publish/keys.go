package publish

import (
	"fmt"
	"slices"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/hint"
)

// followKeys adds to the keys that are trusted those for which they vouch in the
// cache, takes out those that were retired there, and says what is odd about our
// own. The chain begins at our own keys and those that were given.
func (p *publisher) followKeys(base *index.Snapshot) {
	trusted := base.KeysFrom(p.Trusted)
	p.Trusted = trusted.Trusted
	own := base.KeysFrom(p.Keys.PublicKeys())
	p.report.PublicKeys, p.report.RetiredKeys = own.Trusted, own.Retired
	others := base.Keys()
	for _, k := range p.Keys.PublicKeys() {
		switch {
		case slices.Contains(trusted.Retired, k):
			p.Messages.Warn(hint.Wrap(fmt.Errorf("the signing key %s is retired: who knows that takes nothing that it signs", k),
				"sign with a key that `nixoci keys list` shows as trusted"))
		case len(others.Trusted) > 0 && !slices.Contains(others.Trusted, k) && !slices.Contains(base.Config().PublicKeys, k):
			p.Messages.Warn(hint.Wrap(fmt.Errorf("the cache has other keys, and none of them vouches for the signing key %s: who knows only those does not take what it signs", k),
				"`nixoci keys add` with one of the cache's keys vouches for it"))
		}
	}
}
