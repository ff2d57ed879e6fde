package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// WriteJSON writes a result for programs: what --json prints.
func WriteJSON(w io.Writer, result any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(result); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// Stopwatch times the stages of a run. The zero value works. Stages may
// overlap, and be started from several goroutines.
type Stopwatch struct {
	mu     sync.Mutex
	stages []Stage
}

// Stage is a part of a run and the time that it took.
type Stage struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
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
