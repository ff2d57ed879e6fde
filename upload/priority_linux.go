package upload

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// stepBack lets everything else on the machine go first, up to the end of the
// goroutine. The thread ends with it, as the priority cannot be raised again.
func stepBack() {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, lowest) // of this thread
}
