package registry

import (
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/org/nixoci-action/internal/hint"
)

// Options configures Open. The zero value reads public repositories.
type Options struct {
	// Push asks the registry for the right to write as well as to read.
	Push bool
	// Keychain gives the credentials; nil means anonymous.
	Keychain authn.Keychain
	// Advice is what helps if the registry refuses these credentials; "" means
	// what helps everywhere.
	Advice string
	// Transport sends the HTTP requests; nil means one of its own, with
	// connections enough for parallel transfers.
	Transport http.RoundTripper
	// GitHubAPI is the base URL of GitHub's REST API, which deletes what is on
	// ghcr.io; "" means https://api.github.com. It gets the password that
	// Keychain has for ghcr.io, as its token.
	GitHubAPI string
	// UserAgent names the program to the registry.
	UserAgent string
	// Logger receives requests and retries at debug level, and at warn level long
	// pauses that the registry asks for; nil discards them.
	Logger *slog.Logger

	ghcr string // the host that is taken for ghcr.io, in tests
}

// layoutScheme marks a cache in a local directory, plainScheme one in a
// registry without TLS.
const (
	layoutScheme = "oci:"
	plainScheme  = "http://"
)

// ghcrHost is the registry with known limits on requests and blob sizes.
const ghcrHost = "ghcr.io"

// ghcrMaxBlobSize is GitHub's documented limit for one layer, in bytes.
const ghcrMaxBlobSize = 10_000_000_000

// Open returns the repository that cache names: "HOST[:PORT]/PATH" for an OCI
// registry, "http://HOST[:PORT]/PATH" for one without TLS (localhost needs no
// prefix), "oci:DIR" for a directory. Nothing is read or written yet.
func Open(cache string, o Options) (Repository, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if dir, ok := strings.CutPrefix(cache, layoutScheme); ok {
		if dir == "" {
			return nil, fmt.Errorf("cache %q names no directory", cache)
		}
		return newLayout(dir), nil
	}
	repo, err := parseRepository(cache)
	if err != nil {
		return nil, err
	}
	return newRemote(repo, o), nil
}

// Check reports what is wrong with a cache name, without opening it.
func Check(cache string) error {
	_, err := Open(cache, Options{})
	return err
}

// MaxBlobSize is the largest blob that the cache's registry takes, in bytes; 0
// if no limit is known.
func MaxBlobSize(cache string) int64 {
	if repo, err := parseRepository(cache); err == nil && repo.RegistryStr() == ghcrHost {
		return ghcrMaxBlobSize
	}
	return 0
}

// repositoryRE is the specification's form of a repository's name.
var repositoryRE = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)

func parseRepository(cache string) (name.Repository, error) {
	const form = "write it as HOST/OWNER/NAME (for example ghcr.io/owner/repo/nix-cache or localhost:5000/x/y) or as oci:DIRECTORY"
	opts := []name.Option{name.StrictValidation}
	s := strings.TrimPrefix(cache, "https://")
	if rest, ok := strings.CutPrefix(cache, plainScheme); ok {
		s, opts = rest, append(opts, name.Insecure)
	}
	host, path, ok := strings.Cut(s, "/")
	fail := func(hintText, format string, args ...any) (name.Repository, error) {
		return name.Repository{}, hint.Wrap(fmt.Errorf("cache "+format, args...), hintText)
	}
	switch {
	case strings.Contains(host, "@"): // and nobody should see it
		return fail("leave the user and the password out, and log in with `docker login`", "names a user before its registry %q", host[strings.LastIndex(host, "@")+1:])
	case strings.HasPrefix(cache, ".") || strings.HasPrefix(cache, "/"):
		return fail("for a directory, write "+layoutScheme+cache, "%q names no registry", cache)
	case !ok || path == "" || !strings.ContainsAny(host, ".:") && host != "localhost":
		return fail(form, "%q names no registry", cache)
	case strings.ContainsAny(path, ":@"):
		return fail(form, "%q has a tag or digest", cache)
	case strings.ToLower(path) != path:
		return fail("did you mean "+host+"/"+strings.ToLower(path)+"?", "%q has capital letters, which registries refuse", cache)
	case !repositoryRE.MatchString(path):
		return fail(form, "%q: %q is no name of a repository", cache, path)
	}
	repo, err := name.NewRepository(s, opts...)
	if err != nil {
		return fail(form, "%q: %w", cache, err)
	}
	return repo, nil
}
