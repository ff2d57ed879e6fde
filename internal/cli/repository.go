package cli

import "github.com/org/nixoci-action/internal/registry"

// UserAgent names the program to all that it asks.
func UserAgent() string { return "nixoci/" + Version() }

// OpenRepository is registry.Open with the UserAgent. A cache that has no such
// name is wrong usage.
func OpenRepository(cache string, o registry.Options) (registry.Repository, error) {
	o.UserAgent = UserAgent()
	repo, err := registry.Open(cache, o)
	return repo, WithStatus(err, ExitUsage)
}
