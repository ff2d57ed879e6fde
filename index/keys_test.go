package index_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
)

// reader reads a cache again and again, with a memory of its keys.
type reader struct {
	*testing.T
	index.Options
	repo registry.Repository
	log  bytes.Buffer
}

func newReader(t *testing.T, repo registry.Repository, trusted ...indextest.Person) *reader {
	r := &reader{T: t, Options: indextest.Quick(), repo: repo}
	r.Dir = t.TempDir()
	r.Logger = slog.New(slog.NewTextHandler(&r.log, nil))
	for _, p := range trusted {
		r.TrustedKeys = append(r.TrustedKeys, p.Public)
	}
	return r
}

// trusts reads the cache, as a process of its own.
func (r *reader) trusts(want ...indextest.Person) format.KeyChain {
	r.Helper()
	return r.sees(index.Open(r.repo, r.Options), want...)
}

func (r *reader) sees(c *index.Cache, want ...indextest.Person) format.KeyChain {
	r.Helper()
	r.log.Reset()
	s, err := c.Sweep(context.Background())
	if err != nil {
		r.Fatal(err)
	}
	chain := s.Keys()
	if got := indextest.KeysOf(want).PublicKeys; !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(chain.Trusted))) {
		r.Fatalf("got %+v, want %v trusted", chain, got)
	}
	return chain
}

func (r *reader) warned(text string) {
	r.Helper()
	if got := r.log.String(); text == "" && got != "" || !strings.Contains(got, text) {
		r.Errorf("got %q, want %q", got, text)
	}
}

// names writes a configuration, as anybody can who may write to the registry.
func names(t *testing.T, repo registry.Repository, c format.Config) {
	t.Helper()
	cache := index.Open(repo, indextest.Quick())
	base, err := cache.Sweep(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	w, err := cache.NewWriter(base, index.WriterOptions{Config: c})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.RecordConfig(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
}

// Who can write to the registry, and has no key, neither adds nor retires one for
// a reader that was there before or was given a key, and each hears of it.
func TestWriterWithoutKey(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		ps := indextest.People(t, 2)
		a, evil := ps[0], ps[1]
		repo := open()
		old, given := newReader(t, repo), newReader(t, repo, a)
		old.trusts()
		names(t, repo, indextest.KeysOf(ps[:1]))
		old.trusts(a)
		old.warned("")
		running := index.Open(repo, index.Options{Logger: old.Logger, Settle: 1})
		old.sees(running, a)
		names(t, repo, indextest.KeysOf(ps[1:], evil.Adds(evil), evil.Retires(a), evil.Adds(a)))
		for _, r := range []*reader{old, given} {
			chain := r.trusts(a)
			if !slices.Equal(chain.Unvouched, []string{evil.Public}) || len(chain.Retired) > 0 {
				t.Errorf("got %+v", chain)
			}
			r.warned("key-1")
		}
		old.sees(running, a) // with a memory of its own
		old.warned("key-1")
		old.sees(running, a)
		old.warned("") // once
		indextest.MustPublish(t, repo, indextest.NewEntry(t, repo, "more"))
		old.sees(running, a)
		old.warned("")
	})
}

// A rotation reaches who was there before, who comes later and who was given
// either key; and nobody takes it back by taking the statements away.
func TestRotationIsRemembered(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		ps := indextest.People(t, 3)
		a, b, evil := ps[0], ps[1], ps[2]
		repo := open()
		names(t, repo, indextest.KeysOf(ps[:1]))
		old, given := newReader(t, repo), newReader(t, repo, a)
		old.trusts(a)
		names(t, repo, indextest.KeysOf(ps[1:2], a.Adds(b), b.Retires(a, b)))
		for _, r := range []*reader{old, given, newReader(t, repo), newReader(t, repo, b)} {
			chain := r.trusts(b)
			if !slices.Equal(chain.Retired, []string{a.Public}) || len(chain.Unvouched) > 0 {
				t.Errorf("got %+v", chain)
			}
			r.warned("")
		}
		// another cache in its place: as it was before, and with more
		forgotten := indextest.Open(t, t.TempDir())
		names(t, forgotten, indextest.KeysOf([]indextest.Person{a, evil}, a.Adds(evil)))
		moved := &renamed{forgotten, repo.String()}
		for _, r := range []*reader{old, given} {
			r.repo = moved
			if chain := r.trusts(b); !slices.Equal(chain.Unvouched, []string{evil.Public}) {
				t.Errorf("got %+v", chain)
			}
			// and a writer that remembers writes it again
			w := index.Open(moved, r.Options)
			base, err := w.Sweep(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			writer, err := w.NewWriter(base, index.WriterOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := writer.Close(t.Context(), &format.Publication{Time: indextest.Noon, Flake: r.Name()}); err != nil {
				t.Fatal(err)
			}
		}
		if chain := newReader(t, forgotten, b).trusts(b); !slices.Equal(chain.Retired, []string{a.Public}) {
			t.Errorf("nobody has written the statements again: %+v", chain)
		}
	})
}

// renamed is a repository under another's name.
type renamed struct {
	registry.Repository
	name string
}

func (r *renamed) String() string { return r.name }

