package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// lock takes an exclusive advisory lock on the file, made if needed. The
// system drops it when its holder dies.
func lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644) //nolint:gosec // holds nothing
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(lockTimeout)
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if errors.Is(err, syscall.EWOULDBLOCK) && time.Now().Before(deadline) {
			err = sleep(ctx, 5*time.Millisecond)
			if err == nil {
				continue
			}
		} else if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("another process has held %s for %s", name, lockTimeout)
		}
		f.Close()
		return nil, err
	}
}
