package nix

import "syscall"

// Process is a command that runs, with all that it has started.
type Process struct{ pid int }

// Kill ends it at once. It must be one that cannot be building anything.
func (p Process) Kill() {
	if p.pid > 0 {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	}
}
