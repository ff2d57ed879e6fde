package bincache

import (
	"slices"
	"strings"
	"testing"
)

const (
	testHash = "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"
	testHex  = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	testName = "00000000000000000000000000000000-x"
)

var testSig = "k-1:" + strings.Repeat("A", 86) + "=="

// testNarinfo is as Nix writes it.
var testNarinfo = "StorePath: /nix/store/" + testName + "\nURL: nar/x.nar.zst\nCompression: zstd\nFileHash: " + testHash + "\nFileSize: 10\n" +
	"NarHash: " + testHash + "\nNarSize: 20\nReferences: " + testName + "\nDeriver: " + testName + ".drv\nSig: " + testSig + "\nCA: fixed:r:" + testHash + "\nNew: 1\n"

// with changes a line, or leaves it out if it is empty.
func with(key, line string) string {
	var b strings.Builder
	for l := range strings.Lines(testNarinfo) {
		if !strings.HasPrefix(l, key+":") {
			b.WriteString(l)
		} else if line != "" {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// What every supported Nix takes of these, and what not, was tried with Nix 2.8.0,
// 2.26.3 and 2.34.8. TestNixBuildsWhateverTheUpstreamsNarinfosSay of package proxy
// tries what comes out.
func TestParseNarinfo(t *testing.T) {
	sri := "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	for _, tc := range []struct{ text, want string }{
		{testNarinfo, testNarinfo},
		{strings.ReplaceAll(testNarinfo, "\n", "\r\n"), testNarinfo},
		{strings.ReplaceAll(testNarinfo, ": ", ":"), testNarinfo},
		{"\n" + testNarinfo + "\nURL:  nar/x.nar.zst", testNarinfo},
		{with("Compression", "Compression:"), with("Compression", "")},
		{with("Compression", "Compression: br"), with("Compression", "Compression: br")},
		{with("FileHash", "FileHash: sha1:"+strings.Repeat("a", 40)), with("FileHash", "FileHash: sha1:"+strings.Repeat("a", 40))},
		{with("FileHash", "FileHash: sha256:"+strings.Repeat("0", 44)), with("FileHash", "")},
		{with("FileHash", "FileHash: sha256:zzz"), with("FileHash", "")},
		{with("FileHash", "FileHash: "+testHex), with("FileHash", "")},
		{with("FileSize", "FileSize: many"), with("FileSize", "")},
		{with("FileSize", "FileSize: -1"), with("FileSize", "")},
		{with("FileSize", "FileSize: 0"), with("FileSize", "FileSize: 0")},
		{with("FileSize", "FileSize: +007"), with("FileSize", "FileSize: 7")},
		{with("NarHash", "NarHash: sha256:"+testHex), testNarinfo},
		{with("NarHash", "NarHash: "+sri), testNarinfo},
		{with("NarSize", "NarSize: +20"), testNarinfo},
		{with("References", "References:"), with("References", "References: ")},
		{with("References", "References: "+testName+" \t"+testName), with("References", "References: "+testName+" "+testName)},
		{with("Deriver", "Deriver: unknown-deriver"), with("Deriver", "")},
		{with("Deriver", "Deriver: /nix/store/"+testName+".drv"), testNarinfo},
		{with("Deriver", "Deriver:"), with("Deriver", "")},
		{with("Sig", "Sig: nonsense"), with("Sig", "")},
		{with("Sig", "Sig:"), with("Sig", "")},
		{with("Sig", "Sig: k-1:AAAA"), with("Sig", "")},
		{with("Sig", "Sig: "+testSig[3:]), with("Sig", "")},
		{with("Sig", "Sig: "+strings.TrimRight(testSig, "=")), testNarinfo},
		{with("Sig", "Sig: "+testSig+" nonsense "+testSig), with("Sig", "Sig: "+testSig+"\nSig: "+testSig)},
		{with("CA", "CA:"), with("CA", "")},
	} {
		fs, err := ParseNarinfo(tc.text)
		if err != nil || fs.String() != tc.want {
			t.Errorf("%q: got %q, %v, want %q", tc.text, fs, err, tc.want)
		}
	}
	for text, want := range map[string]string{
		"":                               "no StorePath",
		"<html>\n":                       `the line "<html>"`,
		testNarinfo + "URL: nar/y.nar\n": `two lines "URL"`,
		with("URL", ""):                  "no URL",
		with("URL", "URL:"):              "no URL",
		with("NarHash", ""):              "no NarHash",
		with("NarHash", "NarHash: md5:9dd4e461268c8034f5c8564e155c67a6"): "no SHA-256",
		with("NarHash", "NarHash: sha256:zzz"):                           "NarHash",
		with("NarSize", "NarSize: 0"):                                    "NarSize",
		with("NarSize", "NarSize: 9223372036854775808"):                  "NarSize",
		with("StorePath", "StorePath: /nix/store/x"):                     "StorePath",
		with("References", "References: /nix/store/"+testName):           "References",
		with("Compression", "Compression: nonsense"):                     "Compression",
		with("CA", "CA: garbage"):                                        "CA",
	} {
		if fs, err := ParseNarinfo(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, %v", text, fs, err)
		}
	}
}

func TestCheckCA(t *testing.T) {
	sha1, md5 := "sha1:"+strings.Repeat("a", 40), "md5:9dd4e461268c8034f5c8564e155c67a6"
	for _, ca := range []string{"text:" + testHash, "text:sha256:" + testHex, "fixed:" + testHash, "fixed:r:" + testHash, "fixed:" + sha1, "fixed:r:" + md5, "fixed:r:sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="} {
		if err := CheckCA(ca); err != nil {
			t.Error(err)
		}
	}
	for _, ca := range []string{
		"", "what", "fixed", "fixed:", "text:", "fixed:r:", "text:" + md5, "text:" + sha1, "text:r:" + testHash, "TEXT:" + testHash, "fixed:r:r:" + testHash, "fixed:x:" + testHash,
		"fixed:git:" + sha1, "fixed:git:" + testHash, "fixed:blake3:" + testHex, "fixed:r:sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
		"fixed:sha256:" + strings.Repeat("0", 44), // 33 bytes
		"fixed:" + testHash + " ", "fixed:r:" + testHash + "\nSig: x", "text:sha256:zzz", "fixed:" + testHash[7:],
	} {
		if CheckCA(ca) == nil {
			t.Errorf("%q is taken", ca)
		}
	}
}

// What is read is in Nix's own form, and stays so.
func FuzzParseNarinfo(f *testing.F) {
	f.Add(testNarinfo)
	f.Add(strings.ReplaceAll(with("Sig", "Sig: "+testSig+" "+testSig), "\n", "\r\n"))
	f.Add("StorePath:/nix/store\nURL:\nReferences\n")
	f.Fuzz(func(t *testing.T, text string) {
		fs, err := ParseNarinfo(text)
		if err != nil {
			return
		}
		again, err := ParseNarinfo(fs.String())
		if err != nil || !slices.Equal(again, fs) {
			t.Errorf("%q became %q and then %q, %v", text, fs, again, err)
		}
		for _, f := range fs {
			if strings.ContainsAny(f.Key+f.Value, "\n") {
				t.Errorf("%q has a line in a line", f)
			}
		}
	})
}
