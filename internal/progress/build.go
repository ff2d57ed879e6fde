package progress

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/internal/ui"
)

// builds are those of a run. The display's lock guards them.
type builds struct {
	byDrv map[string]*build // those that are not known to have ended well
	calls []*call
	first time.Time // when the first one began
	// fetched is how many paths came, or come, from a substituter instead.
	fetched int
	kept    int // bytes of all logs
}

// build is one that has begun.
type build struct {
	drv, name string
	begun     time.Time
	ended     time.Time // zero while it runs
	failed    bool
	reason    string // of the failure, as Nix says
	log       buildLog
}

// call is one call of Nix that builds.
type call struct {
	d                               *Display
	begun                           []*build
	done, expected, running, failed int
}

// Builds follows one call of Nix. The first function takes its events, the
// second tells that it has ended.
func (d *Display) Builds() (event func(nix.BuildEvent), end func()) {
	c := &call{d: d}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, c)
	return c.event, c.end
}

func (c *call) event(e nix.BuildEvent) {
	d := c.d
	d.mu.Lock()
	defer d.mu.Unlock()
	switch e.Kind {
	case nix.BuildStarted:
		c.begun = append(c.begun, d.start(e.Drv))
		d.began("building '" + e.Drv + "'")
	case nix.BuildStopped:
		if b := d.byDrv[e.Drv]; b != nil {
			b.end()
		}
	case nix.BuildLine:
		d.line(e.Drv, e.Line)
	case nix.BuildCounts:
		c.done, c.expected, c.running, c.failed = e.Done, e.Expected, e.Running, e.Failed
	case nix.BuildFetching:
		d.fetched++
		d.began("copying path '" + e.Path + "'")
	case nix.BuildMessage:
		d.message(e.Line)
	}
}

// end leaves of what Nix expected only what it has done. Another call may do the
// rest.
func (c *call) end() {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	c.expected, c.running, c.failed = c.done, 0, 0
	for _, b := range c.begun {
		b.end()
	}
	c.begun = nil
}

// began says in Nix's own words what begins, where no region does.
func (d *Display) began(text string) {
	if m := d.o.Messages; !m.Terminal() {
		m.Printf("%s", text)
	}
}

// count is how many builds are done and have failed, and how many there will
// have been, as far as Nix knows by now. Nix expects none that has failed.
func (bs *builds) count() (done, failed, all int) {
	failed = len(bs.failed())
	unnamed := 0
	for _, c := range bs.calls {
		done += c.done
		all += c.expected
		unnamed += c.failed
	}
	failed = max(failed, unnamed)
	return done, failed, all + failed
}

// busy is how many builds run.
func (bs *builds) busy() (n int) {
	for _, c := range bs.calls {
		n += c.running
	}
	return n
}

// running are the builds that may run, the oldest first. Before version 2.34 Nix
// may say only when all builds are done which of them have failed.
func (bs *builds) running() []*build {
	return bs.which(func(b *build) bool { return b.ended.IsZero() })
}

// failed are those that have failed, in the order in which they began.
func (bs *builds) failed() []*build { return bs.which(func(b *build) bool { return b.failed }) }

func (bs *builds) which(is func(*build) bool) []*build {
	var all []*build
	for _, b := range bs.byDrv {
		if is(b) {
			all = append(all, b)
		}
	}
	slices.SortFunc(all, func(a, b *build) int { return cmp.Or(a.begun.Compare(b.begun), cmp.Compare(a.drv, b.drv)) })
	return all
}

// start takes in that a build begins, perhaps once more.
func (d *Display) start(drv string) *build {
	now := time.Now()
	if d.first.IsZero() {
		d.first = now
	}
	d.forget(drv)
	b := &build{drv: drv, name: name(drv), begun: now}
	d.byDrv[drv] = b
	return b
}

func (d *Display) forget(drv string) {
	if b := d.byDrv[drv]; b != nil {
		d.kept -= len(b.log.text)
		delete(d.byDrv, drv)
	}
}

// name is what people call a derivation.
func name(drv string) string {
	p, err := storepath.Parse(drv)
	if err != nil {
		return ui.Line(drv)
	}
	return strings.TrimSuffix(p.Name, ".drv")
}

func (d *Display) line(drv, text string) {
	b := d.byDrv[drv]
	if b == nil {
		return
	}
	before := len(b.log.text)
	bound := maxLog
	if d.kept >= maxLogs { // it drops lines of its own
		bound = max(before, minLog)
	}
	b.log.add(text, bound)
	d.kept += len(b.log.text) - before
	if d.o.Stream {
		d.o.Messages.Print(ui.Row{{Text: b.name + "> ", Style: ui.Dim}, {Text: d.o.Redact(b.log.last())}})
	}
}

