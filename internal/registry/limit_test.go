package registry

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

func TestRetryAfter(t *testing.T) {
	ghcr := `{"errors":[{"code":"TOOMANYREQUESTS","message":"retry-after: 35.1ms, allowed: 44000/minute"}]}`
	tests := []struct {
		name, header, body string
		min, max           time.Duration
	}{
		{"seconds", "7", "", 7 * time.Second, 7 * time.Second},
		{"date", time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat), "", 15 * time.Second, 20 * time.Second},
		{"date in the past", "Mon, 02 Jan 2006 15:04:05 GMT", "", 0, 0},
		{"negative", "-5", "", 0, 0},
		{"very long", "99999999999", "", maxRetryAfter, maxRetryAfter},
		{"ghcr.io", "", ghcr, 35100 * time.Microsecond, 35100 * time.Microsecond},
		{"nonsense in the header", "soon", ghcr, 35100 * time.Microsecond, 35100 * time.Microsecond},
		{"capital letters", "", "Retry-After: 2s", 2 * time.Second, 2 * time.Second},
		{"end of a sentence", "", "Retry-After: 2s.", 2 * time.Second, 2 * time.Second},
		{"without a unit", "", "retry-after: 3, sorry", 3 * time.Second, 3 * time.Second},
		{"longer than time itself", "", "retry-after: 99999999999h", maxRetryAfter, maxRetryAfter},
		{"nothing", "", "slow down", 0, 0},
		{"nothing to read", "", "", 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body := tt.body + strings.Repeat(" ", 5000)
			resp := &http.Response{Header: http.Header{"Retry-After": {tt.header}}, Body: io.NopCloser(strings.NewReader(body))}
			if got := retryAfter(resp); got < tt.min || got > tt.max {
				t.Errorf("got %s, want %s to %s", got, tt.min, tt.max)
			}
			if rest, _ := io.ReadAll(resp.Body); string(rest) != body {
				t.Errorf("%d bytes of the body are left, want %d", len(rest), len(body))
			}
		})
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("Retry-After: 35.1ms, allowed", "")
	f.Add("", "120")
	f.Fuzz(func(t *testing.T, body, header string) {
		resp := &http.Response{Header: http.Header{"Retry-After": {header}}, Body: io.NopCloser(strings.NewReader(body))}
		if d := retryAfter(resp); d < 0 {
			t.Errorf("got %s", d)
		}
		if rest, err := io.ReadAll(resp.Body); string(rest) != body || err != nil {
			t.Errorf("the body became %q, %v", rest, err)
		}
	})
}

// One refusal makes everybody wait, not only who got it.
func TestRetryAfterStopsAll(t *testing.T) {
	const pause = 300 * time.Millisecond
	tests := map[string]func(http.ResponseWriter, *http.Request) bool{
		"in the text":   answer(429, "TOOMANYREQUESTS", "retry-after: 300ms, allowed: 44000/minute"),
		"unavailable":   answer(503, "UNAVAILABLE", "retry-after: 300ms"),
		"in the header": withHeader("Retry-After", "1", answer(429, "TOOMANYREQUESTS", "x")),
	}
	for name, refuse := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var times []time.Time
			var refused time.Time
			f := newFake(t)
			note := func(w http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				if refused.IsZero() {
					refused = time.Now()
					return refuse(w, r)
				}
				times = append(times, time.Now())
				return false
			}
			f.rules = append(f.rules, &rule{kind: "POST upload", times: 1000, answer: note})
			r := f.open()
			if _, err := r.connect(t.Context(), r.session); err != nil {
				t.Fatal(err)
			}
			if _, err := r.startUpload(t.Context()); err == nil {
				t.Fatal("the first request was not refused")
			}
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					if _, err := r.PutBlob(within(t, 10*time.Second), []byte("x")); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if first := slices.MinFunc(times, time.Time.Compare).Sub(refused); len(times) != 10 || first < pause-10*time.Millisecond {
				t.Errorf("%d requests, the first %s after the refusal; want 10 after %s", len(times), first, pause)
			}
		})
	}
}

// The registry's pause may be longer than what counts as a stall.
func TestRetryAfterIsNoStall(t *testing.T) {
	f := newFake(t, rule{kind: "POST upload", answer: answer(429, "TOOMANYREQUESTS", "retry-after: 900ms")})
	r := f.open()
	r.setStall(300 * time.Millisecond)
	if _, err := r.PutBlob(within(t, 5*time.Second), []byte("x")); err != nil {
		t.Fatal(err)
	}
	want := []string{"GET /v2/", "POST upload", "POST upload", "PUT upload"}
	if got := f.requests(); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// Who waits for minutes is told once.
func TestRetryAfterCancelled(t *testing.T) {
	f := newFake(t, rule{kind: "POST upload", times: 9, answer: withHeader("Retry-After", "200", answer(429, "TOOMANYREQUESTS", "x"))})
	var log bytes.Buffer
	f.opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
	r := f.open()
	start := time.Now()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, err := r.PutBlob(within(t, 100*time.Millisecond), []byte("x")); err == nil || time.Since(start) > 2*time.Second {
				t.Errorf("got %v after %s", err, time.Since(start))
			}
		})
	}
	wg.Wait()
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "the registry limits requests, waiting") || !strings.Contains(got, "pause=3m20s") {
		t.Errorf("the log says\n%s", got)
	}
}

func TestRate(t *testing.T) {
	f := newFake(t)
	r := f.open()
	r.limit.rate = rate.NewLimiter(100, 1)
	start := time.Now()
	var wg sync.WaitGroup
	for range 10 { // 21 requests with the handshake's; https is tried too
		wg.Go(func() {
			if _, err := r.PutBlob(within(t, 10*time.Second), []byte("x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took < 190*time.Millisecond {
		t.Errorf("%d requests took %s, at 100 a second", r.Requests(), took)
	}
	if got := int(r.Requests()); got != len(f.requests())+1 {
		t.Errorf("counted %d requests, the registry %d", got, len(f.requests()))
	}
	if repo, _ := Open("ghcr.io/a/b", Options{}); repo.(*remote).limit.rate == nil {
		t.Error("ghcr.io has no rate limit")
	}
}

func TestFreshKeepsTheCallersRequest(t *testing.T) {
	req, err := http.NewRequest(http.MethodPut, "http://127.0.0.1/", bytes.NewReader([]byte("abc")))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		again, err := fresh(req)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(again.Body); string(b) != "abc" || err != nil {
			t.Errorf("got body %q, %v", b, err)
		}
	}
	req.Body, req.GetBody = &stream{r: strings.NewReader("abc")}, nil
	if _, err := fresh(req); err != nil {
		t.Error(err)
	}
	if _, err := fresh(req); !errors.Is(err, errSpent) || !transient(err) {
		t.Errorf("a stream was sent twice: %v", err)
	}
}
