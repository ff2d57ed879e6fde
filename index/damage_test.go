package index_test

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
)

// putSegment writes whatever is given as the entries blob of a segment.
func putSegment(t *testing.T, repo registry.Repository, tag string, blob []byte) {
	t.Helper()
	d, err := repo.PutBlob(t.Context(), blob)
	if err != nil {
		t.Fatal(err)
	}
	d.MediaType = format.MediaEntries
	m, err := indextest.NewManifest(format.MediaSegment, []v1.Descriptor{d}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.PutManifest(t.Context(), tag, m); err != nil {
		t.Fatal(err)
	}
}

// refusesToWrite makes sure that nobody writes on top of what was not read.
func refusesToWrite(t *testing.T, repo registry.Repository, s *index.Snapshot, tag string) {
	t.Helper()
	var damage *index.DamageError
	if err := s.Damage(); !errors.As(err, &damage) || !strings.Contains(err.Error(), tag) {
		t.Fatalf("got the damage %v, want %s named", err, tag)
	}
	if _, err := index.Open(repo, indextest.Quick()).NewWriter(s, index.WriterOptions{}); !errors.As(err, &damage) {
		t.Errorf("a writer: got %v, want a refusal", err)
	}
	if _, err := collect.NewPlan(s, collect.PlanOptions{}); !errors.As(err, &damage) {
		t.Errorf("a collection: got %v, want a refusal", err)
	}
}

func zstdOf(t *testing.T, b []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(b, nil)
}

// One part that is not what it should be keeps no reader from the rest, and every
// writer from writing, until its tag is gone.
func TestReadersServeWhatIsGood(t *testing.T) {
	t.Parallel()
	const bad = "segment-20260101t000000z-bad"
	header := `{"version":1,"minReader":1,"created":"2026-01-01T00:00:00Z"`
	for name, blob := range map[string][]byte{
		"noise":                      []byte("noise"),
		"no header":                  zstdOf(t, []byte("{")),
		"no entry":                   zstdOf(t, []byte(header+"}\nx\n")),
		"a key that is none":         zstdOf(t, []byte(header+`,"config":{"publicKeys":["x"]}}`+"\n")),
		"publications that are none": zstdOf(t, []byte(header+`,"publications":[`+strings.Repeat("{},", 1000)+"{}]}\n")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repo := indextest.NewMemory()
			good := indextest.NewEntry(t, repo, "good")
			indextest.MustPublish(t, repo, good)
			putSegment(t, repo, bad, blob)
			o := indextest.Quick()
			o.Dir = t.TempDir()
			for range 2 {
				reader := index.Open(repo, o)
				for range 2 { // what is known does not count as whole
					s, err := reader.Sweep(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					indextest.Has(t, s, good)
					refusesToWrite(t, repo, s, bad)
				}
			}
			digest, err := repo.Resolve(t.Context(), bad)
			if err != nil {
				t.Fatal(err)
			}
			if err := repo.DeleteManifest(t.Context(), bad, digest); err != nil {
				t.Fatal(err)
			}
			indextest.MustPublish(t, repo, indextest.NewEntry(t, repo, "more"))
		})
	}
}

// The root is a hint: without it the tags say the same.
func TestReadersDoWithoutTheRoot(t *testing.T) {
	t.Parallel()
	repo := indextest.NewMemory()
	good := indextest.NewEntry(t, repo, "good")
	indextest.MustPublish(t, repo, good)
	m, err := repo.Manifest(t.Context(), format.RootTag)
	if err != nil {
		t.Fatal(err)
	}
	layers := indextest.Layers(m)
	d, err := repo.PutBlob(t.Context(), []byte("noise"))
	if err != nil {
		t.Fatal(err)
	}
	layers[1].Digest, layers[1].Size = d.Digest, d.Size
	root, err := indextest.NewManifest(format.MediaRoot, layers, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.PutManifest(t.Context(), format.RootTag, root); err != nil {
		t.Fatal(err)
	}
	s, err := index.Open(repo, indextest.Quick()).Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	indextest.Has(t, s, good)
	refusesToWrite(t, repo, s, format.RootTag)
}

// A hostile index takes no more memory than is allowed, whatever it is made of,
// and what fits is served.
func TestMemoryIsBounded(t *testing.T) {
	const limit = 64 << 20
	header := `{"version":1,"minReader":1,"created":"2026-01-01T00:00:00Z"`
	line := indextest.SampleLine(t)
	short := append(bytes.Clone(line[:160]), '\n')
	for name, blob := range map[string][]byte{
		"spaces":       zstdOf(t, append([]byte(header), bytes.Repeat([]byte(" "), 200<<20)...)),
		"newlines":     zstdOf(t, append([]byte(header+"}"), bytes.Repeat([]byte("\n"), 40<<20)...)),
		"lines":        zstdOf(t, append([]byte(header+"}\n"), bytes.Repeat(line, 40<<20/len(line))...)),
		"short lines":  zstdOf(t, append([]byte(header+"}\n"), bytes.Repeat(short, 40<<20/len(short))...)),
		"publications": zstdOf(t, []byte(header+`,"publications":[`+strings.Repeat(`{"time":"2026-01-01T00:00:00Z"},`, 10<<20/30)+`{"time":"2026-01-01T00:00:00Z"}]}`+"\n")),
		"removed":      zstdOf(t, []byte(header+`,"removed":[`+strings.Repeat(`{},`, 10<<20/3)+"{}]}\n")),
	} {
		t.Run(name, func(t *testing.T) {
			repo := indextest.NewMemory()
			good := indextest.NewEntry(t, repo, "good")
			indextest.MustPublish(t, repo, good)
			for _, n := range []string{"1", "2", "3", "4", "5"} {
				putSegment(t, repo, "segment-20260101t000000z-"+n, append(bytes.Clone(blob), zstdOf(t, nil)...))
			}
			o := indextest.Quick()
			o.Memory = limit
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			s, err := index.Open(repo, o).Sweep(context.Background())
			runtime.GC()
			runtime.ReadMemStats(&after)
			if err != nil {
				t.Fatal(err)
			}
			indextest.Has(t, s, good)
			refusesToWrite(t, repo, s, "segment-20260101t000000z-")
			if err := s.Damage(); !strings.Contains(err.Error(), "takes too much memory") {
				t.Errorf("got %v", err)
			}
			taken := int64(after.HeapAlloc) - int64(before.HeapAlloc)
			t.Logf("five times %d KB take %d MB", len(blob)>>10, taken>>20)
			if taken > 3*limit/2 {
				t.Errorf("it takes %d MB, with %d MB allowed", taken>>20, limit>>20)
			}
			runtime.KeepAlive(s)
		})
	}
}

// A time that is to come shadows nothing for ever, and costs no path.
func TestTimesToCome(t *testing.T) {
	t.Parallel()
	now := indextest.Noon
	at := func(created, added time.Time, e format.Entry) *format.Segment {
		e.Added = added
		c, err := format.NewContent([]format.Entry{e})
		if err != nil {
			t.Fatal(err)
		}
		blob, err := format.EncodeSegment(format.Header{Created: created}, c.Lines)
		if err != nil {
			t.Fatal(err)
		}
		s, err := format.ParseSegment(blob, func(int64) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		s.Info.Created = created
		return s
	}
	never := time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	e := indextest.EntryFor("x", v1.Descriptor{Digest: format.EmptyConfig.Digest, Size: 2})
	other := e
	other.NarSize++
	for name, tc := range map[string]struct {
		segments []*format.Segment
		want     format.Entry
	}{
		"alone":                             {[]*format.Segment{at(never, never, e)}, e},
		"a segment to come":                 {[]*format.Segment{at(never, never, other), at(now.Add(-day), now.Add(-day), e)}, e},
		"an entry to come":                  {[]*format.Segment{at(now.Add(-3*day), never, other), at(now, now, e)}, e},
		"a clock that is twelve hours fast": {[]*format.Segment{at(now, now, other), at(now.Add(day/2), now.Add(day/2), e)}, e},
		"both to come":                      {[]*format.Segment{at(now.Add(3*day), now.Add(3*day), other), at(now.Add(4*day), now.Add(4*day), e)}, e},
	} {
		got, ok := index.SnapshotAt(now, tc.segments...).Lookup(e.Path.HashPart)
		if !ok || got.NarSize != tc.want.NarSize || got.Added.After(now.Add(2*day)) {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

// A machine whose clock had jumped has published. What it and others publish stays,
// whoever merges or collects it.
func TestClockJump(t *testing.T) {
	t.Parallel()
	repo := indextest.NewMemory()
	jumped, honest := indextest.NewEntry(t, repo, "jumped"), indextest.NewEntry(t, repo, "honest")
	shared := indextest.NewEntry(t, repo, "shared")
	indextest.PublishAt(t, repo, -3000, "refs/heads/main", jumped, shared)
	for i := range 2 * index.FanIn { // is merged
		indextest.PublishAt(t, repo, 0-float64(i)/1000, "refs/heads/main", honest, shared)
	}
	s := indextest.Sweep(t, repo)
	indextest.Has(t, s, jumped, honest, shared)
	plan, err := collect.NewPlan(s, collect.PlanOptions{Now: indextest.Noon, Delay: 0})
	if err != nil {
		t.Fatal(err)
	}
	if plan.Removed.Paths != 0 {
		t.Errorf("a collection would remove %+v", plan.Paths)
	}
}
