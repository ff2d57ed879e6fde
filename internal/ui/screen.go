package ui

import (
	"io"
	"os"
	"sync"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
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

// width is the width of the terminal in columns.
func (s *screen) width() int {
	if f, ok := s.w.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil {
			return w
		}
	}
	return 80
}
