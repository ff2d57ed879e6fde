package registry

import (
	"net/http"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/org/nixoci-action/internal/retry"
)

// refusal makes a *RefusedError of an answer that would be given again; it is
// nil for others. ref is what was to be deleted.
func (r *remote) refusal(ref string, te *transport.Error) *RefusedError {
	if te.StatusCode < 400 || te.StatusCode >= 500 && te.StatusCode != http.StatusNotImplemented || retry.Transient(te.StatusCode) {
		return nil
	}
	_, tag := v1.NewHash(ref)
	words := *te
	words.Request = nil // its URL says nothing new
	return &RefusedError{
		All:    tag == nil && refusesAll(te),
		Reason: present(&words).Error(),
		Remedy: r.remedy(te),
		Err:    present(te),
	}
}

// refusesAll tells answers about deletion, or about who may delete, from those
// about one manifest.
func refusesAll(te *transport.Error) bool {
	switch te.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusNotImplemented:
		return true
	case http.StatusMethodNotAllowed: // zot says so of a part of an index
		return !has(te, transport.DeniedErrorCode)
	}
	return has(te, transport.UnsupportedErrorCode)
}

// remedy is what the user can do about a refusal; "" where nothing is known.
func (r *remote) remedy(te *transport.Error) string {
	switch {
	case r.opts.Advice != "" && (te.StatusCode == http.StatusUnauthorized || te.StatusCode == http.StatusForbidden):
		return r.opts.Advice
	case te.StatusCode == http.StatusUnauthorized, te.StatusCode == http.StatusForbidden, te.StatusCode == http.StatusNotFound:
		return "log in to " + r.repo.RegistryStr() + " with an account that may delete from " + r.repo.RepositoryStr()
	case refusesAll(te):
		return "allow deletion in the registry's configuration; if it is distribution, with `storage.delete.enabled: true` or REGISTRY_STORAGE_DELETE_ENABLED=true in its environment"
	}
	return ""
}
