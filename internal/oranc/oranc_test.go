package oranc

import (
	"strings"
	"testing"
)

const (
	realisation = "realisations/sha256:67890e0958e5d1a2944a3389151472a9acde025c7812f68381a7eef0d82152d1!libgcc.doi"
	hashPart    = "p4pclmv1gyja5kzc26npqpia1qqxrf0l"
)

// The examples of oranc's README and of its tests, and the keys of a cache.
func TestTag(t *testing.T) {
	all := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-."
	for key, want := range map[string]string{
		realisation:              "realisations_L_sha256_W_67890e0958e5d1a2944a3389151472a9acde025c7812f68381a7eef0d82152d1_x_libgcc.doi",
		all:                      all,
		"--":                     "_J_-",
		"..":                     "_K_.",
		"//":                     "_L__L_",
		"__":                     "_1v__1v_",
		"test":                   "test",
		"nix-cache-info":         "nix-cache-info",
		hashPart + ".narinfo":    hashPart + ".narinfo",
		"nar/" + hashPart + ".x": "nar_L_" + hashPart + ".x",
	} {
		if got := Tag(key); got != want {
			t.Errorf("%s: got %s, want %s", key, got, want)
		}
		if got, ok := Key(want); !ok || got != key {
			t.Errorf("%s: got %q, %v, want %q", want, got, ok, key)
		}
	}
	for _, key := range []string{"测试", "_test-测试_", "._test-测试_.", "._test-测试_.测试"} {
		if got, ok := Key(Tag(key)); !ok || got != key {
			t.Errorf("%s: got %q, %v by %s", key, got, ok, Tag(key))
		}
	}
}

func TestOldTag(t *testing.T) {
	// of oranc's README, where it is an example for what is too long
	const want = "e9im2r39edgn8qbfdppiusr8c4p3adhq6orjge9gcko3id9ockqm8cb168sj8d316cpjge9h6koj8dpic4sm2or4cko34db36ss32cj66os36e1hc4rmapb661i3gchh6kp68c91dhkm4pr3ccn68rr9"
	if got := OldTag(realisation); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, key := range []string{"nix-cache-info", hashPart + ".narinfo", "nar/" + strings.Repeat("0a", 26) + ".nar.zst", hashPart + ".ls"} {
		tag := OldTag(key)
		if got, ok := Key(tag); !ok || got != key || len(tag) > 128 {
			t.Errorf("%s: got %q, %v", tag, got, ok)
		}
	}
}

func TestNoKey(t *testing.T) {
	for _, tag := range []string{"", "_", "_L", "nar_L", "nar_L_x_", "_!_", "_é_", "_0L_", "-x", "nar_" + strings.Repeat("z", 40) + "_x", "_zzzzz_"} {
		if key, ok := Key(tag); ok {
			t.Errorf("%q: got %q", tag, key)
		}
	}
	// tags of others are keys at most of themselves
	for _, tag := range []string{"latest", "cache-index", "segment-20260102T030405Z-0123456789abcdef", "v1"} {
		if key, ok := Key(tag); ok && key != tag {
			t.Errorf("%q: got %q", tag, key)
		}
	}
}

// What has a key is that key's tag, in one encoding or the other.
func FuzzKey(f *testing.F) {
	for _, s := range []string{"nix-cache-info", "nar_L_x", "_K_.", "__", "_1v__1v_", OldTag("nix-cache-info"), "_zzzzz_", "latest"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, tag string) {
		key, ok := Key(tag)
		if ok && Tag(key) != tag && OldTag(key) != tag {
			t.Errorf("%q: got %q", tag, key)
		}
		if again, ok := decode(Tag(tag)); tag != "" && strings.ToValidUTF8(tag, "") == tag && (!ok || again != tag) {
			t.Errorf("%q as a key: got %q by %q", tag, again, Tag(tag))
		}
	})
}

func TestFile(t *testing.T) {
	const digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
	layer := `{"mediaType":"application/octet-stream","digest":"` + digest + `","size":2,"annotations":{"com.linyinfeng.oranc.content.type":"text/x-nix-narinfo"}}`
	manifest := func(layers, annotations string) []byte {
		return []byte(`{"schemaVersion":2,"layers":[` + layers + `],"annotations":{` + annotations + `}}`)
	}
	for _, annotations := range []string{`"com.linyinfeng.oranc.key":"k"`, ""} {
		if d, err := File(manifest(layer, annotations), "k"); err != nil || d.Digest.String() != digest || d.Size != 2 {
			t.Errorf("got %+v, %v", d, err)
		}
	}
	for what, m := range map[string][]byte{
		"no JSON":         []byte("x"),
		"another key":     manifest(layer, `"com.linyinfeng.oranc.key":"other"`),
		"no layer":        manifest("", ""),
		"two layers":      manifest(layer+","+layer, ""),
		"an image's":      manifest(strings.Replace(layer, "octet-stream", "vnd.oci.image.layer.v1.tar", 1), ""),
		"nothing in it":   manifest(strings.Replace(layer, `"size":2`, `"size":0`, 1), ""),
		"an unknown hash": manifest(strings.Replace(layer, "sha256", "sha512", 1), ""),
	} {
		if d, err := File(m, "k"); err == nil {
			t.Errorf("%s: got %+v", what, d)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte(`{"layers":[{"mediaType":"application/octet-stream","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if d, err := File(raw, "k"); err == nil && (d.Size <= 0 || len(d.Digest.Hex) != 64) {
			t.Errorf("got %+v", d)
		}
	})
}
