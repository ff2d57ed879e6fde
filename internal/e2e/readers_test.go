package e2e

import (
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/registrytest"
)

// Whoever publishes for the first time is told that nobody can read the cache
// without a login, once.
func TestSaysWhoReads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := registrytest.NewPrivate(t, registrytest.NewDistribution(t).Addr, true)
	s.User("me", "right", "secret/", "open/")
	s.Open("open/")
	const words = "nobody can read "
	for _, tt := range []struct {
		cache string
		want  bool
	}{{"/secret/cache", true}, {"/secret/cache", false}, {"/open/cache", false}} {
		cmd := w.publishTo(s.Addr+tt.cache, w.add("x"+t.Name(), tt.cache)...)
		cmd.Env = append(cmd.Env, "NIXOCI_USERNAME=me", "NIXOCI_PASSWORD=right")
		r := w.finish(cmd)
		if r.code != 0 || strings.Contains(r.stderr, words+s.Addr+tt.cache) != tt.want {
			t.Errorf("%s: got %d, want the words: %t\n%s", tt.cache, r.code, tt.want, r.stderr)
		}
	}
}
