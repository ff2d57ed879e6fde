package progress

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/ui"
)

func env(pairs ...string) func(string) string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(k string) string { return m[k] }
}

var inActions = env("GITHUB_ACTIONS", "true", "CI", "true", "NO_COLOR", "1")

func drv(name string) string {
	return "/nix/store/00000000000000000000000000000000-" + name + ".drv"
}

func started(name string) nix.BuildEvent {
	return nix.BuildEvent{Kind: nix.BuildStarted, Drv: drv(name)}
}
func stopped(name string) nix.BuildEvent {
	return nix.BuildEvent{Kind: nix.BuildStopped, Drv: drv(name)}
}
func printed(name, line string) nix.BuildEvent {
	return nix.BuildEvent{Kind: nix.BuildLine, Drv: drv(name), Line: line}
}
func counts(done, expected, running, failed int) nix.BuildEvent {
	return nix.BuildEvent{Kind: nix.BuildCounts, Done: done, Expected: expected, Running: running, Failed: failed}
}
func said(text string) nix.BuildEvent { return nix.BuildEvent{Kind: nix.BuildMessage, Line: text} }

const (
	failed28  = "\x1b[31;1merror:\x1b[0m builder for '\x1b[35;1m%s\x1b[0m' failed with exit code 3;\n       last 2 log lines:\n       > bad line\n       > two\n       For full logs, run 'nix log x'."
	failed234 = "\x1b[31;1merror:\x1b[0m Cannot build '\x1b[35;1m%s\x1b[0m'.\n       Reason: \x1b[31;1mbuilder failed with exit code 3\x1b[0m.\n       Output paths:\n         /nix/store/x\n       Last 1 log lines:\n       > bad line"
	mismatch  = "error: hash mismatch in fixed-output derivation '%s':\n         specified: sha256-A=\n            got:    sha256-B="
)

// A log without folding has a line for each end, and all of what failed.
func TestPlainLog(t *testing.T) {
	for name, failure := range map[string]string{"2.8": failed28, "2.34": failed234} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				d := New(Options{Messages: ui.New(&out, env())})
				event, end := d.Builds()
				event(said("these 2 derivations will be built:"))
				event(said("  " + drv("good")))
				event(said("warning: \x1b[1mlook out\x1b[0m"))
				event(started("good"))
				event(started("bad"))
				event(counts(0, 2, 2, 0))
				event(printed("good", "one"))
				event(printed("bad", "bad line"))
				event(printed("bad", "two"))
				time.Sleep(1500 * time.Millisecond)
				event(counts(1, 2, 1, 0))
				d.Built(drv("good"))
				d.Built(drv("good"))
				time.Sleep(time.Second)
				if name == "2.34" {
					event(stopped("bad"))
				}
				event(said(fmt.Sprintf(failure, drv("bad"))))
				event(said(fmt.Sprintf(failure, drv("bad")))) // for what needs it
				d.Failed(drv("bad"))
				event(stopped("bad"))
				event(said("error: 1 dependencies of derivation '" + drv("app") + "' failed to build"))
				end()
				d.End()
				want := `warning: look out
building '` + drv("good") + `'
building '` + drv("bad") + `'
built good in 1.5 s
failed bad after 2.5 s: builder failed with exit code 3
log of bad:
bad line
two
error: 1 dependencies of derivation '` + drv("app") + `' failed to build
`
				if out.String() != want {
					t.Errorf("got\n%swant\n%s", out.String(), want)
				}
				if got := d.Log(drv("bad"), 1); got != "two" {
					t.Errorf("got log %q", got)
				}
			})
		})
	}
}

