//go:build !linux

package nix

import (
	"os/exec"
	"strconv"
	"strings"
)

// Resident returns how much memory each of the processes takes, in bytes, without
// what it has started. For one that has ended it is 0.
func Resident(processes []Process) []int64 {
	sizes := make([]int64, len(processes))
	pids := make([]string, len(processes))
	for i, p := range processes {
		pids[i] = strconv.Itoa(p.pid)
	}
	if len(pids) == 0 {
		return sizes
	}
	out, _ := exec.Command("/bin/ps", "-o", "pid=,rss=", "-p", strings.Join(pids, ",")).Output()
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		for i := range pids {
			if len(f) == 2 && f[0] == pids[i] {
				kilobytes, _ := strconv.ParseInt(f[1], 10, 64)
				sizes[i] = kilobytes << 10
			}
		}
	}
	return sizes
}

// AvailableMemory returns how much memory new processes can take before the
// system has none left, in bytes, or 0 if that is not known. It is a guess: half
// of what the machine has.
func AvailableMemory() int64 {
	out, _ := exec.Command("/usr/sbin/sysctl", "-n", "hw.memsize").Output()
	size, _ := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	return size / 2
}
