package publish

import (
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/signing"
	"github.com/org/nixoci-action/internal/storepath"
)

// indexed is an entry whose hash part is one character, for a NAR in repo.
func indexed(t *testing.T, repo registry.Repository, c, name string, refs ...string) format.Entry {
	t.Helper()
	blob, err := repo.PutBlob(t.Context(), []byte("NAR of "+name))
	if err != nil {
		t.Fatal(err)
	}
	hash := strings.Repeat("0", 51) + c
	return format.Entry{
		Path:    storepath.Path{Dir: storepath.DefaultDir, HashPart: strings.Repeat(c, storepath.HashPartLen), Name: name},
		NarHash: "sha256:" + hash, NarSize: 120, References: refs, Compression: bincache.CompressionZstd, FileHash: "sha256:" + hash,
		NAR: format.Location{Blob: blob.Digest, BlobSize: blob.Size, Size: blob.Size},
	}
}

// filled is a cache with entries that are so old.
func filled(t *testing.T, repo registry.Repository, age time.Duration, entries ...format.Entry) *index.Snapshot {
	t.Helper()
	c := index.Open(repo, index.Options{Settle: time.Millisecond, Now: func() time.Time { return time.Now().Add(-age) }})
	base, err := c.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, index.WriterOptions{OnUpstream: func(string) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := w.Add(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	s, err := c.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t *testing.T) registry.Repository {
	t.Helper()
	repo, err := registry.Open("oci:"+t.TempDir(), registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

// An output is held only if all that it refers to is; a name that is not the
// entry's is another path.
func TestHoldings(t *testing.T) {
	t.Parallel()
	repo := open(t)
	lib := indexed(t, repo, "a", "lib")
	whole := indexed(t, repo, "b", "whole", lib.Path.Base(), strings.Repeat("b", 32)+"-whole")
	torn := indexed(t, repo, "c", "torn", whole.Path.Base(), strings.Repeat("9", 32)+"-on-no-upstream")
	above := indexed(t, repo, "d", "above", torn.Path.Base())
	base := filled(t, repo, time.Hour, lib, whole, torn, above)
	p := &publisher{}
	outputs := map[string]discover.Output{}
	for name, paths := range map[string][]string{
		"whole": {whole.Path.String(), lib.Path.String()}, "torn": {torn.Path.String()}, "above": {above.Path.String()},
		"half": {lib.Path.String(), "/nix/store/" + strings.Repeat("8", 32) + "-x"}, "name": {lib.Path.String() + "2"}, "store": {"/other/store/" + lib.Path.Base()},
	} {
		outputs[name] = discover.Output{Attr: discover.Attr{"packages", "x", name}, Sources: paths}
	}
	for name, o := range outputs {
		h, err := p.holdings(t.Context(), base, []discover.Output{o})
		if err != nil {
			t.Fatal(err)
		}
		if got := h.output(&o); (got != "") != (name == "whole") || name == "whole" && got != "in cache" {
			t.Errorf("%s: got %q", name, got)
		}
		if h, err = p.holdings(t.Context(), index.Empty(), []discover.Output{o}); err != nil || h.output(&o) != "" {
			t.Errorf("%s: without an index got %q, %v", name, h.output(&o), err)
		}
	}
}

// What a collection has removed during a long build is brought back.
func TestSkippedOutlivesCollection(t *testing.T) {
	t.Parallel()
	repo := open(t)
	old := indexed(t, repo, "a", "old")
	before := filled(t, repo, 40*24*time.Hour, old)
	c := index.Open(repo, index.Options{Settle: time.Millisecond})
	now, err := c.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plan, err := collect.NewPlan(now, collect.PlanOptions{Now: time.Now(), Delay: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := collect.Run(t.Context(), c, plan); err != nil {
		t.Fatal(err)
	}
	if now, err = c.Sweep(t.Context()); err != nil || now.Has(old.Path.HashPart) {
		t.Fatalf("the collection has removed nothing: %v", err)
	}
	p := &publisher{Options: Options{Index: c}, skipped: skipped{base: before, decisions: []closure.Decision{{
		Path: &closure.Path{PathInfo: nix.PathInfo{Path: old.Path.String(), NarHash: old.NarHash}, Store: old.Path}, Kind: closure.KindInCache,
	}}}}
	w, err := c.NewWriter(now, index.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stream := p.newStream(t.Context(), nil, nil)
	stream.base, stream.writer = now, w
	if err := stream.repeat(t.Context(), p.skipped.decisions, false); err != nil {
		t.Fatal(err)
	}
	if r, err := w.Close(t.Context(), nil); err != nil || r.Committed != 1 {
		t.Fatalf("got %+v, %v", r, err)
	}
	s, err := c.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := s.Lookup(old.Path.HashPart); !ok || e.NAR.Blob != old.NAR.Blob || e.NAR.Blob == (v1.Hash{}) {
		t.Errorf("got %+v, %v, want the entry back", e, ok)
	}
}

// What was found signed before a long build, and is something else since, is put
// back as it was. Nothing of what took its place is signed.
func TestSkippedOutlivesLies(t *testing.T) {
	t.Parallel()
	secret, _, err := signature.GenerateKeypair("ours-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	keys := signing.Keys{secret}
	repo := open(t)
	lib := indexed(t, repo, "a", "lib")
	whole := indexed(t, repo, "b", "whole", lib.Path.Base())
	for _, e := range []*format.Entry{&lib, &whole} {
		if e.Signatures, err = keys.Sign(e.Fingerprint(), nil); err != nil {
			t.Fatal(err)
		}
	}
	before := filled(t, repo, time.Hour, lib, whole)
	lie := whole
	lie.References, lie.Signatures = nil, nil
	now := filled(t, repo, time.Hour, lie)
	if e, _ := now.Lookup(whole.Path.HashPart); len(e.References) != 0 {
		t.Fatalf("got %+v, want the lie", e)
	}
	c := index.Open(repo, index.Options{Settle: time.Millisecond})
	p := &publisher{Options: Options{Index: c, Keys: keys, Trusted: keys.PublicKeys()}, skipped: skipped{base: before, decisions: []closure.Decision{{
		Path: &closure.Path{PathInfo: nix.PathInfo{Path: whole.Path.String(), NarHash: whole.NarHash, NarSize: whole.NarSize, References: []string{lib.Path.String()}}, Store: whole.Path},
		Kind: closure.KindInCache,
	}}}}
	w, err := c.NewWriter(now, index.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stream := p.newStream(t.Context(), nil, nil)
	stream.base, stream.writer = now, w
	if err := stream.repeat(t.Context(), p.skipped.decisions, false); err != nil {
		t.Fatal(err)
	}
	if r, err := w.Close(t.Context(), nil); err != nil || r.Committed != 1 {
		t.Fatalf("got %+v, %v", r, err)
	}
	s, err := c.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if e, _ := s.Lookup(whole.Path.HashPart); e.Fingerprint() != whole.Fingerprint() || !keys.Signed(e.Fingerprint(), e.Signatures) {
		t.Errorf("got %s, %v; want it as it was signed", e.Fingerprint(), e.Signatures)
	}
}
