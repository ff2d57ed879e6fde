package ui

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLogger(t *testing.T) {
	var b strings.Builder
	log := New(&b, func(string) string { return "" }).Logger(slog.LevelInfo)
	log.Debug("not shown")
	log.Info("committed", "entries", 3)
	log.Warn("trying again", "error", errors.New("no\n::error::route"), "pause", 386111*time.Microsecond, "url", "https://u:p@h/x?sig=abc")
	// an error of a redirected request has a signed URL in it
	log.Warn("x", "error", errors.New("Get \"https://storage.example/blob?sig=secret\": EOF"), "text", "\x1b[31mred")
	log.With("a", 1).WithGroup("g").Warn("grouped", "b", 2)
	want := `committed (entries 3)
warning: trying again (pause 386ms, url https://***@h/x?sig=***): no : :error::route
warning: x (text red): Get "https://storage.example/blob?sig=***": EOF
warning: grouped (a 1, g.b 2)
`
	if got := b.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