// The holder of a leaked key can say as much as we until it is retired. Then
// nothing of his is trusted; at worst nothing is, and who was given the new key
// does not care.
func TestLeakedKey(t *testing.T) {
	ps := indextest.People(t, 3)
	a, b, evil := ps[0], ps[1], ps[2]
	repo := indextest.Open(t, t.TempDir())
	names(t, repo, indextest.KeysOf(ps[:1]))
	old := newReader(t, repo)
	old.trusts(a)
	names(t, repo, indextest.KeysOf([]indextest.Person{evil}, a.Adds(evil)))
	old.trusts(a, evil)
	names(t, repo, indextest.KeysOf([]indextest.Person{b}, a.Adds(b), b.Retires(a, b)))
	if chain := old.trusts(b); !slices.Equal(chain.Unvouched, []string{evil.Public}) {
		t.Errorf("got %+v", chain)
	}
	late := newReader(t, repo)
	late.trusts(b)
	names(t, repo, indextest.KeysOf(nil, a.Retires(b, evil)))
	old.trusts()
	old.warned("are retired")
	late.trusts(b)
	given := newReader(t, repo, b)
	given.trusts(b)
}

// A memory that cannot be read is not an empty one: then no key is trusted but
// those that were given.
func TestUnreadableMemoryOfKeys(t *testing.T) {
	ps := indextest.People(t, 2)
	repo := indextest.Open(t, t.TempDir())
	names(t, repo, indextest.KeysOf(ps[:1]))
	for name, text := range map[string]string{"damaged": "{", "empty": "", "large": strings.Repeat(" ", 5<<20)} {
		r := newReader(t, repo)
		r.trusts(ps[0])
		files, err := filepath.Glob(filepath.Join(r.Dir, "index", "*", "keys.json"))
		if err != nil || len(files) != 1 {
			t.Fatalf("got %v, %v", files, err)
		}
		if err := os.WriteFile(files[0], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if chain := r.trusts(); chain.Keyless() {
			t.Errorf("%s: it looks as if the cache had no key", name)
		}
		r.warned(files[0])
		r.TrustedKeys = []string{ps[1].Public}
		r.trusts(ps[1])
		r.TrustedKeys = nil
		if got, err := os.ReadFile(files[0]); err != nil || string(got) != text {
			t.Errorf("%s: it was written over", name)
		}
		if err := os.Remove(files[0]); err != nil { // as the message says
			t.Fatal(err)
		}
		r.trusts(ps[0])
		r.warned("")
	}
}

// A change of the keys that dies at any step is there or is not, never half.
func TestCrashWhileKeysChange(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		ps := indextest.People(t, 2)
		a, b := ps[0], ps[1]
		for steps, done := 0, false; !done; steps++ {
			if steps > 50 {
				t.Fatal("a change takes more than 50 steps")
			}
			repo := registry.Repository(&renamed{open(), "x"})
			if steps == 0 {
				names(t, repo, indextest.KeysOf(ps[:1]))
			}
			r := newReader(t, repo, a)
			r.trusts(a)
			c := index.Open(&indextest.Crashing{Repository: repo, Left: steps}, indextest.Quick())
			base, err := c.Sweep(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			w, err := c.NewWriter(base, index.WriterOptions{Config: indextest.KeysOf(ps[1:], a.Adds(b), b.Retires(a, b))})
			if err != nil {
				t.Fatal(err)
			}
			err = w.RecordConfig(t.Context())
			if done = err == nil; !done {
				r.trusts(a)
				continue
			}
			// the segment is there, and nobody writes the root
			r.trusts(b)
			indextest.MustPublish(t, repo, indextest.NewEntry(t, repo, "next"))
			s, err := index.Open(repo, indextest.Quick()).Refresh(t.Context())
			if err != nil || !slices.Equal(s.KeysFrom([]string{a.Public}).Trusted, []string{b.Public}) {
				t.Errorf("in the root: got %+v, %v", s.KeysFrom([]string{a.Public}), err)
			}
		}
	})
}

// Segments that are merged keep what keys have said.
func TestCompactionKeepsKeyStatements(t *testing.T) {
	ps := indextest.People(t, 2)
	a, b := ps[0], ps[1]
	repo := indextest.Open(t, t.TempDir())
	names(t, repo, indextest.KeysOf(ps[:1]))
	names(t, repo, indextest.KeysOf(ps[1:], a.Adds(b), b.Retires(a, b)))
	said := indextest.Sweep(t, repo).Segments()
	for i := range 2 * index.FanIn {
		indextest.MustPublish(t, repo, indextest.NewEntry(t, repo, fmt.Sprint(i)))
	}
	s := indextest.Sweep(t, repo)
	for _, seg := range said {
		if slices.ContainsFunc(s.Segments(), seg.Same) {
			t.Fatal("nothing was merged")
		}
	}
	var merged format.Config
	for _, seg := range s.Loaded() {
		merged = merged.Merge(seg.Header.Config)
	}
	if len(merged.KeyStatements) != 2 {
		t.Errorf("got %+v in the segments", merged)
	}
	newReader(t, repo, a).trusts(b)
}
