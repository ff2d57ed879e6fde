package cli

import (
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"0s": 0, "5m": 5 * time.Minute, "30d": 720 * time.Hour, "1d12h": 36 * time.Hour, "1h30m": 90 * time.Minute,
		"1h0m5s": time.Hour + 5*time.Second, "10m": 10 * time.Minute, "10h": 10 * time.Hour, "250ms": 250 * time.Millisecond,
	} {
		got, err := ParseDuration(s)
		if err != nil || got != want {
			t.Errorf("ParseDuration(%q): got %v, %v, want %v", s, got, err, want)
		}
		if got := FormatDuration(want); got != s {
			t.Errorf("FormatDuration(%v): got %q, want %q", want, got, s)
		}
	}
	for _, s := range []string{"", "d", "5", "-5m", "-1d", "1d-2h", "1.5d", "1h1d", "999999d", "106751d24h", "x"} {
		if got, err := ParseDuration(s); err == nil {
			t.Errorf("ParseDuration(%q): got %v, want an error", s, got)
		}
	}
}
