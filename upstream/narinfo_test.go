package upstream

import (
	"net/url"
	"strings"
	"testing"
)

const (
	goodHashPart = "p4pclmv1gyja5kzc26npqpia1qqxrf0l"
	goodHash     = "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"
	goodURL      = "nar/0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73.nar.zst"
	good         = "StorePath: /nix/store/" + goodHashPart + "-x-1\nURL: " + goodURL + "\nCompression: zstd\nFileHash: " + goodHash + "\nFileSize: 10\n" +
		"NarHash: " + goodHash + "\nNarSize: 10\nReferences: 00000000000000000000000000000000-ref\n"
)

func TestCheckNarinfo(t *testing.T) {
	base, err := url.Parse("https://example.org/cache/")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, text, wantURL string }{
		{"relative", good, "https://example.org/cache/" + goodURL},
		{"absolute", strings.Replace(good, goodURL, "http://cdn.example/x.nar?a=b%2F", 1), "http://cdn.example/x.nar?a=b%2F"},
		{"from the root", strings.Replace(good, goodURL, "/n/x.nar", 1), "https://example.org/n/x.nar"},
		{"with dots", strings.Replace(good, goodURL, "../n/x.nar", 1), "https://example.org/n/x.nar"},
		{"no URL", strings.Replace(good, "URL:", "LRU:", 1), ""},
		{"file URL", strings.Replace(good, goodURL, "file:///etc/passwd", 1), ""},
		{"URL without host", strings.Replace(good, goodURL, "http:x", 1), ""},
		{"empty URL", strings.Replace(good, goodURL, "", 1), ""},
		{"other path", strings.Replace(good, goodHashPart, strings.Repeat("0", 32), 1), ""},
		{"other store", strings.Replace(good, "/nix/store", "/gnu/store", 1), ""},
		{"bad content address", good + "CA: garbage\n", ""},
		{"HTML", "<html>\n<p>Hello: World\n", ""},
	} {
		got, err := checkNarinfo(tc.text, base, goodHashPart, "/nix/store")
		if (err == nil) != (tc.wantURL != "") {
			t.Errorf("%s: got %v", tc.name, err)
			continue
		}
		if err == nil && !strings.Contains(got.String(), "\nURL: "+tc.wantURL+"\n") {
			t.Errorf("%s: got %q, want the URL %s", tc.name, got, tc.wantURL)
		}
	}
}

func FuzzCheckNarinfo(f *testing.F) {
	base, err := url.Parse("https://example.org/cache/")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(strings.ReplaceAll(good, "\n", "\r\n") + "Sig: a:b\nDeriver: unknown-deriver\nCA: text:x\n\n")
	f.Add("StorePath: /nix/store\nURL:\nReferences:")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := checkNarinfo(text, base, goodHashPart, "/nix/store")
		if err != nil {
			return
		}
		again, err := checkNarinfo(got.String(), base, goodHashPart, "/nix/store")
		if err != nil || again.String() != got.String() {
			t.Errorf("%q became %q and then %q, %v", text, got, again, err)
		}
	})
}
