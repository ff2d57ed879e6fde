package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"regexp"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// hint is what the user can do about an answer; "" where nothing is known.
func (r *remote) hint(te *transport.Error) string {
	host := r.repo.RegistryStr()
	switch te.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		if full(te) {
			return "no login helps: " + host + " has no room left for " + r.repo.RepositoryStr() + " or its owner; prune with `nixoci gc`, or have the limit raised"
		}
		return r.permissionHint()
	case http.StatusNotFound:
		return "is " + host + " an OCI registry, and must " + r.repo.RepositoryStr() + " be created there first?"
	case http.StatusMethodNotAllowed:
		if te.Request != nil && te.Request.Method != http.MethodGet && te.Request.Method != http.MethodHead && !TooManyBlobs(te) {
			return host + " takes nothing now: it is read-only, as during maintenance, or only mirrors another registry"
		}
	case http.StatusTooManyRequests:
		return "the registry limits requests; try again later, or with fewer --jobs"
	case http.StatusRequestEntityTooLarge:
		return "the registry, or a proxy before it, limits the size of requests"
	}
	return ""
}

// fullRE is in the answers of registries that have a quota: Harbor, Quay, ECR
// and GitLab give them with the status of a refused login.
var fullRE = regexp.MustCompile(`(?i)quota|\bexceed|upper limit|maximum allowed number|storage limit|out of storage`)

// full reports whether a refusal is about room, not about who asks.
func full(te *transport.Error) bool {
	words := *te
	words.Request = nil // whose URL may have such words
	return te.StatusCode == http.StatusForbidden && fullRE.MatchString(words.Error())
}

func (r *remote) permissionHint() string {
	host, repository := r.repo.RegistryStr(), r.repo.RepositoryStr()
	switch {
	case r.opts.Advice != "":
		return r.opts.Advice
	case host == ghcrHost && r.opts.Push:
		return "does the job have `permissions: packages: write`, is GITHUB_TOKEN in the step's environment, and does the package (if it exists) give this repository write access?"
	case r.known.Load():
		return "there is a login for " + host + ", and it was refused: is the password or token right and still valid, and may this account use " + repository + "?"
	case host == ghcrHost:
		return "is the package public? If not, GITHUB_TOKEN needs read access to packages, or use `docker login ghcr.io`"
	}
	return "log in with `docker login " + host + "` (or podman, or crane), and check that the account may use " + repository
}

// connectionHint is what the user can do where no answer came.
func (r *remote) connectionHint(err error) string {
	switch {
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return "is the certificate of " + r.repo.RegistryStr() + " by an authority of your own? Then name a file with that authority's certificate, and all others that are needed, in SSL_CERT_FILE"
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, new(tls.RecordHeaderError)):
		return "if " + r.repo.RegistryStr() + " has no TLS, write the cache as http://" + r.repo.Name()
	case errors.As(err, new(unreached)):
		return "does a registry run at " + r.repo.RegistryStr() + "?"
	}
	return ""
}
