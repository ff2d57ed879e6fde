package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"syscall"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/org/nixoci-action/internal/realm"
	"github.com/org/nixoci-action/internal/retry"
)

// session is a client with a token for one scope.
type session struct {
	scopes     []string              // the first that is granted
	connecting chan struct{}         // holds a token during the handshake
	login      atomic.Pointer[login] // nil until the handshake succeeds
}

// login is what a handshake has led to.
type login struct {
	*http.Client
	worked atomic.Bool // a request with it has succeeded
}

func newSession(scopes ...string) *session {
	return &session{scopes: scopes, connecting: make(chan struct{}, 1)}
}

// connect makes the handshake, unless it has been made: one ping, and a token
// where one is asked for.
func (r *remote) connect(ctx context.Context, s *session) (*login, error) {
	if l := s.login.Load(); l != nil {
		return l, nil
	}
	select {
	case s.connecting <- struct{}{}:
		defer func() { <-s.connecting }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if l := s.login.Load(); l != nil {
		return l, nil
	}
	auth, err := r.credentials(ctx)
	if err != nil {
		return nil, err
	}
	t, err := r.handshake(ctx, auth, s.scopes)
	if err != nil {
		return nil, err
	}
	l := &login{Client: &http.Client{Transport: t, CheckRedirect: checkRedirect}}
	s.login.Store(l)
	return l, nil
}

// expired reports whether a refused login is worth another handshake: it is if
// requests with it have succeeded. The transport renews a token by itself, but
// only once, and the registry may forget the new one as well.
func (s *session) expired(l *login) bool {
	if !l.worked.Load() {
		return false
	}
	s.login.CompareAndSwap(l, nil)
	return true
}

func (r *remote) credentials(ctx context.Context) (authn.Authenticator, error) {
	if r.opts.Keychain == nil {
		return authn.Anonymous, nil
	}
	auth, err := authn.Resolve(ctx, r.opts.Keychain, r.repo)
	if err != nil {
		return nil, permanentError{fmt.Errorf("reading the registry's credentials: %w", err)}
	}
	r.known.Store(auth != authn.Anonymous)
	return auth, nil
}

// handshake asks for each scope in turn: quay answers 400 to one that it does
// not know, where others grant what they do know.
func (r *remote) handshake(ctx context.Context, auth authn.Authenticator, scopes []string) (t http.RoundTripper, err error) {
	next := &realm.Transport{Next: r.limit, Registry: r.repo.RegistryStr()}
	for _, scope := range scopes {
		t, err = transport.NewWithContext(ctx, r.repo.Registry, auth, transport.NewUserAgent(next, r.opts.UserAgent), []string{r.repo.Scope(scope)})
		var te *transport.Error
		if !errors.As(err, &te) || retry.Transient(te.StatusCode) {
			break
		}
	}
	return t, r.unanswered(err)
}

// unanswered makes one error of those of a ping. Where TLS may be missing, there
// are two pings, with and without. What the second says tells nothing where the
// other end speaks TLS, and is all there is where it does not.
func (r *remote) unanswered(err error) error {
	var failed *url.Error
	if !errors.As(err, &failed) {
		return err
	}
	var te *transport.Error
	switch {
	case errors.As(err, &te) && (te.StatusCode != http.StatusBadRequest || te.Request == nil || te.Request.URL.Scheme != "http"):
		return te
	case r.repo.Scheme() == "https" || !errors.Is(failed, http.ErrSchemeMismatch):
		err = failed
	}
	refused := errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
	if refused && !r.limit.answered.Load() {
		return unreached{err}
	}
	return err
}

// unreached is the failure to connect to a registry that has never answered.
type unreached struct{ error }

func (e unreached) Unwrap() error { return e.error }
