package proxy

import (
	"context"
	"net/http"

	"github.com/org/nixoci-action/index/format"
)

// Service is what a proxy serves: a Server, or what package many makes of several.
// All of it is safe for concurrent use.
type Service interface {
	http.Handler
	// Prepare reads what is to be served. Its error is a warning: the service
	// can serve in every case.
	Prepare(ctx context.Context) error
	// Run keeps what is served fresh until ctx is cancelled.
	Run(ctx context.Context)
	// Config is what it says about itself, as far as it is known.
	Config() format.Config
	// Keys are the public keys that clients may trust, and those that not.
	Keys() format.KeyChain
	// Len is the number of store paths that can be served.
	Len() int
	// Refresh reads anew what is served, as long as it is served without a
	// name, and forgets what is known of the rest.
	Refresh(ctx context.Context) error

	// Servers are those that are open.
	Servers() []*Server
}

var _ Service = (*Server)(nil)
