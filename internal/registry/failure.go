package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/retry"
)

// Denied reports whether err is a registry's refusal of the credentials or of
// what they may do. That there is no room left is none.
func Denied(err error) bool {
	var te *transport.Error
	return errors.As(err, &te) && (te.StatusCode == http.StatusUnauthorized || te.StatusCode == http.StatusForbidden && !full(te))
}

// tooManyLayers is in Amazon ECR's answer, with the code UNSUPPORTED.
const tooManyLayers = "Limit on number of layers per image exceeded"

// TooManyBlobs reports whether err is a registry's answer that a manifest names
// more blobs than it allows.
func TooManyBlobs(err error) bool {
	var te *transport.Error
	if !errors.As(err, &te) {
		return false
	}
	return slices.ContainsFunc(te.Errors, func(d transport.Diagnostic) bool {
		return d.Code == "MANIFEST_REFERENCE_LIMIT" || strings.Contains(d.Message, tooManyLayers) // the first is GitLab's
	})
}

// Refused reports whether err is a registry's answer that it does not take a
// request as it is, and would not if it were repeated. It is not about
// credentials, absence or size.
func Refused(err error) bool {
	var te *transport.Error
	if errors.As(err, new(*MissingBlobsError)) || !errors.As(err, &te) || retry.Transient(te.StatusCode) || TooManyBlobs(err) {
		return false
	}
	switch te.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusRequestEntityTooLarge:
		return false
	}
	return te.StatusCode >= 400 && te.StatusCode < 500
}

// describe names the side that failed, marks absence, and adds what the user
// can do about it.
func (r *remote) describe(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil { // not the registry's doing
		return context.Cause(ctx)
	}
	var te *transport.Error
	if !errors.As(err, &te) {
		return hint.Wrap(fmt.Errorf("registry %s: %w", r.repo.RegistryStr(), err), r.connectionHint(err))
	}
	if r.absent(te) {
		return fmt.Errorf("registry %s: %w: %w", r.repo.RegistryStr(), ErrNotFound, err)
	}
	return hint.Wrap(fmt.Errorf("registry %s: %w", r.repo.RegistryStr(), err), r.hint(te))
}

// absent tells the answer that an object of the repository does not exist from
// other answers with the same status: that this host is no registry, that it
// has no such token service, that its storage elsewhere has lost a blob.
func (r *remote) absent(te *transport.Error) bool {
	req := te.Request
	return te.StatusCode == http.StatusNotFound && req != nil &&
		(req.Method == http.MethodGet || req.Method == http.MethodHead) &&
		req.URL.Host == r.repo.RegistryStr() && strings.HasPrefix(req.URL.Path, r.endpoint().Path)
}

// maxErrorText bounds what a server's answer adds to a message, in bytes.
const maxErrorText = 1 << 10

// presentable is an error of the HTTP client whose text is of a readable
// length and without secrets. URLs have them: users before the host, and in
// queries the signatures of storage services and the states of uploads.
type presentable struct{ err error }

func present(err error) error { return &presentable{err} }

func (p *presentable) Unwrap() error { return p.err }

var (
	userInURL  = regexp.MustCompile(`://[^/@\s"']+@`)
	queryInURL = regexp.MustCompile(`(://[^\s?"']+\?)[^\s"']+`)
)

func (p *presentable) Error() string {
	s := p.err.Error()
	var te *transport.Error
	if errors.As(p.err, &te) {
		for _, d := range te.Errors {
			if d.Detail != nil {
				s = strings.Replace(s, fmt.Sprintf("; %v", d.Detail), detail(d), 1)
			}
		}
	}
	if len(s) > 2*maxErrorText {
		s = s[:2*maxErrorText] // no more than this is worth a search
	}
	s = userInURL.ReplaceAllLiteralString(s, "://***@")
	s = queryInURL.ReplaceAllString(s, "${1}***")
	if len(s) > maxErrorText {
		s = s[:maxErrorText] + "…"
	}
	return strings.ToValidUTF8(s, "")
}

// detail is what a registry says besides its message, as it has said it. Of a
// refusal it is what was asked for, which the message of the caller says.
func detail(d transport.Diagnostic) string {
	if text, ok := d.Detail.(string); ok {
		return "; " + text
	}
	switch d.Code {
	case transport.DeniedErrorCode, transport.UnauthorizedErrorCode, transport.NameUnknownErrorCode:
		return ""
	}
	text, _ := json.Marshal(d.Detail) // it was JSON
	return "; " + string(text)
}
