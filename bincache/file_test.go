package bincache

import (
	"slices"
	"strings"
	"testing"
)

const (
	hashPart = "p4pclmv1gyja5kzc26npqpia1qqxrf0l"
	drv      = hashPart + "-hello-1.0.drv"
)

var (
	digits   = strings.Repeat("0a", 26)
	sumInHex = strings.Repeat("ab", 32)
)

// samples has a path of each kind.
var samples = map[string]File{
	"nix-cache-info":                               {Kind: CacheInfo},
	hashPart + ".narinfo":                          {Narinfo, hashPart, ""},
	hashPart + ".ls":                               {Listing, hashPart, ""},
	"nar/" + digits + ".nar.zst":                   {NAR, digits, ".nar.zst"},
	"nar/" + digits + ".nar":                       {NAR, digits, ".nar"},
	"log/" + drv:                                   {Log, drv, ""},
	"realisations/sha256:" + sumInHex + "!out.doi": {Realisation, "sha256:" + sumInHex + "!out", ""},
	"build-trace-v2/" + drv + "/out.doi":           {BuildTrace, drv, "out"},
	"debuginfo/" + sumInHex[:40]:                   {DebugInfo, sumInHex[:40], ""},
	"debuginfo/" + sumInHex[:40] + ".debug":        {DebugInfo, sumInHex[:40] + ".debug", ""},
	"public-key":                                   {Kind: PublicKey},
	"_status":                                      {Kind: Status},
	"_refresh":                                     {Kind: Refresh},
	"upstream/0123456789abcdef/" + hashPart + "-0123456.nar": {UpstreamNAR, "0123456789abcdef", hashPart + "-0123456"},
}

func TestParse(t *testing.T) {
	var seen []Kind
	for path, want := range samples {
		if got := Parse(path); got != want {
			t.Errorf("%s: got %+v, want %+v", path, got, want)
		}
		if got := want.Path(); got != path {
			t.Errorf("%+v: got %q, want %q", want, got, path)
		}
		if got, bare := ParseURLPath("/"+path), ParseURLPath(path); got != want || bare != (File{}) {
			t.Errorf("%s: got %+v with a slash before it, %+v without", path, got, bare)
		}
		seen = append(seen, want.Kind)
	}
	for _, k := range Kinds() {
		if !slices.Contains(seen, k) || k.String() == "" {
			t.Errorf("there is no sample of the kind %d, %q", k, k)
		}
	}
	for _, path := range []string{
		"", "/", "/nix-cache-info", "nix-cache-info/", "x/nix-cache-info", "nar", "nar/x/y.nar", "log", "log/x/y", hashPart, "x/" + hashPart + ".narinfo",
		"/" + hashPart + ".narinfo", "realisations/x", "realisations/x/y.doi", "build-trace-v2/x.doi", "build-trace-v2/x/y/z.doi", "debuginfo/x/y", "upstream/x.nar", "_status/x",
	} {
		if f := Parse(path); f != (File{}) {
			t.Errorf("%q: got %+v", path, f)
		}
	}
}

func TestSplit(t *testing.T) {
	for path, want := range samples {
		for _, cache := range []string{"", "h", "ghcr.io/a/b/c", "h/nar", "h/log/nar", "h/upstream", "h/build-trace-v2", "h/_status"} {
			below := strings.TrimPrefix(cache+"/"+path, "/")
			if gotCache, got := Split(below); gotCache != cache || got != want {
				t.Errorf("%s: got %q, %+v; want %q, %+v", below, gotCache, got, cache, want)
			}
		}
	}
	for path, want := range map[string][2]string{
		"ghcr.io/a/b/nix-cache-info":               {"ghcr.io/a/b", "nix-cache-info"},
		"ghcr.io/a/b/c/d/x.narinfo":                {"ghcr.io/a/b/c/d", "x.narinfo"},
		"ghcr.io/a/nar/x.nar.zst":                  {"ghcr.io/a", "nar/x.nar.zst"},
		"ghcr.io/a/nar/nar/x.nar.zst":              {"ghcr.io/a/nar", "nar/x.nar.zst"},
		"ghcr.io/a/nar/nix-cache-info":             {"ghcr.io/a/nar", "nix-cache-info"},
		"localhost:5000/a/log/x.drv":               {"localhost:5000/a", "log/x.drv"},
		"ghcr.io/a/realisations/sha256:00!out.doi": {"ghcr.io/a", "realisations/sha256:00!out.doi"},
		"ghcr.io/a/upstream/0123/x.nar":            {"ghcr.io/a", "upstream/0123/x.nar"},
		"ghcr.io/a/upstream/nar/x.nar.zst":         {"ghcr.io/a/upstream", "nar/x.nar.zst"},
		"ghcr.io/a/b/_status":                      {"ghcr.io/a/b", "_status"},
		"nix-cache-info":                           {"", "nix-cache-info"},
		"nar/x.nar.zst":                            {"", "nar/x.nar.zst"},
		"_status":                                  {"", "_status"},
		"ghcr.io/../nix-cache-info":                {"ghcr.io/..", "nix-cache-info"}, // refused by its name
		"ghcr.io/a/b/.narinfo":                     {"ghcr.io/a/b", ".narinfo"},
		"ghcr.io/a/b/x.ls":                         {"ghcr.io/a/b", "x.ls"},
		"ghcr.io/a/b/build-trace-v2/x.drv/out.doi": {"ghcr.io/a/b", "build-trace-v2/x.drv/out.doi"},
	} {
		cache, f := Split(path)
		if f.Kind == 0 || cache != want[0] || f.Path() != want[1] {
			t.Errorf("%s: got %q, %+v; want %q", path, cache, f, want)
		}
	}
	for _, path := range []string{"", "/", "a", "a/b", "nar", "ghcr.io/a/b", "ghcr.io/a/b/", "ghcr.io//a/nix-cache-info", "/nix-cache-info", "a//nix-cache-info", "nix-cache-info/", "a/nar/", "a/nar/b/c"} {
		if cache, f := Split(path); f != (File{}) {
			t.Errorf("%q: got %q, %+v", path, cache, f)
		}
	}
}

// Whatever is read can be written, and the other way round.
func FuzzParse(f *testing.F) {
	for path := range samples {
		f.Add(path)
		f.Add("h/a/" + path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if file := Parse(path); file.Kind != 0 && file.Path() != path {
			t.Errorf("%q: got %+v, which is %q", path, file, file.Path())
		}
		if cache, file := Split(path); file.Kind != 0 && strings.TrimPrefix(cache+"/"+file.Path(), "/") != path {
			t.Errorf("%q: got %q, %+v", path, cache, file)
		}
	})
}

func BenchmarkSplit(b *testing.B) {
	path := "ghcr.io/a/b/" + hashPart + ".narinfo"
	b.ReportAllocs()
	for b.Loop() {
		if _, f := Split(path); f.Kind != Narinfo {
			b.Fatal(f)
		}
	}
}
