package ui

import (
	"io"
	"sync"

	"github.com/schollz/progressbar/v3"
)

// screen is where messages and the bar meet: a message clears the bar's line,
// and the bar comes back with its next tick.
type screen struct {
	mu  sync.Mutex
	w   io.Writer
	bar *progressbar.ProgressBar // nil when none is shown
}

// Write never fails: there is no other place to say that nothing can be said,
// and go-githubactions panics when it cannot write.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bar != nil {
		_ = s.bar.Clear()
	}
	_, _ = s.w.Write(p)
	return len(p), nil
}
