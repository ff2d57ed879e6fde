package nix

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/org/nixoci-action/internal/storepath"
)

const (
	pathA = "/nix/store/00000000000000000000000000000000-a"
	pathB = "/nix/store/11111111111111111111111111111111-b"
	drvA  = "/nix/store/22222222222222222222222222222222-a.drv"
	// one hash three times
	hashSRI    = "sha256-f3jUk4gEQI1Ge6SWpOnqhLjfdkDLaeC7yvBbButOfbQ="
	hashBase32 = "sha256:1d3x9vmhcnzhraxy0sfb81vdzf44xbls95m4gd38sh04i29x8y3z"
	hashHex    = "sha256:7f78d4938804408d467ba496a4e9ea84b8df7640cb69e0bbcaf05b06eb4e7db4"
)

func wantInfos() []PathInfo {
	return []PathInfo{
		{
			Path: pathA, NarHash: hashBase32, NarSize: 120, References: []string{pathA, pathB}, Deriver: drvA,
			Signatures: []string{"key-1:c2ln"}, Ultimate: true, Registered: time.Unix(1700000000, 0).UTC(),
		},
		{Path: pathB, NarHash: hashBase32, NarSize: 96, CA: "fixed:r:" + hashBase32},
	}
}

var shapes = map[string]string{
	// Nix 2.8: a list, what is absent left out
	"list": `[{"path":"` + pathB + `","narHash":"` + hashSRI + `","narSize":96,"references":[],"ca":"fixed:r:` + hashBase32 + `"},
		{"path":"` + pathA + `","deriver":"` + drvA + `","narHash":"` + hashSRI + `","narSize":120,"references":["` + pathB + `","` + pathA + `"],
		"registrationTime":1700000000,"signatures":["key-1:c2ln"],"ultimate":true},{"path":"/nix/store/33333333333333333333333333333333-c","valid":false}]`,
	// Nix 2.26, and 2.34 with --json-format 1
	"map": `{"/nix/store/33333333333333333333333333333333-c":null,
		"` + pathA + `":{"ca":null,"deriver":"` + drvA + `","narHash":"` + hashSRI + `","narSize":120,"references":["` + pathA + `","` + pathB + `"],
		"registrationTime":1700000000,"signatures":["key-1:c2ln"],"ultimate":true},
		"` + pathB + `":{"ca":"fixed:r:` + hashBase32 + `","deriver":null,"narHash":"` + hashHex + `","narSize":96,"references":[],"registrationTime":null,"signatures":[],"ultimate":false}}`,
	// Nix 2.34 with --json-format 2
	"version 2": `{"info":{"33333333333333333333333333333333-c":null,
		"00000000000000000000000000000000-a":{"ca":null,"deriver":"22222222222222222222222222222222-a.drv","narHash":"` + hashSRI + `","narSize":120,
		"references":["11111111111111111111111111111111-b","00000000000000000000000000000000-a"],"registrationTime":1700000000,"signatures":["key-1:c2ln"],"storeDir":"/nix/store","ultimate":true,"version":2},
		"11111111111111111111111111111111-b":{"ca":{"hash":"` + hashSRI + `","method":"nar"},"deriver":null,"narHash":"` + hashSRI + `","narSize":96,"references":[],"signatures":[],"ultimate":false}},
		"storeDir":"/nix/store","version":2}`,
}

func TestParsePathInfo(t *testing.T) {
	for name, doc := range shapes {
		got, invalid, err := ParsePathInfo(strings.NewReader(doc), "/nix/store")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i := range got { // no matter whether nil or empty
			if len(got[i].References) == 0 {
				got[i].References = nil
			}
			if len(got[i].Signatures) == 0 {
				got[i].Signatures = nil
			}
		}
		if want := wantInfos(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got\n%+v\nwant\n%+v", name, got, want)
		}
		if want := []string{"/nix/store/33333333333333333333333333333333-c"}; !slices.Equal(invalid, want) {
			t.Errorf("%s: got invalid %q, want %q", name, invalid, want)
		}
	}
}

