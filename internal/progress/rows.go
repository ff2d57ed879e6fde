package progress

import (
	"math"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/ui"
)

// Rows are what a terminal shows: the builds that run, and the numbers.
func (d *Display) Rows(now time.Time, rows, columns int) []ui.Row {
	d.mu.Lock()
	defer d.mu.Unlock()
	bytes := d.measure(now)
	var numbers []ui.Row
	if row := fit(d.numbers(now), columns); row != nil {
		numbers = append(numbers, row)
	}
	if d.paths > 0 {
		numbers = append(numbers, ui.Bar(bytes, d.size, columns, d.uploading(bytes)...))
	}
	if len(numbers) > rows {
		numbers = numbers[:rows]
	}
	return append(d.building(now, rows-len(numbers), columns), numbers...)
}

// building has a row for each build, as far as there is room.
func (d *Display) building(now time.Time, rows, columns int) []ui.Row {
	running := d.running()
	more := 0
	if rows < 1 {
		return nil
	}
	if len(running) > rows {
		more = len(running) - rows + 1
		running = running[:rows-1]
	}
	var names, times int
	for _, b := range running {
		names = max(names, len(b.name))
		times = max(times, len(ui.Duration(now.Sub(b.begun))))
	}
	names = max(min(names, columns-times-4, max(columns/3, 16)), 1)
	var list []ui.Row
	for _, b := range running {
		name := b.name
		if len(name) > names {
			name = ui.Cut(name, names-1)
			name += strings.Repeat(" ", max(0, names-len([]rune(name))))
		} else {
			name += strings.Repeat(" ", names-len(name))
		}
		took := ui.Duration(now.Sub(b.begun))
		took = strings.Repeat(" ", times-len(took)) + took
		list = append(list, ui.Row{{Text: "  " + name}, {Text: "  " + took, Style: ui.Yellow}, {Text: "  " + d.o.Redact(b.log.last()), Style: ui.Dim}})
	}
	if more > 0 {
		list = append(list, ui.Row{{Text: "  and " + ui.Number(more) + " more"}})
	}
	return list
}

// numbers are the counts, the most important first.
func (d *Display) numbers(now time.Time) []ui.Span {
	var list []ui.Span
	add := func(style ui.Style, text string) { list = append(list, ui.Span{Text: text, Style: style}) }
	done, failed, all := d.count()
	if all > 0 {
		add(ui.Plain, "built "+ui.Number(done)+" of "+ui.Number(all))
	}
	if failed > 0 {
		add(ui.Red, ui.Number(failed)+" failed")
	}
	if n := d.busy(); n > 0 {
		add(ui.Plain, ui.Number(n)+" building")
	}
	if left, ok := d.buildsLeft(now, done, all-done-failed); ok {
		add(ui.Plain, "about "+left)
	}
	if d.fetched > 0 {
		add(ui.Plain, ui.Number(d.fetched)+" fetched")
	}
	switch evaluating := !d.begun.IsZero(); {
	case evaluating && d.outputs == 0:
		add(ui.Plain, "evaluating for "+ui.Duration(now.Sub(d.begun)))
	case evaluating:
		add(ui.Plain, ui.Count(d.outputs, "output")+" evaluated so far")
	case d.outputs > 0:
		add(ui.Plain, ui.Count(d.outputs, "output")+" evaluated")
	}
	return list
}

// fit is a row of as many of a list as there is room for, at least one.
func fit(list []ui.Span, columns int) ui.Row {
	var row ui.Row
	for i, s := range list {
		if i > 0 {
			if columns -= len(s.Text) + len(", "); columns < 0 {
				break
			}
			row = append(row, ui.Span{Text: ", "}, s)
			continue
		}
		columns -= len(s.Text)
		row = ui.Row{s}
	}
	return row
}

// minBuilds is how many builds must have ended before the time for the others is
// guessed from it.
const minBuilds = 5

