package closure_test

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

	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/internal/storepath"
)

const cacheURL = "https://cache.example/x"

var someTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func saveHits(t testing.TB, dir string, at time.Time, names ...string) *closure.Hits {
	t.Helper()
	h := closure.LoadHits(dir, cacheURL, at)
	for _, n := range names {
		h.Add(hashPart(n), at)
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
		{closure.HitsMaxAge - time.Second, true, true},
		{closure.HitsMaxAge, false, true},
		{closure.HitsMaxAge + 24*time.Hour, false, false},
	} {
		h := closure.LoadHits(dir, cacheURL, someTime.Add(tt.after))
		if h.Has(hashPart("old")) != tt.old || h.Has(hashPart("new")) != tt.new {
			t.Errorf("after %s: got old %t, new %t; want %t, %t", tt.after, !tt.old, !tt.new, tt.old, tt.new)
		}
	}
	if h := closure.LoadHits(dir, "https://cache.example/y", someTime); h.Len() != 0 {
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
		if _, err := closure.ParseHits(bad, cacheURL); err == nil {
			t.Errorf("byte %d changed: got no error", i)
		}
		if _, err := closure.ParseHits(good[:i], cacheURL); err == nil {
			t.Errorf("cut to %d bytes: got no error", i)
		}
	}
	if _, err := closure.ParseHits(good, cacheURL+"/other"); err == nil {
		t.Error("another upstream's file: got no error")
	}
	if err := os.WriteFile(file, good[:len(good)-3], 0o600); err != nil {
		t.Fatal(err)
	}
	if h := closure.LoadHits(dir, cacheURL, someTime); h.Len() != 0 {
		t.Errorf("damaged: got %d hits, want 0", h.Len())
	}
	saveHits(t, dir, someTime, "c")
	if h := closure.LoadHits(dir, cacheURL, someTime); h.Len() != 1 || !h.Has(hashPart("c")) {
		t.Errorf("replaced: got %d hits, want c", h.Len())
	}
}

func TestHitsAreBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := closure.LoadHits(dir, cacheURL, someTime)
	for i := range closure.MaxHits {
		h.Add(hashPart(strconv.Itoa(i)), someTime.Add(-time.Hour))
	}
	h.Add(hashPart("newest"), someTime)
	if err := h.Save(someTime); err != nil {
		t.Fatal(err)
	}
	h = closure.LoadHits(dir, cacheURL, someTime)
	if h.Len() != closure.MaxHits || !h.Has(hashPart("newest")) {
		t.Errorf("got %d hits, newest %t; want %d with the newest", h.Len(), h.Has(hashPart("newest")), closure.MaxHits)
	}
}

func TestHitsOfSeveralProcesses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// read before the other writes, written after
	first := closure.LoadHits(dir, cacheURL, someTime)
	saveHits(t, dir, someTime, "second")
	first.Add(hashPart("first"), someTime)
	if err := first.Save(someTime); err != nil {
		t.Fatal(err)
	}
	if h := closure.LoadHits(dir, cacheURL, someTime); !h.Has(hashPart("first")) || !h.Has(hashPart("second")) {
		t.Errorf("got %d hits, want both", h.Len())
	}

	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				name := strconv.Itoa(100*i + j)
				saveHits(t, dir, someTime, name)
				if h := closure.LoadHits(dir, cacheURL, someTime); h.Len() < 1 {
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
	f.Add([]byte(cacheURL + "\n" + hashPart("a") + " 1767322000\n" + hashPart("b") + " 1\n"))
	f.Add([]byte(cacheURL + "\n"))
	f.Add([]byte(cacheURL + "\n\n " + hashPart("a")))
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := sha256.Sum256(body)
		hits, err := closure.ParseHits(append([]byte("nixoci-hits 1 "+hex.EncodeToString(sum[:])+"\n"), body...), cacheURL)
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
