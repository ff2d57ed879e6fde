package nix

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
)

// Resident returns how much memory each of the processes takes, in bytes, without
// what it has started. For one that has ended it is 0.
func Resident(processes []Process) []int64 {
	sizes := make([]int64, len(processes))
	for i, p := range processes {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.pid))
		if fields := bytes.Fields(text); err == nil && len(fields) > 1 {
			pages, _ := strconv.ParseInt(string(fields[1]), 10, 64)
			sizes[i] = pages * int64(os.Getpagesize())
		}
	}
	return sizes
}

// AvailableMemory returns how much memory new processes can take before the
// system has none left, in bytes, or 0 if that is not known. It heeds the limits
// of control groups.
func AvailableMemory() int64 {
	available := field("/proc/meminfo", "MemAvailable:") << 10
	groups, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(groups)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		root, limit, usage := "/sys/fs/cgroup", "memory.max", "memory.current"
		inactive := "inactive_file"
		if controllers == "memory" { // of version 1
			root, limit, usage = "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
			inactive = "total_inactive_file"
		} else if controllers != "" {
			continue
		}
		for ; ; group = path.Dir(group) {
			dir := path.Join(root, group)
			most, err := number(path.Join(dir, limit))
			used, uerr := number(path.Join(dir, usage))
			if err == nil && uerr == nil {
				left := max(1, most-used+field(path.Join(dir, "memory.stat"), inactive))
				if available <= 0 || left < available {
					available = left
				}
			}
			if group == "/" || group == "." || group == "" {
				break
			}
		}
	}
	return available
}

// number reads a file with one number. "max" is none.
func number(file string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// field reads the number that follows a name at the beginning of a line.
func field(file, name string) int64 {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}
