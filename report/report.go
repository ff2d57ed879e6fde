// Package report is what publish and gc say of a run. Programs read it as JSON,
// whose field names and values are an interface. People read it as text.
package report

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/org/nixoci-action/internal/registry"
)

// Status is how a run ended.
type Status string

// All statuses.
const (
	Done   Status = "done"
	Partly Status = "partly" // some of the work is done and acknowledged, some failed
	Failed Status = "failed"
)

// Total counts store paths. Sizes are in bytes, FileSize that of compressed NARs.
type Total struct {
	Paths    int   `json:"paths"`
	NarSize  int64 `json:"narSize"`
	FileSize int64 `json:"fileSize,omitempty"`
}

// Add counts one more path.
func (t *Total) Add(narSize, fileSize int64) {
	t.Paths++
	t.NarSize += narSize
	t.FileSize += fileSize
}

// Stage is a part of a run and the time that it took.
type Stage struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// stagesText is a line for people; "" without stages.
func stagesText(stages []Stage) string {
	var times []string
	for _, s := range stages {
		times = append(times, fmt.Sprintf("%s %.1f s", s.Name, s.Seconds))
	}
	if times == nil {
		return ""
	}
	return "time: " + strings.Join(times, ", ") + "\n"
}

// Stopwatch times the stages of a run. The zero value works. Stages may
// overlap, and be started from several goroutines.
type Stopwatch struct {
	mu     sync.Mutex
	stages []Stage
}

// Start begins a stage; what it returns ends it.
func (s *Stopwatch) Start(name string) func() {
	begin := time.Now()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.stages = append(s.stages, Stage{name, time.Since(begin).Seconds()})
	}
}

// Stages returns the stages that have ended, in the order of their ends.
func (s *Stopwatch) Stages() []Stage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Stage{}, s.stages...)
}

// end is how a run ended, as both reports say it.
func end(err error) (status Status, text string, denied bool) {
	switch {
	case err == nil:
		return Done, "", false
	case errors.As(err, new(*partlyError)):
		return Partly, err.Error(), registry.Denied(err)
	}
	return Failed, err.Error(), registry.Denied(err)
}
