package ui

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/org/nixoci-action/internal/terminaltest"
)

// fixed is a source that says what a test wants.
type fixed struct {
	mu   sync.Mutex
	rows []Row
	beat string
}

func (f *fixed) say(rows ...Row) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rows = rows
}

func (f *fixed) Rows(_ time.Time, rows, columns int) []Row {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.rows)
}

func (f *fixed) Beat(time.Time) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.beat
}

// onScreen makes messages for a terminal.
func onScreen(s *terminaltest.Screen, getenv func(string) string) *Messages {
	m := New(s, getenv)
	m.terminal = true
	m.colours = getenv("NO_COLOR") == ""
	m.screen.size, m.screen.colours, m.screen.reflows = s.Size, m.colours, getenv("XTERM_VERSION") == ""
	return m
}

func rows(lines ...string) []Row {
	var all []Row
	for _, l := range lines {
		all = append(all, Row{{Text: l}})
	}
	return all
}

// wantScreen compares what is on the screen once all ticks are over.
func wantScreen(t *testing.T, s *terminaltest.Screen, lines ...string) {
	t.Helper()
	time.Sleep(regionTick)
	synctest.Wait()
	if got, want := s.Lines(), lines; !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if odd := s.Odd(); len(odd) > 0 {
		t.Errorf("the terminal got %q", odd)
	}
	if !s.AtMargin() {
		t.Error("the cursor is not at the margin")
	}
}

// Messages stand above the region, in their order, and the region is gone in the
// end.
func TestRegion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := terminaltest.New(40, 12)
		m := onScreen(s, env())
		m.Printf("before")
		source := &fixed{rows: rows("one", "two")}
		end := m.Follow(source)
		wantScreen(t, s, "before", "one", "two")
		m.Printf("a message")
		m.Print(Row{{"rows", Red}, {" together", Plain}}, Row{{"second", Bold}})
		wantScreen(t, s, "before", "a message", "rows together", "second", "one", "two")
		source.say(rows("one")...)
		wantScreen(t, s, "before", "a message", "rows together", "second", "one")
		m.Printf("%s", strings.Repeat("x", 40)+strings.Repeat("y", 50))
		source.say(rows("one", "two", "three")...)
		wantScreen(t, s, "before", "a message", "rows together", "second", strings.Repeat("x", 40), strings.Repeat("y", 40), strings.Repeat("y", 10), "one", "two", "three")
		_, _ = m.screen.Write([]byte("without an end"))
		end()
		wantScreen(t, s, "before", "a message", "rows together", "second", strings.Repeat("x", 40), strings.Repeat("y", 40), strings.Repeat("y", 10), "without an end")
		m.Printf("after")
		wantScreen(t, s, "before", "a message", "rows together", "second", strings.Repeat("x", 40), strings.Repeat("y", 40), strings.Repeat("y", 10), "without an end", "after")
	})
}

// A region is at most a third of the screen, and none of its lines wraps, whatever
// characters a name has.
func TestRegionFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := terminaltest.New(30, 9)
		m := onScreen(s, env())
		source := &fixed{rows: rows("1", "2", strings.Repeat("3", 99), "4\x1b[2J\a漢字\r\n\u202eZ", strings.Repeat("Ü", 30))}
		defer m.Follow(source)()
		wantScreen(t, s, strings.Repeat("3", 28)+"…", "4?? Z", strings.Repeat("Ü", 28)+"…")
		s.Resize(10, 9)
		wantScreen(t, s, "33333333…", "4?? Z", "ÜÜÜÜÜÜÜÜ…")
		s.Resize(10, 4)
		wantScreen(t, s, "ÜÜÜÜÜÜÜÜ…")
	})
}

// After the window has changed its width, the region is in its place again, and
// nothing else is gone. Some terminals wrap lines anew, xterm cuts them.
func TestResize(t *testing.T) {
	for name, tc := range map[string]struct {
		screen *terminaltest.Screen
		env    func(string) string
	}{
		"wrapping": {terminaltest.New(60, 30), env()},
		"cutting":  {terminaltest.New(60, 30).Cutting(), env("XTERM_VERSION", "XTerm(390)")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := tc.screen
				m := onScreen(s, tc.env)
				source := &fixed{rows: rows("x"+strings.Repeat(" long", 9), "short", strings.Repeat("0123456789", 6))}
				defer m.Follow(source)()
				m.Printf("one")
				m.Printf("two")
				for _, columns := range []int{60, 30, 120, 20, 25, 24, 60} {
					s.Resize(columns, 30)
					want := []string{"one", "two"}
					for _, r := range source.rows {
						want = append(want, strings.TrimRight(cut(r[0].Text, columns-1), " "))
					}
					wantScreen(t, s, want...)
				}
			})
		})
	}
}

