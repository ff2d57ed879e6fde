package ui

import (
	"math"
	"testing"
	"time"
)

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 12_345_678: "12.3 MB", 99_949: "99.9 kB", 99_950: "100 kB",
		999_499: "999 kB", 999_500: "1.0 MB", 1_234_000_000: "1.2 GB", math.MaxInt64: "9.2 EB", -1500: "-1.5 kB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d): got %q, want %q", n, got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0 s", 340 * time.Millisecond: "0.3 s", 9949 * time.Millisecond: "9.9 s", 9950 * time.Millisecond: "10 s",
		59499 * time.Millisecond: "59 s", 59500 * time.Millisecond: "1 min 00 s", 200 * time.Second: "3 min 20 s",
		3599 * time.Second: "59 min 59 s", 3599600 * time.Millisecond: "1 h 00 min", 125 * time.Minute: "2 h 05 min",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%v): got %q, want %q", d, got, want)
		}
	}
}

func TestFew(t *testing.T) {
	for want, list := range map[string][]string{"": nil, "a": {"a"}, "a, b, c, d, e": {"a", "b", "c", "d", "e"}, "a, b, c, d, e and 2 more": {"a", "b", "c", "d", "e", "f", "g"}} {
		if got := Few(list); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int]string{0: "0 paths", 1: "1 path", 2: "2 paths", 999: "999 paths", 1000: "1,000 paths", 1234567: "1,234,567 paths"} {
		if got := Count(n, "path"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := Number(-123456); got != "-123,456" {
		t.Errorf("got %q", got)
	}
}

func TestRatio(t *testing.T) {
	if got := Ratio(4, 11); got != "36 %" {
		t.Errorf("got %q", got)
	}
	if got := Ratio(0, 0); got != "-" {
		t.Errorf("got %q", got)
	}
}

func TestTable(t *testing.T) {
	got := Table([]string{"", "paths", "NAR size", "why"}, [][]string{
		{"uploaded", "12", "1.2 GB", "new"},
		{"ünknown", "1,234", "-"},
	})
	want := "" +
		"          paths  NAR size  why\n" +
		"uploaded     12    1.2 GB  new\n" +
		"ünknown   1,234         -\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := Table(nil, [][]string{{"a", "1"}, {"bb", "22"}}); got != "a    1\nbb  22\n" {
		t.Errorf("got %q", got)
	}
	if got := Table(nil, nil); got != "" {
		t.Errorf("got %q", got)
	}
}
