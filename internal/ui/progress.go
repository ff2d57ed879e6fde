package ui

import (
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
)

const (
	barTick  = 200 * time.Millisecond
	lineTick = 10 * time.Second
	// rateWindow is the time that the shown rate is an average of.
	rateWindow = 10 * time.Second
	// lineSize is the file size from which an upload gets a line of its own.
	lineSize = 1_000_000
	// barSize is the least space that the bar itself needs, in columns.
	barSize = len("  99% [=>..]  ")
)

// Progress shows how far the uploads are: one bar on a terminal; elsewhere one
// line for each finished upload of at least 1 MB and one every ten seconds.
//
// Start comes first and Finish last; the other methods are safe for concurrent
// use, and cheap: a call of Add is one atomic addition.
type Progress struct {
	m          *Messages
	paths      int
	narBytes   int64
	donePaths  atomic.Int64
	doneBytes  atomic.Int64
	samples    []sample // the ticking goroutine's own
	stop, done chan struct{}
}

type sample struct {
	at    time.Time
	bytes int64
}

// Progress makes a progress display that shares the screen with m: what m
// prints meanwhile stands above the bar.
func (m *Messages) Progress() *Progress { return &Progress{m: m} }

// Start begins the display of an upload of so many paths and uncompressed
// bytes.
func (p *Progress) Start(paths int, narBytes int64) {
	p.Finish()
	p.paths, p.narBytes = paths, narBytes
	p.donePaths.Store(0)
	p.doneBytes.Store(0)
	p.samples = []sample{{time.Now(), 0}}
	p.stop, p.done = make(chan struct{}), make(chan struct{})
	tick := lineTick
	if p.m.terminal {
		tick = barTick
		p.showBar()
	}
	go p.run(tick)
}

// Add counts uncompressed bytes that were processed. A transfer that starts
// again takes its bytes back with a negative number.
func (p *Progress) Add(narBytes int64) { p.doneBytes.Add(narBytes) }

// Done counts a finished path. Its bytes were counted by Add.
func (p *Progress) Done(name string, narSize, fileSize int64, took time.Duration) {
	p.donePaths.Add(1)
	if fileSize >= lineSize && !p.m.terminal {
		p.m.println(fmt.Sprintf("uploaded %s: %s, compressed %s (%s), in %s",
			Line(name), Bytes(narSize), Bytes(fileSize), Ratio(fileSize, narSize), Duration(took)))
	}
}

// Finish ends the display. The bar disappears: what was done is for the
// summary to say. It may be called without Start, and again.
func (p *Progress) Finish() {
	if p.stop == nil {
		return
	}
	close(p.stop)
	<-p.done
	p.stop = nil
	p.hideBar()
}

func (p *Progress) run(tick time.Duration) {
	defer close(p.done)
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-p.stop:
			return
		case now := <-t.C:
			p.show(now)
		}
	}
}

func (p *Progress) show(now time.Time) {
	bytes := min(p.doneBytes.Load(), p.narBytes)
	status := p.status(now, bytes)
	if !p.m.terminal {
		p.m.println(strings.Join(status, ", "))
		return
	}
	s := p.m.screen
	s.mu.Lock()
	defer s.mu.Unlock()
	// A line that wraps cannot be cleared, so a narrow terminal gets less.
	text := strings.Join(status, ", ")
	for len(text)+barSize > s.width() && len(status) > 0 {
		status = status[:len(status)-1]
		text = strings.Join(status, ", ")
	}
	// The bar ends itself at its maximum, but then the last registry answers
	// are still to come.
	_ = s.bar.Set64(min(bytes, s.bar.GetMax64()-1))
	s.bar.Describe(text)
}

// status is, for example, "12 of 40 paths", "123 MB of 1.2 GB", "45.6 MB/s",
// "24 s left".
func (p *Progress) status(now time.Time, bytes int64) []string {
	parts := []string{
		Number(int(p.donePaths.Load())) + " of " + Count(p.paths, "path"),
		Bytes(bytes) + " of " + Bytes(p.narBytes),
	}
	for len(p.samples) > 1 && now.Sub(p.samples[1].at) >= rateWindow {
		p.samples = p.samples[1:]
	}
	first := p.samples[0]
	p.samples = append(p.samples, sample{now, bytes})
	rate := float64(bytes-first.bytes) / now.Sub(first.at).Seconds()
	if rate < 1 {
		return parts
	}
	parts = append(parts, Bytes(int64(rate))+"/s")
	// beyond a day the estimate says nothing
	if left := float64(p.narBytes-bytes) / rate; left > 0 && left < 86400 {
		d := Duration(time.Duration(math.Ceil(left)) * time.Second)
		parts = append(parts, strings.Replace(d, ".0", "", 1)+" left")
	}
	return parts
}

func (p *Progress) showBar() {
	s := p.m.screen
	s.mu.Lock()
	defer s.mu.Unlock()
	// Rate and time left are ours: the library's are wrong while the rate is 0.
	s.bar = progressbar.NewOptions64(max(p.narBytes, 1)+1,
		progressbar.OptionSetWriter(s.w),
		progressbar.OptionSetTheme(progressbar.ThemeASCII),
		progressbar.OptionFullWidth(),
		progressbar.OptionShowDescriptionAtLineEnd(),
		progressbar.OptionSetElapsedTime(false),
		progressbar.OptionSetPredictTime(false),
		progressbar.OptionUseANSICodes(true),
	)
}

func (p *Progress) hideBar() {
	s := p.m.screen
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bar != nil {
		_ = s.bar.Clear()
		s.bar = nil
	}
}
