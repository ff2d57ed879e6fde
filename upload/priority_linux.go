package upload

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// niceness is that of uploads beside other work, as of nice(1).
const niceness = 15

// stepBack lets everything else on the machine go first, up to the end of the
// goroutine. The thread ends with it, as the priority cannot be raised again.
func stepBack() {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, niceness) // of this thread
}
