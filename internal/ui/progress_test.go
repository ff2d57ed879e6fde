package ui

import (
	"bytes"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestProgressLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := New(&out, env()).Progress()
		p.Start(40, 1_200_000_000)
		time.Sleep(5 * time.Second)
		p.Add(100_000_000)
		p.Done("small", 3_000_000, 999_999, time.Second)
		p.Done("hello\n::error::x", 12_345_678, 4_567_890, 1200*time.Millisecond)
		time.Sleep(6 * time.Second) // 11 s
		synctest.Wait()
		p.Add(900_000_000)
		p.Add(-100_000_000)
		time.Sleep(10 * time.Second) // 21 s
		synctest.Wait()
		time.Sleep(10 * time.Second) // 31 s: nothing moved
		synctest.Wait()
		p.Add(9e9) // never shown as more than all
		time.Sleep(10 * time.Second)
		synctest.Wait()
		p.Finish()
		p.Finish()
		want := `uploaded hello : :error::x: 12.3 MB, compressed 4.6 MB (37 %), in 1.2 s
2 of 40 paths, 100 MB of 1.2 GB, 10.0 MB/s, 1 min 50 s left
2 of 40 paths, 900 MB of 1.2 GB, 80.0 MB/s, 4 s left
2 of 40 paths, 900 MB of 1.2 GB
2 of 40 paths, 1.2 GB of 1.2 GB, 30.0 MB/s
`
		if out.String() != want {
			t.Errorf("got\n%swant\n%s", out.String(), want)
		}
	})
}

func TestProgressShortRunIsSilent(t *testing.T) {
	var out bytes.Buffer
	p := New(&out, env()).Progress()
	p.Finish()
	p.Start(1, 5)
	p.Add(5)
	p.Done("x", 5, 5, 0)
	p.Finish()
	if out.Len() > 0 {
		t.Errorf("got %q, want nothing", out.String())
	}
}

func TestProgressBar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		m := New(&out, env())
		m.terminal = true
		p := m.Progress()
		p.Start(4, 1000)
		p.Add(250)
		time.Sleep(time.Second)
		synctest.Wait()
		m.Printf("a message")
		p.Done("big", 5e6, 5e6, time.Second) // no line of its own on a terminal
		p.Add(750)
		time.Sleep(time.Second)
		synctest.Wait()
		p.Finish()

		lines := screenLines(out.String())
		// as Start, Printf and Finish leave the terminal
		if got := strings.Join(lines.kept, "|"); got != "a message|" {
			t.Errorf("got %q on the screen at the end", got)
		}
		for _, want := range []*regexp.Regexp{
			regexp.MustCompile(`^24% \[=+>\.+\]  0 of 4 paths, 250 B of 1.0 kB, 250 B/s, 3 s left$`),
			regexp.MustCompile(`^99% \[=+>\.\]  1 of 4 paths, 1.0 kB of 1.0 kB, 500 B/s$`),
		} {
			found := false
			for _, l := range lines.all {
				if len(l) > 80 {
					t.Errorf("%q is wider than the terminal", l)
				}
				found = found || want.MatchString(l)
			}
			if !found {
				t.Errorf("no line like %s in\n%s", want, strings.Join(lines.all, "\n"))
			}
		}
	})
}

// screenLines plays the few control sequences that a bar uses.
func screenLines(s string) (l struct{ kept, all []string }) {
	line := ""
	for _, tok := range regexp.MustCompile(`\x1b\[2K|\x1b\[0K|\r|\n|[^\x1b\r\n]+`).FindAllString(s, -1) {
		switch tok {
		case "\x1b[2K":
			line = ""
		case "\r", "\x1b[0K":
		case "\n":
			l.kept = append(l.kept, line)
			line = ""
		default:
			line = tok
			l.all = append(l.all, strings.TrimSpace(tok))
		}
	}
	l.kept = append(l.kept, line)
	return l
}

func TestProgressConcurrently(t *testing.T) {
	var out bytes.Buffer
	m := New(&out, env())
	m.terminal = true
	p := m.Progress()
	p.Start(800, 800_000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				p.Add(1000)
				p.Done("x", 1000, 500, time.Millisecond)
				m.Printf("message")
			}
			time.Sleep(2 * barTick)
		})
	}
	wg.Wait()
	p.Finish()
	if n := p.donePaths.Load(); n != 800 || p.doneBytes.Load() != 800_000 {
		t.Errorf("got %d paths, %d bytes", n, p.doneBytes.Load())
	}
	if n := strings.Count(out.String(), "message\n"); n != 800 {
		t.Errorf("got %d messages, want 800", n)
	}
}

func BenchmarkAdd(b *testing.B) {
	p := New(new(bytes.Buffer), env()).Progress()
	p.Start(1, 1<<60)
	defer p.Finish()
	for b.Loop() {
		p.Add(1)
	}
}
