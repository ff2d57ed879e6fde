package cli

import (
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/org/nixoci-action/internal/ci"
)

// Login names the variables with a user and a password for the cache's
// registry, where nobody has logged in with docker or podman. Both are needed.
var Login = []Variable{
	{Name: EnvPrefix + "USERNAME", Usage: "user at the cache's registry; wins over a docker or podman login if the password is given as well"},
	{Name: EnvPrefix + "PASSWORD", Usage: "password or token of that user"},
}

// Tokens names the variables with which a CI system logs in to a registry.
var Tokens = []Variable{
	{Name: "GITHUB_TOKEN", Usage: "password for ghcr.io or, on Gitea, Forgejo and GitHub Enterprise, for their own registry, if no docker or podman login has one; outside of CI GH_TOKEN stands in for it"},
	{Name: "CI_REGISTRY_PASSWORD", Usage: "password for CI_REGISTRY_IMAGE's registry, on GitLab CI"},
}

// Keychain finds the credentials for the cache's registry: those of the
// environment (see Login), those of docker, podman or a credential helper, else
// those that the CI system gives for this registry (see ci.Job). It must not be
// used for other registries.
func Keychain(getenv func(string) string) authn.Keychain {
	user, password := getenv(Login[0].Name), getenv(Login[1].Name)
	if user != "" && password != "" {
		return Password(user, password)
	}
	return HostKeychain(getenv)
}

// HostKeychain finds credentials by the registry's host: those in the file that
// REGISTRY_AUTH_FILE names, those of docker or a credential helper, those of
// podman, else those that the CI system gives for it.
// Unlike Keychain's they may be used with any registry.
func HostKeychain(getenv func(string) string) authn.Keychain {
	chain := []authn.Keychain{authn.DefaultKeychain, podmanLogin{getenv}}
	if getenv("REGISTRY_AUTH_FILE") != "" { // somebody means it
		slices.Reverse(chain)
	}
	for _, r := range ci.Detect(getenv).Registries {
		chain = append(chain, jobLogin{r})
	}
	return authn.NewMultiKeychain(chain...)
}

// Password is a keychain with one user and password for every registry.
func Password(user, password string) authn.Keychain {
	return given{authn.FromConfig(authn.AuthConfig{Username: user, Password: password})}
}

type given struct{ auth authn.Authenticator }

func (g given) Resolve(authn.Resource) (authn.Authenticator, error) { return g.auth, nil }

// jobLogin is a job's login for one registry.
type jobLogin struct{ registry ci.Registry }

func (l jobLogin) Resolve(r authn.Resource) (authn.Authenticator, error) {
	cache := r.RegistryStr() + "/"
	if s, ok := r.(interface{ Scheme() string }); ok && s.Scheme() == "http" {
		// of its own accord only on this machine and on private networks
		if usual, err := name.NewRegistry(r.RegistryStr()); err != nil || usual.Scheme() != "http" {
			cache = "http://" + cache
		}
	}
	if l.registry.Token == "" || !l.registry.Has(cache) {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(authn.AuthConfig{Username: l.registry.User, Password: l.registry.Token}), nil
}
