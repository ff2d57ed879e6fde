package secret

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Hide keeps the environment and the memory of this process from others of the
// same user: /proc shows them to root only, and no debugger may attach. A build
// without a sandbox is such a process. It also takes the values of the variables
// that secret names out of what /proc shows, for builds by root. os.Getenv still
// has them. Processes that this one starts are not hidden. It must be called
// before other goroutines are started. See also Show.
func Hide(secret func(name string) bool) error {
	return errors.Join(wipe(secret), unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}

// Show lets the same user look at this process again. What Hide has wiped stays so.
func Show() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) }

// wipe overwrites values in the memory that the kernel has given the process as
// its environment. Go's own copy is elsewhere.
func wipe(secret func(name string) bool) error {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return fmt.Errorf("finding the environment: %w", err)
	}
	// the second field is a name in parentheses, with whatever in it
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const start, end = 50 - 3, 51 - 3 // proc_pid_stat(5) counts from 1, and these follow the second
	if len(fields) <= end {
		return errors.New("finding the environment: /proc/self/stat is too short")
	}
	from, err := strconv.ParseUint(string(fields[start]), 10, strconv.IntSize)
	if err != nil {
		return fmt.Errorf("finding the environment: %w", err)
	}
	to, err := strconv.ParseUint(string(fields[end]), 10, strconv.IntSize)
	if err != nil {
		return fmt.Errorf("finding the environment: %w", err)
	}
	if from == 0 || to <= from {
		return nil
	}
	address := uintptr(from)
	block := unsafe.Slice(*(**byte)(unsafe.Pointer(&address)), int(to-from)) //nolint:gosec // the stack of the process, which stays where it is
	for len(block) > 0 {
		n := bytes.IndexByte(block, 0)
		if n < 0 {
			n = len(block)
		}
		if i := bytes.IndexByte(block[:n], '='); i > 0 && secret(string(block[:i])) {
			clear(block[i+1 : n])
		}
		block = block[min(n+1, len(block)):]
	}
	return nil
}