func TestParsePathInfoRefuses(t *testing.T) {
	one := func(change string) string { // one valid entry, with fields overridden
		return `{"` + pathA + `":{"narHash":"` + hashSRI + `","narSize":1,"references":[]` + change + `}}`
	}
	if _, _, err := ParsePathInfo(strings.NewReader(one("")), ""); err != nil {
		t.Fatalf("the entry to change: %v", err)
	}
	for name, doc := range map[string]string{
		"empty":               "",
		"cut":                 `[{"path":"` + pathA + `"`,
		"cut between entries": `[`,
		"a string":            `"x"`,
		"trailing":            `[] []`,
		"no path":             `[{"narHash":"` + hashSRI + `","narSize":1}]`,
		"path outside":        `{"/etc/passwd":null}`,
		"path below":          `{"` + pathA + `/bin":null}`,
		"other store":         `{"/gnu/store/00000000000000000000000000000000-a":null}`,
		"two stores":          one(`,"references":["/gnu/store/11111111111111111111111111111111-b"]`),
		"reference":           one(`,"references":["../../x"]`),
		"newline in name":     `{"` + pathA + `\n":null}`,
		"twice":               `[` + one("")[len(pathA)+4:len(one(""))-1] + `]`,
		"deriver":             one(`,"deriver":"unknown"`),
		"no hash":             one(`,"narHash":""`),
		"sha1":                one(`,"narHash":"sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk="`),
		"short hash":          one(`,"narHash":"sha256-f3jU"`),
		"bad base32":          one(`,"narHash":"sha256:` + strings.Repeat("e", 52) + `"`),
		"size 0":              one(`,"narSize":0`),
		"size negative":       one(`,"narSize":-1`),
		"size huge":           one(`,"narSize":1e30`),
		"ca":                  one(`,"ca":"fixed:r:x\ny"`),
		"ca method":           one(`,"ca":{"method":"new","hash":"` + hashSRI + `"}`),
		"version 3":           `{"info":{},"storeDir":"/nix/store","version":3}`,
		"no store directory":  `{"info":{"00000000000000000000000000000000-a":null},"version":2}`,
		"store directory":     `{"info":{},"storeDir":"relative","version":2}`,
	} {
		dir := "/nix/store"
		if name == "no store directory" || name == "two stores" || name == "store directory" {
			dir = ""
		}
		if infos, _, err := ParsePathInfo(strings.NewReader(doc), dir); err == nil {
			t.Errorf("%s: got %+v, want an error", name, infos)
		}
	}
	entry := `{"path":"` + pathA + `","narHash":"` + hashSRI + `","narSize":1}`
	if _, _, err := ParsePathInfo(strings.NewReader("["+entry+","+entry+"]"), ""); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("the same path twice: got %v, want an error", err)
	}
}

func TestContentAddressForms(t *testing.T) {
	// all of these values are from "nix hash"
	const sha1SRI, sha1Base32 = "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "sha1:143xibwh31h9bvxzalr0sjvbbvpa6ffs"
	for in, want := range map[string]string{
		`null`: "", ``: "",
		`"text:` + hashBase32 + `"`:                                                "text:" + hashBase32,
		`{"method":"text","hash":"` + hashSRI + `"}`:                               "text:" + hashBase32,
		`{"method":"flat","hash":"` + hashSRI + `"}`:                               "fixed:" + hashBase32,
		`{"method":"nar","hash":"` + hashHex + `"}`:                                "fixed:r:" + hashBase32,
		`{"method":"git","hash":"` + hashSRI + `"}`:                                "fixed:git:" + hashBase32,
		`{"method":"flat","hash":"` + sha1SRI + `"}`:                               "fixed:" + sha1Base32,
		`{"method":"flat","hash":"sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709"}`: "fixed:" + sha1Base32,
	} {
		got, err := decodeCA(json.RawMessage(in))
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", in, got, err, want)
		}
	}
}

