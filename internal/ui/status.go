package ui

import (
	"io"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
)

// A region is drawn often, a line is printed seldom.
const (
	regionTick = 200 * time.Millisecond
	lineTick   = 10 * time.Second
)

// Source is what a status tells of. Its methods are called by one goroutine.
type Source interface {
	// Rows are for a region at the bottom of a terminal that has so many
	// columns. Of more than so many rows only the last are seen.
	Rows(now time.Time, rows, columns int) []Row
	// Beat is a line for where there is no region, "" for none. It is asked for
	// every ten seconds.
	Beat(now time.Time) string
}

// Follow shows what a source says until end is called: on a terminal in a
// region of a few lines, which is gone in the end, elsewhere as a line now and
// then. There is one at a time.
func (m *Messages) Follow(source Source) (end func()) {
	tick := lineTick
	show := func(now time.Time) {
		if text := source.Beat(now); text != "" {
			m.Printf("%s", text)
		}
	}
	if m.terminal {
		tick = regionTick
		show = func(now time.Time) {
			columns, height := m.screen.size()
			m.screen.show(source.Rows(now, regionRows(height), columns-1))
		}
		show(time.Now())
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(tick)
		defer t.Stop()
		for {
			select {
			case <-stop:
				return
			case now := <-t.C:
				show(now)
			}
		}
	}()
	return func() {
		close(stop)
		<-done
		if m.terminal {
			m.screen.clear()
		}
	}
}

// What a bar takes without what is between its brackets, and with the least of
// that, in columns.
const (
	barEnds = len("  99% []  ")
	barSize = barEnds + len("=>..")
	maxBar  = 40
)

// Bar is a row of at most so many columns with a bar, and with as many of the
// texts as fit beside it.
func Bar(done, total int64, columns int, texts ...string) Row {
	text := strings.Join(texts, ", ")
	for len(text)+barSize > columns && len(texts) > 0 {
		texts = texts[:len(texts)-1]
		text = strings.Join(texts, ", ")
	}
	// Rate and time left are ours: the library's are wrong while the rate is 0.
	// It ends itself at its maximum, which therefore is one more.
	total = max(total, 1)
	bar := progressbar.NewOptions64(total+1,
		progressbar.OptionSetWriter(io.Discard),
		progressbar.OptionSetTheme(progressbar.ThemeASCII),
		progressbar.OptionSetWidth(min(max(columns-len(text)-barEnds, 1), maxBar)),
		progressbar.OptionSetElapsedTime(false),
		progressbar.OptionSetPredictTime(false),
	)
	_ = bar.Set64(min(max(done, 0), total))
	_ = bar.RenderBlank() // it leaves out 0 %
	drawn := strings.TrimRight(strings.TrimLeft(bar.String(), "\r"), " ")
	return Row{{drawn, Green}, {strings.TrimRight("  "+text, " "), Plain}}
}
