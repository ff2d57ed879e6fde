package registry

import (
	"context"
	"fmt"
	"time"
)

type onceKey struct{}

// Once has what is asked for with the context tried once only: for who has
// something else at hand.
func Once(ctx context.Context) context.Context { return context.WithValue(ctx, onceKey{}, true) }

// Within gives a registry a time to answer; the cause of the context's end says
// that it did not.
func Within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("the registry did not answer within %s", d))
}
