package upstream_test

import (
	"testing"
	"time"

	"github.com/org/nixoci-action/upstream"
)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"":                              0,
		"0":                             0,
		"7":                             7 * time.Second,
		"-7":                            0,
		"soon":                          0,
		"3600":                          upstream.MaxRetryAfter,
		"99999999999999999999":          upstream.MaxRetryAfter,
		"Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second,
		"Fri, 02 Jan 2026 03:04:00 GMT": 0,
		"Sat, 03 Jan 2026 03:04:00 GMT": upstream.MaxRetryAfter,
	} {
		if got := upstream.RetryAfter(header, now); got != want {
			t.Errorf("Retry-After %q: got %s, want %s", header, got, want)
		}
	}
}

func TestBackoffDoublesUpToItsBound(t *testing.T) {
	t.Parallel()
	for try, full := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 5: upstream.MaxBackoff, 80: upstream.MaxBackoff} {
		for range 100 {
			if d := upstream.Backoff(time.Second, try); d < full/2 || d > full {
				t.Errorf("try %d: got %s, want %s to %s", try, d, full/2, full)
			}
		}
	}
}
