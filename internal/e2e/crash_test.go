package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registrytest"
	"github.com/org/nixoci-action/report"
)

// add puts files with the given contents into the store, one path each.
func (w *world) add(prefix string, contents ...string) []string {
	w.Helper()
	var files []string
	for i, c := range contents {
		name := fmt.Sprintf("%s-%d", prefix, i)
		nixtest.Write(w, w.Dir, "add/"+name, c)
		files = append(files, filepath.Join(w.Dir, "add", name))
	}
	return strings.Fields(w.Env.Run(w.T, w.Dir, "nix-store", append([]string{"--add"}, files...)...))
}

// noise is text that does not compress away.
func noise(r *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+/"[r.IntN(64)]
	}
	return string(b)
}

// Eight publishers at once into one cache, with different paths; half of the
// runs are killed at a random moment. What was acknowledged, by the exit
// status or by the message that a segment is committed, is there afterwards.
func TestEightPublishersAtOnce(t *testing.T) {
	t.Parallel()
	caches(t, func(t *testing.T, cache string) {
		const publishers, rounds = 8, 2
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		w := newWorld(t)
		var acknowledged []string
		killed, survivors := 0, 0
		for round := range rounds {
			var mine [publishers][]string
			for p := range mine {
				var contents []string
				for range 3 {
					contents = append(contents, noise(random, 1000+random.IntN(200_000)))
				}
				contents = append(contents, noise(random, 1_500_000)) // not in a pack
				mine[p] = w.add(fmt.Sprintf("r%d-p%d", round, p), contents...)
			}
			// measured against a run that is left alone, so that kills hit
			// every stage however slow the machine is
			start := time.Now()
			w.publish(cache, w.add(fmt.Sprintf("r%d-warm", round), noise(random, 1000))...)
			typical := time.Since(start)

			var mu sync.Mutex
			var wg sync.WaitGroup
			for p := range mine {
				kill := time.Duration(-1)
				if p%2 == 1 {
					kill = time.Duration(random.Float64() * 4 * float64(typical))
				}
				wg.Go(func() {
					cmd := w.command("publish", append([]string{"--verbose", "--cache", cache, "--upstream", "none", "--sign-key-file", w.keyFile}, mine[p]...)...)
					var stderr bytes.Buffer
					cmd.Stderr = &stderr
					if err := cmd.Start(); err != nil {
						t.Error(err)
						return
					}
					if kill >= 0 {
						timer := time.AfterFunc(kill, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
						defer timer.Stop()
					}
					err := cmd.Wait()
					done := err == nil
					committed := strings.Contains(stderr.String(), fmt.Sprintf("entries %d)", len(mine[p])))
					if kill < 0 && !done {
						t.Errorf("a publisher that was left alone failed: %v\n%s", err, stderr.String())
					}
					mu.Lock()
					defer mu.Unlock()
					if done || committed {
						acknowledged = append(acknowledged, mine[p]...)
						survivors++
					}
					if !done {
						killed++
					}
				})
			}
			wg.Wait()
		}
		t.Logf("%d runs acknowledged, %d killed before their end", survivors, killed)
		// a reader that trusts the root, as a proxy does
		w.newClient(w.proxy(cache)).substitute(acknowledged...)
		r := w.publish(cache, append([]string{"--dry-run"}, acknowledged...)...)
		if r.InCache.Paths != len(acknowledged) {
			t.Errorf("got %d paths in the cache, want %d", r.InCache.Paths, len(acknowledged))
		}
	})
}

// An interruption commits what is complete, and says of each output whether
// clients get it.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := registrytest.NewDistribution(t)
	flake := w.flake(fmt.Sprintf(`{ outputs = { self }: { packages.%[1]s = builtins.listToAttrs (builtins.genList (i: {
  name = "many${toString i}";
  value = derivation { name = "many"; inherit i; system = "%[1]s"; builder = "/bin/sh"; args = [ "-ec" "export PATH=/usr/bin:/bin; head -c 1800000 /dev/urandom > $out" ]; };
}) 40); }; }`, system))
	cmd := w.command("publish", "--json", "--cache", d.Addr+"/a/b", "--upstream", "none", "--jobs", "1", "--compression-level", "19", "--flake", flake)
	var stdout, stderr syncBuffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(limit)
	for strings.Count(stderr.String(), "uploaded ") < 3 {
		if time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			t.Fatalf("no progress:\n%s", stderr.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("got exit status %d, want 130\n%s", code, stderr.String())
	}
	var r result
	if err := json.Unmarshal([]byte(stdout.String()), &r); err != nil {
		t.Fatal(err)
	}
	var sent, left []string
	for _, o := range r.Outputs {
		switch o.Status {
		case report.OutputBuilt:
			sent = append(sent, o.Paths...)
		case report.OutputLeftOut:
			left = append(left, o.Paths...)
		case report.OutputNotBuilt:
			left = append(left, o.Missing...)
		default:
			t.Errorf("%s: got %s", o.Attr, o.Status)
		}
	}
	if r.Published() != len(sent) || len(sent) < 3 || len(left) == 0 || len(sent)+len(left) != 40 {
		t.Errorf("got %d outputs published, %d left out\n%s", len(sent), len(left), stderr.String())
	}
	again := w.tryPublish(d.Addr+"/a/b", append([]string{"--upstream", "none", "--dry-run"}, r.paths()...)...)
	if again.InCache.Paths != len(sent) {
		t.Errorf("got %d paths in the cache, want %d\n%s", again.InCache.Paths, len(sent), stderr.String())
	}
	w.newClientUnsigned(d.Addr + "/a/b").substitute(sent...)
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
