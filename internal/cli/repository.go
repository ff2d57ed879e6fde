package cli

import (
	"fmt"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/registry"
)

// UserAgent names the program to all that it asks.
func UserAgent() string { return "nixoci/" + Version() }

// OpenRepository is registry.Open with the UserAgent. A cache that has no such
// name is wrong usage.
func OpenRepository(cache string, o registry.Options) (registry.Repository, error) {
	o.UserAgent = UserAgent()
	repo, err := registry.Open(cache, o)
	return repo, WithStatus(err, ExitUsage)
}

// NoCache is what a command says that finds no cache where it was to read one.
func NoCache(cache string) error {
	advice := "is the name right? The first publish makes the cache"
	if host := registry.Host(cache); host != "" {
		advice += ". Registries say the same of a private one, unless you are logged in to " + host + " as somebody who may read it"
	}
	return hint.Wrap(fmt.Errorf("there is no cache %s", cache), advice)
}