// Built tells that a build has ended well: its outputs are there. Before version
// 2.34 Nix says so itself only when all builds are done.
func (d *Display) Built(drv string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.byDrv[drv]
	if b == nil || b.failed {
		return
	}
	took := b.end()
	title := ui.Row{{Text: "built", Style: ui.Green}, {Text: " " + b.name + " in " + ui.Duration(took)}}
	switch m := d.o.Messages; {
	case took < worthALine && (m.Terminal() || len(b.log.text) == 0):
	case d.o.Stream || len(b.log.text) == 0:
		m.Print(title)
	default:
		m.Fold(title, d.o.Redact(b.log.String()))
	}
	d.forget(drv)
}

// worthALine is how long a build takes of which a line says that it has ended,
// also without a log or on a terminal.
const worthALine = time.Second

// Failed tells that a build has failed, if Nix has not said so.
func (d *Display) Failed(drv string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b := d.byDrv[drv]; b != nil && !b.failed {
		d.fail(b, "")
	}
}

// Log returns the last lines, at most n, of what a build has printed that runs
// or has failed: as ui.Text makes them, and without secrets.
func (d *Display) Log(drv string, n int) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b := d.byDrv[drv]; b != nil {
		text, _ := b.log.tail(n)
		return ui.Text(d.o.Redact(text))
	}
	return ""
}

// fail says that a build has failed. Its log follows at once where it can be
// scrolled to, and on a terminal in the end.
func (d *Display) fail(b *build, reason string) {
	b.failed, b.reason = true, reason
	row := ui.Row{{Text: "failed", Style: ui.Red}, {Text: " " + b.name + " after " + ui.Duration(b.end())}}
	if reason != "" {
		row = append(row, ui.Span{Text: ": " + d.o.Redact(reason)})
	}
	d.o.Messages.Print(row)
	if !d.o.Messages.Terminal() {
		d.printLog(b, b.log.lines)
	}
}

// Limits of the logs that a terminal gets in the end, in lines: of each, and of
// each where there are many.
const (
	maxShown   = 500
	allShown   = 5000
	leastShown = 20
)

func (d *Display) printLogs() {
	failed := d.failed()
	for _, b := range failed {
		d.printLog(b, min(maxShown, max(leastShown, allShown/len(failed))))
	}
}

// printLog prints the last lines, at most n, of what a failed build has printed.
func (d *Display) printLog(b *build, n int) {
	text, cut := b.log.tail(n)
	if text == "" {
		return
	}
	title := ui.Row{{Text: "log of " + b.name + ":", Style: ui.Bold}}
	if cut > 0 {
		title = append(title, ui.Span{Text: fmt.Sprintf(" (without its first %s; all: nix log %s)", ui.Count(cut, "line"), b.drv)})
	}
	d.o.Messages.Print(title, ui.Row{{Text: d.o.Redact(text)}})
}

// end notes when a build ended, and returns how long it took.
func (b *build) end() time.Duration {
	if b.ended.IsZero() {
		b.ended = time.Now()
	}
	return b.ended.Sub(b.begun)
}

// derivation finds derivations in Nix's messages.
var derivation = regexp.MustCompile(`/[^\s'"]+/[0-9a-z]{32}-[0-9A-Za-z+._?=-]+\.drv\b`)

// maxMessage bounds what is printed of one of Nix's messages, in bytes.
const maxMessage = 4000

// message prints what Nix says. The error of a build tells that it has failed:
// what did not begin because another build has failed is no derivation of a
// build.
func (d *Display) message(text string) {
	text = strings.TrimSpace(ui.Text(text))
	if known.MatchString(text) {
		return
	}
	if about, ok := strings.CutPrefix(text, "error:"); ok {
		if b := d.byDrv[derivation.FindString(about)]; b != nil {
			why := reason(about)
			if !b.failed {
				d.fail(b, why)
				return
			}
			if b.reason == why { // once more, for what needs it
				return
			}
			b.reason = why
		}
	}
	d.o.Messages.Printf("%s", d.o.Redact(ui.Cut(text, maxMessage)))
}

// known is what Nix says of all that it is going to do, a line for each path, and
// of all that it has not done. There are numbers of that.
var known = regexp.MustCompile(`^(?:(?:this|these \d+) (?:derivation|path)s? will be (?:built|fetched)[^\n]*:|/\S+/[0-9a-z]{32}-\S+|error: build of '.*' failed)$`)

var (
	// builderFor is how versions before 2.34 say it, which have the reason in one
	// line, and why the newer ones.
	builderFor = regexp.MustCompile(`^builder for '[^']*' `)
	why        = regexp.MustCompile(`(?m)^\s*Reason: (.*?)\.?$`)
	copied     = regexp.MustCompile(`(?i);?\s*last \d+ log lines:(?s:.*)`)
)

// reason is what Nix's error about a build says of it: without its name, its
// output paths and the copy of its log.
func reason(text string) string {
	text = strings.TrimSpace(copied.ReplaceAllString(text, ""))
	if m := why.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return builderFor.ReplaceAllString(text, "builder ")
}
