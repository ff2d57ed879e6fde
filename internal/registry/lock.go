package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/org/nixoci-action/internal/retry"
)

// lock takes an exclusive advisory lock on the file, made if needed, and waits
// for it for at most timeout. The system drops it when its holder dies.
func lock(ctx context.Context, name string, timeout time.Duration) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644) //nolint:gosec // holds nothing
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(timeout)
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		switch {
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
		case time.Now().After(deadline):
			err = fmt.Errorf("another process has held %s for %s", name, timeout)
		default:
			if err = retry.Sleep(ctx, 5*time.Millisecond); err == nil {
				continue
			}
		}
		f.Close()
		return nil, err
	}
}