// In GitHub Actions each build is a group of its own, whole, however many run at
// once. What failed is not in a group.
func TestGroups(t *testing.T) {
	var out bytes.Buffer
	d := New(Options{Messages: ui.New(&out, inActions)})
	event, end := d.Builds()
	for _, n := range []string{"a", "b", "c", "silent"} {
		event(started(n))
	}
	for i := range 2 {
		for _, n := range []string{"a", "b", "c"} {
			event(printed(n, fmt.Sprintf("::group::%s %d\r\x1b[1m::endgroup::%d", n, i, i)))
		}
	}
	d.Built(drv("b"))
	d.Built(drv("silent"))
	event(said(fmt.Sprintf(mismatch, drv("c"))))
	d.Built(drv("a"))
	end()
	d.End()
	want := `building '` + drv("a") + `'
building '` + drv("b") + `'
building '` + drv("c") + `'
building '` + drv("silent") + `'
::group::built b in 0.0 s
: :endgroup::0
: :endgroup::1
::endgroup::
failed c after 0.0 s: hash mismatch in fixed-output derivation '` + drv("c") + `':
         specified: sha256-A=
            got:    sha256-B=
log of c:
: :endgroup::0
: :endgroup::1
::group::built a in 0.0 s
: :endgroup::0
: :endgroup::1
::endgroup::
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

// With Stream each line has the name of its package, and nothing a builder
// prints is a command, a secret or a sequence for the terminal.
func TestStream(t *testing.T) {
	for _, getenv := range []func(string) string{env(), inActions} {
		var out bytes.Buffer
		d := New(Options{Messages: ui.New(&out, getenv), Stream: true, Redact: func(s string) string { return strings.ReplaceAll(s, "s3cr3t", "***") }})
		event, _ := d.Builds()
		event(started("x-1.0"))
		for _, l := range []string{"plain", "", "::set-output name=a::s3cr3t", "\x1b]0;title\x07\x1b[2J\x1b[31mred", "10%\r20%\r30%\r\n", "##[error]x", "\xff\u202e"} {
			event(printed("x-1.0", l))
		}
		event(printed("unknown", "not shown"))
		d.Built(drv("x-1.0"))
		d.End()
		want := "building '" + drv("x-1.0") + "'\nx-1.0> plain\nx-1.0> \nx-1.0> : :set-output name=a::***\nx-1.0> red\nx-1.0> 30%\nx-1.0> ## [error]x\nx-1.0> \uFFFD\nbuilt x-1.0 in 0.0 s\n"
		if out.String() != want {
			t.Errorf("got\n%swant\n%s", out.String(), want)
		}
	}
}

// A line in a log says what has changed, and now and then that it goes on.
func TestBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		d := New(Options{Messages: ui.New(&out, env())})
		evaluated := d.Evaluating()
		time.Sleep(11 * time.Second)
		event, _ := d.Builds()
		d.Evaluated(2)
		for _, n := range []string{"a", "b", "c", "d", "e"} {
			event(started(n))
		}
		event(counts(1, 7, 5, 0))
		event(nix.BuildEvent{Kind: nix.BuildFetching, Path: "/nix/store/x"})
		time.Sleep(10 * time.Second) // 21 s
		evaluated()
		d.Expect(40, 1_200_000_000)
		d.Add(100_000_000)
		d.Done("/nix/store/small", 3_000_000, 999_999, time.Second)
		d.Done("/nix/store/hello\n::error::x", 12_345_678, 4_567_890, 1200*time.Millisecond)
		event(counts(5, 7, 1, 0))
		for _, n := range []string{"b", "c", "d", "e"} {
			event(stopped(n))
		}
		time.Sleep(10 * time.Second) // 31 s
		time.Sleep(40 * time.Second) // 71 s: nothing moved
		event(counts(7, 7, 0, 0))
		event(stopped("a"))
		d.Add(900_000_000)
		d.Add(-100_000_000)
		d.Expect(1, 1000)
		time.Sleep(10 * time.Second) // 81 s
		d.Add(9e9)                   // never shown as more than all
		for range 39 {
			d.Done("/nix/store/x", 1, 1, time.Second)
		}
		time.Sleep(10 * time.Second) // 91 s
		time.Sleep(5 * time.Minute)  // nothing goes on
		d.End()
		d.End()
		want := `building '` + drv("a") + `'
building '` + drv("b") + `'
building '` + drv("c") + `'
building '` + drv("d") + `'
building '` + drv("e") + `'
copying path '/nix/store/x'
built 1 of 7, 5 building, 1 fetched, 2 outputs evaluated so far; building a (9.0 s), b (9.0 s), c (9.0 s), 2 more
uploaded /nix/store/hello : :error::x: 12.3 MB, compressed 4.6 MB (37 %), in 1.2 s
built 5 of 7, 1 building, about 8 s left, 1 fetched, 2 outputs evaluated; building a (19 s); uploaded 2 of 40 paths, 100 MB of 1.2 GB, 10.0 MB/s
built 5 of 7, 1 building, about 20 s left, 1 fetched, 2 outputs evaluated; building a (49 s); uploaded 2 of 40 paths, 100 MB of 1.2 GB
built 7 of 7, 1 fetched, 2 outputs evaluated; uploaded 2 of 41 paths, 900 MB of 1.2 GB, 80.0 MB/s, 4 s left
built 7 of 7, 1 fetched, 2 outputs evaluated; uploaded 41 of 41 paths, 1.2 GB of 1.2 GB, 30.0 MB/s
`
		if out.String() != want {
			t.Errorf("got\n%swant\n%s", out.String(), want)
		}
	})
}

// A short run has nothing to say but what it built.
func TestShortRunIsSilent(t *testing.T) {
	var out bytes.Buffer
	d := New(Options{Messages: ui.New(&out, env())})
	d.Evaluating()()
	d.Expect(1, 5)
	d.Add(5)
	d.Done("x", 5, 5, 0)
	d.End()
	if out.Len() > 0 {
		t.Errorf("got %q, want nothing", out.String())
	}
}

// The rows of a region, wide and narrow, high and low.
func TestRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(Options{Messages: ui.New(io.Discard, env())})
		defer d.End()
		show := func(rows, columns int) string {
			var b strings.Builder
			for _, r := range d.Rows(time.Now(), rows, columns) {
				for _, s := range r {
					b.WriteString(s.Text)
				}
				b.WriteByte('\n')
			}
			return b.String()
		}
		want := func(rows, columns int, want string) {
			t.Helper()
			if got := show(rows, columns); got != want {
				t.Errorf("%d rows of %d columns: got\n%swant\n%s", rows, columns, got, want)
			}
		}
		want(8, 80, "")
		evaluated := d.Evaluating()
		time.Sleep(12 * time.Second)
		want(8, 80, "evaluating for 12 s\n")
		event, _ := d.Builds()
		d.Evaluated(193)
		event(started("linux-6.12.1"))
		event(printed("linux-6.12.1", "  CC   mm/slab.o"))
		time.Sleep(188 * time.Second)
		event(started("hello"))
		event(counts(0, 1060, 2, 0))
		time.Sleep(1000 * time.Millisecond)
		evaluated()
		want(8, 80, "  linux-6.12.1  3 min 09 s    CC   mm/slab.o\n  hello              1.0 s  \nbuilt 0 of 1,060, 2 building, 193 outputs evaluated\n")
		event(said(fmt.Sprintf(failed28, drv("hello"))))
		event(counts(17, 1042, 7, 1))
		for _, n := range []string{"a", "a-very-long-name-that-has-no-room-here-2.0.1", "c", "d", "e", "f"} {
			event(started(n))
		}
		d.Expect(40, 1_200_000_000)
		d.Add(500_000_000)
		d.Rows(time.Now(), 8, 80)
		time.Sleep(time.Second)
		want(5, 100, `  linux-6.12.1                       3 min 10 s    CC   mm/slab.o
  a-very-long-name-that-has-no-roo…       1.0 s  
  and 5 more
built 17 of 1,043, 1 failed, 7 building, about 3 h 11 min left, 193 outputs evaluated
  41% [===============>........................]  0 of 40 paths, 500 MB of 1.2 GB, 41.7 MB/s
`)
		want(4, 29, `  linux-6.12.1  3 min 10 s    CC   mm/slab.o
  and 6 more
built 17 of 1,043, 1 failed
  41% [=>....]  0 of 40 paths
`)
		want(1, 20, "built 17 of 1,043\n")
	})
}

// Two calls of Nix add up, and what one has not done counts only while it may.
func TestCalls(t *testing.T) {
	d := New(Options{Messages: ui.New(io.Discard, env())})
	defer d.End()
	check := func(done, failed, all int) {
		t.Helper()
		if a, b, c := d.count(); a != done || b != failed || c != all {
			t.Errorf("got %d, %d, %d, want %d, %d, %d", a, b, c, done, failed, all)
		}
	}
	first, endFirst := d.Builds()
	second, endSecond := d.Builds()
	first(started("bad"))
	first(counts(2, 9, 1, 1))
	second(counts(1, 3, 1, 0))
	check(3, 1, 13)
	first(said(fmt.Sprintf(failed28, drv("bad"))))
	endFirst()
	check(3, 1, 6)
	second(started("bad")) // tried once more
	second(counts(1, 4, 1, 0))
	check(3, 0, 6)
	second(counts(4, 4, 0, 0))
	d.Built(drv("bad"))
	endSecond()
	check(6, 0, 6)
	if got := d.Log(drv("bad"), 9); got != "" {
		t.Errorf("got log %q of a build that is done", got)
	}
}

// Logs take bounded memory, whatever is printed, and keep their ends.
func TestLogsAreBounded(t *testing.T) {
	var out bytes.Buffer
	d := New(Options{Messages: ui.New(&out, inActions)})
	event, _ := d.Builds()
	line := strings.Repeat("x", 1<<20)
	for b := range 100 {
		n := fmt.Sprint("b", b)
		event(started(n))
		for i := range 400 {
			event(printed(n, line[i:]))
		}
		event(printed(n, "the end"))
	}
	kept := 0
	for _, b := range d.byDrv {
		kept += len(b.log.text)
		if got := b.log.last(); got != "the end" {
			t.Fatalf("got %.20q", got)
		}
		if len(b.log.text) > maxLog || b.log.lines+b.log.cut != 401 || b.log.lines != bytes.Count(b.log.text, []byte("\n")) {
			t.Errorf("%d bytes, %d lines and %d before", len(b.log.text), b.log.lines, b.log.cut)
		}
	}
	if kept != d.kept || kept > maxLogs+100*minLog+maxLog {
		t.Errorf("got %d bytes, and counted %d", kept, d.kept)
	}
	for b := range 100 {
		d.Failed(drv(fmt.Sprint("b", b)))
	}
	if d.kept != kept {
		t.Errorf("got %d bytes, want those of the failed ones", d.kept)
	}
	d.End()
	if !strings.Contains(out.String(), "lines; all: nix log "+drv("b7")) {
		t.Error("it does not say that a log is not whole")
	}
}

func TestTail(t *testing.T) {
	var l buildLog
	if text, cut := l.tail(3); text != "" || cut != 0 {
		t.Errorf("got %q, %d", text, cut)
	}
	for i := range 10 {
		l.add(fmt.Sprint("line ", i), 60)
	}
	for n, want := range map[int]string{0: "", 1: "line 9", 2: "line 8\nline 9", 3: "line 7\nline 8\nline 9"} {
		if text, cut := l.tail(n); text != want || cut != 10-n {
			t.Errorf("%d: got %q, %d", n, text, cut)
		}
	}
	if all := l.String(); !strings.HasSuffix(all, "\nline 9") || len(all) > 60 || !strings.HasPrefix(all, "line ") {
		t.Errorf("got %q", all)
	}
	l = buildLog{}
	l.add("", 40)
	l.add("x", 40)
	l.add("", 40)
	if got := l.String(); got != "\nx\n" {
		t.Errorf("got %q", got)
	}
}

// All of it at once, for the race detector.
func TestConcurrently(t *testing.T) {
	var out bytes.Buffer
	d := New(Options{Messages: ui.New(&out, env())})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			event, end := d.Builds()
			defer end()
			for range 200 {
				n := fmt.Sprint(rand.IntN(20))
				for _, e := range []nix.BuildEvent{started(n), printed(n, "x"), counts(1, 2, 1, 0), said("error: about " + drv(n)), stopped(n)} {
					event(e)
				}
				d.Built(drv(n))
				d.Failed(drv(n))
				d.Log(drv(n), 3)
				d.Evaluating()()
				d.Evaluated(1)
				d.Expect(1, 10)
				d.Add(10)
				d.Done("x", 1, 1, 1)
				d.Rows(time.Now(), 8, 80)
				d.Beat(time.Now())
			}
		})
	}
	wg.Wait()
	d.End()
	if d.outputs != 800 || d.sent != 800 || d.bytes.Load() != 8000 {
		t.Errorf("got %d, %d, %d", d.outputs, d.sent, d.bytes.Load())
	}
}

func BenchmarkLines(b *testing.B) {
	for name, stream := range map[string]bool{"kept": false, "streamed": true} {
		b.Run(name, func(b *testing.B) {
			d := New(Options{Messages: ui.New(io.Discard, env()), Stream: stream})
			defer d.End()
			event, _ := d.Builds()
			var events []nix.BuildEvent
			for i := range 8 {
				n := fmt.Sprint("package-", i)
				event(started(n))
				events = append(events, printed(n, "gcc -O2 -Wall -c -o build/src/some/file.o src/some/file.c"))
			}
			events = slices.Clip(events)
			b.ResetTimer()
			for i := 0; b.Loop(); i++ {
				event(events[i%8])
			}
		})
	}
}