// buildsLeft guesses how long the other builds take, once it is known how many
// there are.
func (d *Display) buildsLeft(now time.Time, done, others int) (string, bool) {
	if done < minBuilds || others < 1 || !d.begun.IsZero() {
		return "", false
	}
	return left(now.Sub(d.first).Seconds() / float64(done) * float64(others))
}

// uploading is, for example, "12 of 40 paths", "123 MB of 1.2 GB", "45.6 MB/s",
// "24 s left".
func (d *Display) uploading(bytes int64) []string {
	parts := []string{
		ui.Number(d.sent) + " of " + ui.Count(d.paths, "path"),
		ui.Bytes(bytes) + " of " + ui.Bytes(d.size),
	}
	if d.speed < 1 {
		return parts
	}
	parts = append(parts, ui.Bytes(int64(d.speed))+"/s")
	if done, failed, all := d.count(); done+failed < all || !d.begun.IsZero() {
		return parts // there will be more
	}
	if left, ok := left(float64(d.size-bytes) / d.speed); ok {
		parts = append(parts, left)
	}
	return parts
}

// measure returns how many bytes were processed, never more than all, and takes
// in how fast that goes.
func (d *Display) measure(now time.Time) int64 {
	bytes := min(d.bytes.Load(), d.size)
	d.speed = d.rate.at(now, bytes)
	return bytes
}

// left writes how many seconds are left. Beyond a day a guess says nothing.
func left(seconds float64) (string, bool) {
	text := ui.Duration(time.Duration(math.Ceil(seconds)) * time.Second)
	return strings.Replace(text, ".0", "", 1) + " left", seconds > 0 && seconds < 86400
}

// rateWindow is the time that a rate is an average of.
const rateWindow = 10 * time.Second

// rate is how fast a number grows.
type rate []sample

type sample struct {
	at    time.Time
	bytes int64
}

// at takes in what the number is now, and returns by how much it grows in a
// second.
func (r *rate) at(now time.Time, bytes int64) float64 {
	for len(*r) > 1 && now.Sub((*r)[1].at) >= rateWindow {
		*r = (*r)[1:]
	}
	*r = append(*r, sample{now, bytes})
	first := (*r)[0]
	if !now.After(first.at) {
		return 0
	}
	return float64(bytes-first.bytes) / now.Sub(first.at).Seconds()
}

// beat is what the last line said, and when.
type beat struct {
	at                                               time.Time
	outputs, done, failed, all, fetched, sent, paths int
	bytes, size                                      int64
}

// quiet is how long nothing is said of what goes on and does not move.
const quiet = 30 * time.Second

// maxNamed is how many builds a line names.
const maxNamed = 3

// Beat is what a log shows every ten seconds: the same numbers, if one of them
// has changed, or if it is time for a sign of life.
func (d *Display) Beat(now time.Time) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	done, failed, all := d.count()
	bytes := d.measure(now)
	is := beat{d.last.at, d.outputs, done, failed, all, d.fetched, d.sent, d.paths, bytes, d.size}
	running := d.running()
	busy := len(running) > 0 || !d.begun.IsZero() || d.sent < d.paths
	if is == d.last && (!busy || now.Sub(d.last.at) < quiet) {
		return ""
	}
	d.last = is
	d.last.at = now
	var parts []string
	for _, s := range d.numbers(now) {
		parts = append(parts, s.Text)
	}
	groups := []string{strings.Join(parts, ", ")}
	var names []string
	for _, b := range running[:min(len(running), maxNamed)] {
		names = append(names, b.name+" ("+ui.Duration(now.Sub(b.begun))+")")
	}
	if n := len(running) - len(names); n > 0 {
		names = append(names, ui.Number(n)+" more")
	}
	if len(names) > 0 {
		groups = append(groups, "building "+strings.Join(names, ", "))
	}
	if d.paths > 0 {
		groups = append(groups, "uploaded "+strings.Join(d.uploading(bytes), ", "))
	}
	text := strings.Join(groups, "; ")
	return strings.TrimPrefix(text, "; ")
}
