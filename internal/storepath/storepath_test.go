package storepath

import (
	"strings"
	"testing"
)

const hashPart = "0123456789abcdfghijklmnpqrsvwxyz"

func TestParse(t *testing.T) {
	tests := []struct {
		in, dir, name string // name "" means an error
	}{
		{"/nix/store/" + hashPart + "-hello-1.0", "/nix/store", "hello-1.0"},
		{"/home/u/.local/share/nix/store/" + hashPart + "-x", "/home/u/.local/share/nix/store", "x"},
		{"/nix/store/" + hashPart + "-" + strings.Repeat("a", 211), "/nix/store", strings.Repeat("a", 211)},
		{"/nix/store/" + hashPart + "-a+b-c._?=D9", "/nix/store", "a+b-c._?=D9"},
		{"/nix/store/" + hashPart + "-.hidden", "/nix/store", ".hidden"},
		{"/nix/store/" + hashPart + "-...", "/nix/store", "..."},
		{"/nix/store/" + hashPart + "-x.drv", "/nix/store", "x.drv"},

		{"", "", ""},
		{"/", "", ""},
		{hashPart + "-x", "", ""},
		{"/" + hashPart + "-x", "", ""},
		{"nix/store/" + hashPart + "-x", "", ""},
		{"/nix/store/" + hashPart + "-x/", "", ""},
		{"/nix/store/" + hashPart + "-x/bin", "", ""},
		{"/nix/store//" + hashPart + "-x", "", ""},
		{"/nix/../store/" + hashPart + "-x", "", ""},
		{"/nix/st\nore/" + hashPart + "-x", "", ""},
		{"/tmp/my store/" + hashPart + "-x", "", ""},
		{"/nix/störe/" + hashPart + "-x", "", ""},
		{"/nix/store/" + hashPart, "", ""},
		{"/nix/store/" + hashPart + "-", "", ""},
		{"/nix/store/" + hashPart + "_x", "", ""},
		{"/nix/store/" + strings.Replace(hashPart, "0", "e", 1) + "-x", "", ""}, // no e in Nix's base 32
		{"/nix/store/" + strings.ToUpper(hashPart) + "-x", "", ""},
		{"/nix/store/" + hashPart[1:] + "-x", "", ""},
		{"/nix/store/" + hashPart + "-" + strings.Repeat("a", 212), "", ""},
		{"/nix/store/" + hashPart + "-a b", "", ""},
		{"/nix/store/" + hashPart + "-a\nb", "", ""},
		{"/nix/store/" + hashPart + "-ä", "", ""},
		{"/nix/store/" + hashPart + "-a\x00", "", ""},
		{"/nix/store/" + hashPart + "-.", "", ""},
		{"/nix/store/" + hashPart + "-..", "", ""},
		{"/nix/store/" + hashPart + "-.-x", "", ""},
		{"/nix/store/" + hashPart + "-..-x", "", ""},
	}
	for _, tt := range tests {
		p, err := Parse(tt.in)
		if tt.name == "" {
			if err == nil || p != (Path{}) {
				t.Errorf("%q: got %+v, %v", tt.in, p, err)
			}
			continue
		}
		if want := (Path{Dir: tt.dir, HashPart: hashPart, Name: tt.name}); p != want || err != nil {
			t.Errorf("%q: got %+v, %v", tt.in, p, err)
		}
		if p.String() != tt.in {
			t.Errorf("%q: printed as %q", tt.in, p)
		}
		base, err := ParseBase(p.Base())
		if err != nil || base.Base() != p.Base() || base.String() != p.Base() || base.Dir != "" {
			t.Errorf("%q: the base name gives %+v, %v", tt.in, base, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("/nix/store/" + hashPart + "-hello-1.0")
	f.Add("/nix/store/../" + hashPart + "-..")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Parse(s)
		if err != nil {
			return
		}
		if p.String() != s || !ValidHashPart(p.HashPart) || strings.ContainsAny(p.Base(), "/\n ") || p.Name == "" || !ValidDir(p.Dir) {
			t.Errorf("%q is %+v", s, p)
		}
	})
}

// Where a source is was computed by Nix: nix-store --add-fixed --recursive sha256
// of a file "source" with the text "x".
func TestSource(t *testing.T) {
	p, err := Source("/nix/store", "sha256-LKC4zplvhl2zdhm/6RAjVZMFqtgVgEL8bdsO8dQ8W2c=")
	if err != nil || p.String() != "/nix/store/g85qds4gizndwv75l9b21a1mihwmxc4q-source" {
		t.Errorf("got %s, %v", p, err)
	}
	for _, bad := range []string{"", "sha256-", "sha256-AA==", "sha512-AA==", "sha256:" + strings.Repeat("0", 52)} {
		if p, err := Source("/nix/store", bad); err == nil {
			t.Errorf("%q: got %s, want an error", bad, p)
		}
	}
}
