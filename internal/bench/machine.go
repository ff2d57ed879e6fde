package main

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/ui"
)

// machine is where the numbers come from.
type machine struct {
	CPU      string `json:"cpu"`
	Cores    int    `json:"cores"`
	System   string `json:"system"`
	Go       string `json:"go"`
	Nix      string `json:"nix"`
	Registry string `json:"registry"`
	// Load is the load average over a minute at the start: what else was
	// going on.
	Load string `json:"load"`
	Date string `json:"date"`
}

func describeMachine(ctx context.Context) machine {
	m := machine{
		CPU: "unknown CPU", Cores: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(),
		Nix: version(ctx, "nix", "--version"), Registry: version(ctx, registryProgram, "--version"),
		Load: "unknown", Date: time.Now().UTC().Format(time.DateOnly),
	}
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load, _, _ = strings.Cut(string(load), " ")
	}
	return m
}

// version is the last word of what a program says of itself.
func version(ctx context.Context, program string, args ...string) string {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	words := strings.Fields(string(out))
	if err != nil || len(words) == 0 {
		return program + " is missing"
	}
	return program + " " + words[len(words)-1]
}

func (m machine) String() string {
	return strings.Join([]string{
		ui.Count(m.Cores, "core") + " of " + m.CPU, m.System, m.Go, m.Nix, m.Registry, "load " + m.Load + " at the start", m.Date,
	}, ", ")
}

// availableMemory is what programs can still have, in bytes; 0 where /proc does
// not tell.
func availableMemory() int64 { return kilobytes("/proc/meminfo", "MemAvailable") }
