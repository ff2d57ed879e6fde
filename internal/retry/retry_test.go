package retry

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestSleep(t *testing.T) {
	if err := Sleep(t.Context(), time.Millisecond); err != nil {
		t.Error(err)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := Sleep(ctx, time.Hour); !errors.Is(err, cause) {
		t.Errorf("got %v, want the cause", err)
	}
}

func TestSpread(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 100 {
		d := Spread(time.Second)
		if d < time.Second/2 || d > time.Second {
			t.Fatalf("got %s", d)
		}
		seen[d] = true
	}
	if len(seen) < 50 || Up(0) != 0 || Up(-1) != 0 {
		t.Errorf("got %d durations, %s, %s", len(seen), Up(0), Up(-1))
	}
}

func TestAfter(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"0": 0, "7": 7 * time.Second, "-3": 0,
		"99999999999999999999":          maxAfter, // more than fits
		"9999999999":                    maxAfter,
		"Fri, 20 Nov 2026 12:00:30 GMT": 30 * time.Second,
		"Fri, 20 Nov 2026 11:00:30 GMT": 0,
		"":                              -1, "soon": -1, "7s": -1, "-99999999999999999999": -1,
	} {
		got, ok := After(header, now)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: got %s, %v, want %s", header, got, ok, want)
		}
	}
}

func TestTransient(t *testing.T) {
	for status, want := range map[int]bool{200: false, 400: false, 401: false, 403: false, 404: false, 408: true, 425: true, 429: true, 500: true, 501: false, 502: true, 503: true, 504: true, 505: false, 507: false, 524: true, 599: true} {
		if got := Transient(status); got != want {
			t.Errorf("%d: got %v", status, got)
		}
	}
}
