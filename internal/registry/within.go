package registry

import (
	"context"
	"fmt"
	"time"
)

// Within gives a registry a time to answer; the cause of the context's end says
// that it did not.
func Within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("the registry did not answer within %s", d))
}
