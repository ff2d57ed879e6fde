package action

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A path of which the proxy does not say whether it has it counts as used, and
// takes no other path with it.
func TestUsed(t *testing.T) {
	t.Parallel()
	path := func(c string) string { return "/nix/store/" + strings.Repeat(c, 32) + "-x" }
	var mu sync.Mutex
	asked := map[string]int{}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := r.URL.Path[1:2]
		mu.Lock()
		asked[c]++
		n := asked[c]
		mu.Unlock()
		switch {
		case c == "a", c == "c" && n > 1:
		case c == "d":
			w.WriteHeader(http.StatusBadGateway)
		case c == "f":
			panic(http.ErrAbortHandler)
		case c == "c", c == "g" && n == 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer proxy.Close()
	s, out := newTestSession(t, "")
	s.state.URL = proxy.URL
	paths := []string{path("a"), path("b"), path("c"), path("d"), path("f"), path("g"), "/nix/store/none"}
	if got, want := s.used(t.Context(), paths), []string{path("a"), path("c"), path("d"), path("f")}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	mu.Lock()
	if asked["a"] != 1 || asked["b"] != 1 || asked["c"] != 2 || asked["d"] != usedTries || asked["g"] != 2 {
		t.Errorf("got so many requests: %v", asked)
	}
	mu.Unlock()
	if !strings.Contains(out.String(), "of 2 paths whether the job took them") {
		t.Errorf("got %s", out)
	}

	over, cancel := context.WithCancel(t.Context())
	cancel()
	if got := s.used(over, paths[:3]); len(got) != 3 {
		t.Errorf("after the deadline: got %q", got)
	}
	s.state.URL = ""
	if got := s.used(t.Context(), paths); got != nil {
		t.Errorf("without a substituter: got %q", got)
	}
}
