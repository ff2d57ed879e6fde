package upstream_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/internal/upstreamtest"
	"github.com/org/nixoci-action/upstream"
)

const cacheURL = "https://cache.example/x"

var someTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func saveHits(t testing.TB, dir string, at time.Time, names ...string) *upstream.Hits {
	t.Helper()
	h := upstream.LoadHits(dir, cacheURL, at)
	for _, n := range names {
		h.Add(upstreamtest.HashPart(n), at)
	}
	if err := h.Save(at); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHitsAreKeptForAWeek(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "not", "yet", "there")
	saveHits(t, dir, someTime, "old")
	saveHits(t, dir, someTime.Add(24*time.Hour), "new")
	for _, tt := range []struct {
		after    time.Duration
		old, new bool
	}{
		{time.Hour, true, false}, // "new" is from the future: a clock was wrong
		{upstream.HitsMaxAge - time.Second, true, true},
		{upstream.HitsMaxAge, false, true},
		{upstream.HitsMaxAge + 24*time.Hour, false, false},
	} {
		h := upstream.LoadHits(dir, cacheURL, someTime.Add(tt.after))
		if h.Has(upstreamtest.HashPart("old")) != tt.old || h.Has(upstreamtest.HashPart("new")) != tt.new {
			t.Errorf("after %s: got old %t, new %t; want %t, %t", tt.after, !tt.old, !tt.new, tt.old, tt.new)
		}
	}
	if h := upstream.LoadHits(dir, "https://cache.example/y", someTime); h.Len() != 0 {
		t.Errorf("another upstream's file: got %d hits, want 0", h.Len())
	}
}

func TestHitsIgnoreADamagedFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := saveHits(t, dir, someTime, "a", "b").File()
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := upstream.ParseHits(bad, cacheURL); err == nil {
			t.Errorf("byte %d changed: got no error", i)
		}
		if _, err := upstream.ParseHits(good[:i], cacheURL); err == nil {
			t.Errorf("cut to %d bytes: got no error", i)
		}
	}
	if _, err := upstream.ParseHits(good, cacheURL+"/other"); err == nil {
		t.Error("another upstream's file: got no error")
	}
	if err := os.WriteFile(file, good[:len(good)-3], 0o600); err != nil {
		t.Fatal(err)
	}
	if h := upstream.LoadHits(dir, cacheURL, someTime); h.Len() != 0 {
		t.Errorf("damaged: got %d hits, want 0", h.Len())
	}
	saveHits(t, dir, someTime, "c")
	if h := upstream.LoadHits(dir, cacheURL, someTime); h.Len() != 1 || !h.Has(upstreamtest.HashPart("c")) {
		t.Errorf("replaced: got %d hits, want c", h.Len())
	}
}

func TestHitsAreBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := upstream.LoadHits(dir, cacheURL, someTime)
	for i := range upstream.MaxHits {
		h.Add(upstreamtest.HashPart(strconv.Itoa(i)), someTime.Add(-time.Hour))
	}
	h.Add(upstreamtest.HashPart("newest"), someTime)
	if err := h.Save(someTime); err != nil {
		t.Fatal(err)
	}
	h = upstream.LoadHits(dir, cacheURL, someTime)
	if h.Len() != upstream.MaxHits || !h.Has(upstreamtest.HashPart("newest")) {
		t.Errorf("got %d hits, newest %t; want %d with the newest", h.Len(), h.Has(upstreamtest.HashPart("newest")), upstream.MaxHits)
	}
}

func TestHitsOfSeveralProcesses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// read before the other writes, written after
	first := upstream.LoadHits(dir, cacheURL, someTime)
	saveHits(t, dir, someTime, "second")
	first.Add(upstreamtest.HashPart("first"), someTime)
	if err := first.Save(someTime); err != nil {
		t.Fatal(err)
	}
	if h := upstream.LoadHits(dir, cacheURL, someTime); !h.Has(upstreamtest.HashPart("first")) || !h.Has(upstreamtest.HashPart("second")) {
		t.Errorf("got %d hits, want both", h.Len())
	}

	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				name := strconv.Itoa(100*i + j)
				saveHits(t, dir, someTime, name)
				if h := upstream.LoadHits(dir, cacheURL, someTime); h.Len() < 1 {
					t.Error("a reader found a damaged file")
				}
			}
		})
	}
	wg.Wait()
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 || !strings.HasPrefix(files[0].Name(), "cache.example-") {
		t.Errorf("got files %v, %v; want the one, named after the host", files, err)
	}
}

// The checksum is made right, or no input would come past it.
func FuzzParseHits(f *testing.F) {
	f.Add([]byte(cacheURL + "\n" + upstreamtest.HashPart("a") + " 1767322000\n" + upstreamtest.HashPart("b") + " 1\n"))
	f.Add([]byte(cacheURL + "\n"))
	f.Add([]byte(cacheURL + "\n\n " + upstreamtest.HashPart("a")))
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := sha256.Sum256(body)
		hits, err := upstream.ParseHits(append([]byte("nixoci-hits 1 "+hex.EncodeToString(sum[:])+"\n"), body...), cacheURL)
		if err != nil && hits != nil {
			t.Errorf("got %d hits with error %v", len(hits), err)
		}
		for hashPart := range hits {
			if !storepath.ValidHashPart(hashPart) {
				t.Errorf("got hit %q, which is no hash part", hashPart)
			}
		}
	})
}