// Many messages cost a terminal few writes, and none of them is lost.
func TestManyMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := terminaltest.New(40, 12)
		m := onScreen(s, env())
		counter := &counting{s: s}
		m.screen.w = counter
		end := m.Follow(&fixed{rows: rows("the region")})
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 1000 {
					m.Printf("%d %d", i, j)
				}
			})
		}
		wg.Wait()
		end()
		if got := s.Lines(); len(got) != 8000 {
			t.Errorf("got %d lines", len(got))
		}
		if counter.n > 20 {
			t.Errorf("got %d writes", counter.n)
		}
	})
}

type counting struct {
	s *terminaltest.Screen
	n int
}

func (c *counting) Write(p []byte) (int, error) {
	c.n++
	return c.s.Write(p)
}

// What does not change is not drawn again.
func TestStillRegion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := terminaltest.New(40, 12)
		m := onScreen(s, env())
		counter := &counting{s: s}
		m.screen.w = counter
		defer m.Follow(&fixed{rows: rows("the region")})()
		time.Sleep(time.Minute)
		synctest.Wait()
		if counter.n != 1 {
			t.Errorf("got %d writes", counter.n)
		}
	})
}

// Elsewhere there is a line every ten seconds, if there is something to say.
func TestBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		source := &fixed{rows: rows("never shown"), beat: "so far\n::error::x"}
		end := New(&out, inActions).Follow(source)
		time.Sleep(25 * time.Second)
		synctest.Wait()
		source.mu.Lock()
		source.beat = ""
		source.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		end()
		if want := strings.Repeat("so far\n: :error::x\n", 2); out.String() != want {
			t.Errorf("got %q, want %q", out.String(), want)
		}
	})
}

func TestBar(t *testing.T) {
	texts := []string{"12 of 40 paths", "123 MB of 1.2 GB", "45.6 MB/s", "24 s left"}
	for _, tc := range []struct {
		done, total int64
		columns     int
		want        string
	}{
		{250, 1000, 79, "  24% [==>............]  12 of 40 paths, 123 MB of 1.2 GB, 45.6 MB/s, 24 s left"},
		{1000, 1000, 79, "  99% [=============>.]  12 of 40 paths, 123 MB of 1.2 GB, 45.6 MB/s, 24 s left"},
		{500, 1000, 200, "  49% [==================>.....................]  12 of 40 paths, 123 MB of 1.2 GB, 45.6 MB/s, 24 s left"},
		{1, 1000, 29, "   0% [.....]  12 of 40 paths"},
		{0, 0, 30, "   0% [......]  12 of 40 paths"},
		{9999, 1000, 14, "  99% [==>.]"},
		{-5, 1000, 1, "   0% [.]"},
	} {
		got := Bar(tc.done, tc.total, tc.columns, texts...).render(0, false)
		if got != tc.want {
			t.Errorf("%d of %d: got %q, want %q", tc.done, tc.total, got, tc.want)
		}
		if len(got) > max(tc.columns, barSize) {
			t.Errorf("%d columns for %q", len(got), got)
		}
	}
}

func TestColours(t *testing.T) {
	row := Row{{"built", Green}, {" x", Plain}}
	for name, tc := range map[string]struct {
		env  func(string) string
		want string
	}{
		"plain":                {env(), "built x\n"},
		"forced":               {env("CLICOLOR_FORCE", "1"), "\x1b[32mbuilt\x1b[0m x\n"},
		"forced to none":       {env("CLICOLOR_FORCE", "0"), "built x\n"},
		"forced and forbidden": {env("CLICOLOR_FORCE", "1", "NO_COLOR", "1"), "built x\n"},
		"Actions":              {inActions, "\x1b[32mbuilt\x1b[0m x\n"},
		"Actions, forbidden":   {env("GITHUB_ACTIONS", "true", "NO_COLOR", "1"), "built x\n"},
	} {
		var out bytes.Buffer
		New(&out, tc.env).Print(row)
		if out.String() != tc.want {
			t.Errorf("%s: got %q, want %q", name, out.String(), tc.want)
		}
	}
}

// A group is whole, its text has no commands, and elsewhere there is only its
// title.
func TestFold(t *testing.T) {
	title, text := Row{{"built", Plain}, {" a\n::b", Plain}}, "one\r\n::endgroup::\n\x1b[31m::stop-commands::x\n##[error]\x07"
	var out bytes.Buffer
	New(&out, env()).Fold(title, text)
	if want := "built a\n: :b\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	out.Reset()
	New(&out, inActions).Fold(title, text)
	if want := "::group::built a%0A: :b\none\n: :endgroup::\n: :stop-commands::x\n## [error]\n::endgroup::\n"; out.String() != want {
		t.Errorf("in Actions: got %q, want %q", out.String(), want)
	}
}

// Two pieces that are harmless make no workflow command together.
func TestRowsAreNoCommands(t *testing.T) {
	var out bytes.Buffer
	New(&out, inActions).Print(Row{{":", Plain}, {":error::x", Plain}}, Row{{"#", Plain}, {"#[error]", Plain}})
	if want := ": :error::x\n## [error]\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
