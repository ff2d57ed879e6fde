package cli

import (
	"strings"
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
	for s, want := range map[string]time.Duration{
		"2w": 336 * time.Hour, "1w2d3h": 219 * time.Hour, "0w": 0, "P0D": 0, "P30D": 720 * time.Hour, "P2W": 336 * time.Hour, "PT12H": 12 * time.Hour,
		"P1DT12H": 36 * time.Hour, "P1W1DT1H1M1S": 193*time.Hour + time.Minute + time.Second, "PT5M": 5 * time.Minute, "PT90S": 90 * time.Second,
		"P106751DT23H": 106751*24*time.Hour + 23*time.Hour,
	} {
		if got, err := ParseDuration(s); err != nil || got != want {
			t.Errorf("ParseDuration(%q): got %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", "d", "5", "-5m", "-1d", "1d-2h", "1.5d", "1h1d", "999999d", "106751d24h", "x", "w", "1d1w", "-1w", "15251w", "15250w8d",
		"P", "PT", "P1DT", "P1", "P-1D", "P1H", "PT1D", "P1D1W", "p1d", "P30d", "1P1D", "P1D\n", "P1.5D", "P99999999999999999999D", "PT99999999999999999999H",
	} {
		if got, err := ParseDuration(s); err == nil {
			t.Errorf("ParseDuration(%q): got %v, want an error", s, got)
		}
	}
	for _, s := range []string{"P1M", "P1Y", "P1Y2M3DT4H", "P6MT1H"} {
		if got, err := ParseDuration(s); err == nil || !strings.Contains(err.Error(), "months or years") {
			t.Errorf("ParseDuration(%q): got %v, %v, want an error about months and years", s, got, err)
		}
	}
}

// What is read is never negative, and is read again as it is written.
func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"5m", "1w2d3h", "P1Y2M", "P1W1DT1H1M1S", "106751d23h47m16.854775807s", "-1d", "0.1us"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDuration(s)
		if err != nil {
			return
		}
		if again, err := ParseDuration(FormatDuration(d)); d < 0 || err != nil || again != d {
			t.Errorf("%q is %v, written %q, read again %v, %v", s, d, FormatDuration(d), again, err)
		}
	})
}