func FuzzParsePathInfo(f *testing.F) {
	for _, doc := range shapes {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		infos, _, err := ParsePathInfo(bytes.NewReader(doc), "")
		if err != nil {
			return
		}
		for i := range infos {
			info := &infos[i]
			if err := checkPaths(append(slices.Clone(info.References), info.Path)); err != nil {
				t.Errorf("let through: %v", err)
			}
			if len(info.NarHash) != len(hashBase32) || info.NarSize <= 0 || !slices.IsSorted(info.References) || !printable(info.CA) {
				t.Errorf("let through: %+v", info)
			}
			if i > 0 && infos[i-1].Path >= info.Path {
				t.Errorf("%s before %s", infos[i-1].Path, info.Path)
			}
		}
	})
}

// A version that is understood is understood again as it is written.
func FuzzParseVersion(f *testing.F) {
	for _, line := range []string{"nix (Nix) 2.8.0", "nix (Nix) 2.35.0pre20260101_abcdef0", "nix (Lix, like Nix) 2.91.1", "nix (Determinate Nix 3.6.2) 2.29.0"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		v, err := parseVersion(line)
		if err != nil {
			if strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("%q: got %v", line, err)
			}
			return
		}
		name := "Nix"
		if v.Lix {
			name = "Lix"
		}
		if again, err := parseVersion(fmt.Sprintf("nix (%s) %d.%d", name, v.Major, v.Minor)); err != nil || again != v {
			t.Errorf("%q: got %v, %v, want %v", line, again, err, v)
		}
	})
}

// A flake that is accepted has a reference, and a commit only if that is all of it.
func FuzzParseFlake(f *testing.F) {
	f.Add([]byte(`{"originalUrl":"nixpkgs","resolvedUrl":"github:o/r","url":"github:o/r/0123","path":"/nix/store/00000000000000000000000000000000-source","lastModified":1,"locked":{"type":"github","rev":"0123","dir":"d","narHash":"sha256-x"},"locks":{"nodes":{"root":{},"x":{}}}}`))
	f.Add([]byte(`{"url":"git+file:///x","locked":{"type":"git","dirtyRev":"0123-dirty"}}`))
	f.Add([]byte(`{"url":"git+file:///x","locked":{"type":"git","rev":"0123","dirtyRev":"0123-dirty"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := parseFlake(raw)
		if err == nil && (got.URL == "" || got.Dirty && got.Revision != "") {
			t.Errorf("%s: got %+v", raw, got)
		}
	})
}

// Every realisation that is accepted is of an output in the store of its
// derivation, and says in one way of which derivation.
func FuzzParseRealisations(f *testing.F) {
	const base = "c4gawc43zfkbrqj10kdk2sr1p501n287-top"
	f.Add([]byte(`[{"dependentRealisations":{"sha256:e6!out":"` + base + `"},"id":"sha256:91!out","outPath":"` + base + `"},{"opaquePath":"/nix/store/` + base + `"}]`))
	f.Add([]byte(`[{"key":{"drvPath":"wkh51r12dc10nzl5g0kgnbc02j119mvb-top.drv","outputName":"out"},"value":{"outPath":"` + base + `"}}]`))
	drv := storepath.Path{Dir: "/nix/store", HashPart: strings.Repeat("0", 32), Name: "top.drv"}
	f.Fuzz(func(t *testing.T, raw []byte) {
		own, inputs, err := parseRealisations(raw, drv)
		if err != nil {
			return
		}
		for _, r := range append(own, inputs...) {
			p, err := storepath.Parse(r.Path)
			if err != nil || p.Dir != drv.Dir || !outputNames.MatchString(r.Output) || (r.ID == "") == (r.Drv == "") || r.ID != "" && !strings.HasSuffix(r.ID, "!"+r.Output) {
				t.Errorf("%s: got %+v, %v", raw, r, err)
			}
		}
	})
}
