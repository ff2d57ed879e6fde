package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/registrytest"
)

// narinfo returns the fields of a path's narinfo, or nil if there is none.
// Any answer but 200 and 404 is an error.
func (r *reader) narinfo(base string) (map[string]string, error) {
	hashPart, _, _ := strings.Cut(base, "-")
	resp, err := r.client.Get(r.url + "/" + hashPart + ".narinfo")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusNotFound:
		return nil, nil
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the narinfo of %s: %s", base, resp.Status)
	}
	info := map[string]string{}
	for line := range strings.Lines(string(body)) {
		k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		info[k] = v
	}
	return info, nil
}

// nar fetches the NAR that a narinfo names and compares it with its hash.
func (r *reader) nar(info map[string]string) error {
	resp, err := r.client.Get(r.url + "/" + info["URL"])
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the NAR of %s: %s", info["StorePath"], resp.Status)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, resp.Body); err != nil {
		return fmt.Errorf("the NAR of %s: %w", info["StorePath"], err)
	}
	if got := bincache.FormatHash(sum.Sum(nil)); got != info["FileHash"] {
		return fmt.Errorf("the NAR of %s has the hash %s, want %s", info["StorePath"], got, info["FileHash"])
	}
	return nil
}

// A proxy that runs all the time has all that stays at every moment: while the
// index is rewritten, while manifests are deleted and while the registry frees
// their blobs. Only when the registry is down, narinfos are all there is.
func TestProxyDuringCollection(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t)
	d := registrytest.NewDistribution(t)
	cache := d.Addr + "/a/b"
	var contents []string
	for range 20 {
		contents = append(contents, noise(random, 10_000+random.IntN(50_000)))
	}
	contents = append(contents, noise(random, 1_000_000), noise(random, 1_000_000))
	old := w.add("x-1", contents...)
	w.publish(cache, old...)
	live := append(w.add("x-9", noise(random, 10_000)), old[16:21]...) // a fifth of the pack, one large NAR
	old = append(old[:16], old[21])
	w.publish(cache, live...)

	conf := w.startProxy(cache, 2, "--refresh", "1s")
	r := newReader(conf)
	var down atomic.Bool
	var reads, nars atomic.Int64
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				path := live[i%len(live)]
				info, err := r.narinfo(filepath.Base(path))
				if err != nil || info == nil {
					t.Errorf("the narinfo of %s: %v, %v", path, info, err)
					return
				}
				reads.Add(1)
				before := down.Load()
				if err := r.nar(info); err == nil {
					nars.Add(1)
				} else if !before && !down.Load() {
					t.Error(err)
					return
				}
			}
		})
	}
	defer wg.Wait()
	defer close(done)

	// the delay is longer than the proxy's interval; it ends when nothing
	// waits any more
	deleted := 0
	for end := time.Now().Add(time.Minute); ; {
		c := w.gc(cache, "--json", "--retention", "0s", "--delay", "4s")
		if c.code != 0 || c.Removed.Paths > 0 && deleted > 0 || time.Now().After(end) {
			t.Fatalf("got %d, %+v\n%s", c.code, c, c.stderr)
		}
		if deleted += c.Result.Deleted; deleted > 0 && c.Result.Waiting == 0 {
			break
		}
	}
	size := d.Size(t)
	d.CollectBeside(t, false)
	if freed := size - d.Size(t); freed < 1_000_000 {
		t.Errorf("the registry freed %d bytes", freed)
	}
	d.CollectBeside(t, true)
	for n := nars.Load(); nars.Load() < n+2*int64(len(live)) && !t.Failed(); { // a round after all of it
		time.Sleep(10 * time.Millisecond)
	}
	if n := r.shown(t, old...); n != 0 {
		t.Errorf("the proxy still shows %d paths that were removed", n)
	}
	down.Store(true)
	d.Collect(t)
	w.newClient(conf).substitute(live...)
	t.Logf("%d narinfos and %d NARs read, %d manifests deleted", reads.Load(), nars.Load(), deleted)
}
