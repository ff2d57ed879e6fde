package signing

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

func newKey(t *testing.T, name string) signature.SecretKey {
	t.Helper()
	k, _, err := signature.GenerateKeypair(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSignKeepsAndReplaces(t *testing.T) {
	const fp = "1;/nix/store/x;sha256:y;1;"
	a, b := newKey(t, "a-1"), newKey(t, "b-1")
	first, err := Keys{a}.Sign(fp, []string{"other-1:AAAA"})
	if err != nil || len(first) != 2 || first[0] != "other-1:AAAA" {
		t.Fatalf("got %v, %v", first, err)
	}
	again, err := Keys{a, b}.Sign(fp, first)
	if err != nil || len(again) != 3 || again[1] != first[1] {
		t.Fatalf("got %v, %v; want the first two kept and one added", again, err)
	}
	if !(Keys{a, b}).Signed(fp, again) || (Keys{a, b}).Signed(fp+"x", again) {
		t.Error("Signed does not tell a valid signature from an invalid one")
	}
	// a signature over something else, under our name, would hide ours from
	// readers that look at the first one only
	stale, err := Keys{a}.Sign("1;old;", nil)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := Keys{a}.Sign(fp, stale)
	if err != nil || len(fresh) != 1 || fresh[0] == stale[0] {
		t.Errorf("got %v, %v; want the stale signature replaced", fresh, err)
	}
}

func TestLoad(t *testing.T) {
	a, b, c := newKey(t, "a-1"), newKey(t, "b-1"), newKey(t, "c-1")
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(a.String()+"\n"+b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := Load([]string{file}, "\n"+c.String()+"\n")
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(keys.PublicKeys(), " ")
	if want := a.ToPublicKey().String() + " " + b.ToPublicKey().String() + " " + c.ToPublicKey().String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestLoadErrorsShowNoKey(t *testing.T) {
	secret := newKey(t, "a-1").String()
	for _, text := range []string{secret[4:], secret[:40], "a-1:" + secret, ":" + secret, "nonsense"} {
		_, err := Load(nil, text)
		if err == nil {
			t.Errorf("%.8s…: no error", text)
		} else if strings.Contains(err.Error(), secret[10:30]) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{empty, empty + "-missing"} {
		if _, err := Load([]string{f}, ""); err == nil || !strings.Contains(err.Error(), f) {
			t.Errorf("%s: got %v, want an error that names the file", f, err)
		}
	}
}

func TestTrusted(t *testing.T) {
	own, given := newKey(t, "own-1"), newKey(t, "given-1")
	a, b := own.ToPublicKey().String(), given.ToPublicKey().String()
	if got, err := (Keys{own}).Trusted([]string{b, a, b}); err != nil || strings.Join(got, " ") != a+" "+b {
		t.Errorf("got %v, %v; want each key once", got, err)
	}
	_, err := Keys(nil).Trusted([]string{b, "", "x", ":y", given.String(), b + " " + a})
	if err == nil || strings.Count(err.Error(), "\n") != 4 {
		t.Fatalf("got %v, want five errors", err)
	}
	if strings.Contains(err.Error(), given.String()[len("given-1:"):]) {
		t.Errorf("the error shows a secret: %v", err)
	}
}

// Keys that are accepted sign, and read again they are the same.
func FuzzParse(f *testing.F) {
	f.Add("a-1:" + strings.Repeat("A", 86) + "==\nb-1:" + strings.Repeat("B", 85) + "A==")
	f.Add("a-1:AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := parse(text)
		if err != nil {
			if err.Error() != "it is no secret key" {
				t.Errorf("%q: got %v", text, err)
			}
			return
		}
		var again []string
		for _, k := range keys {
			again = append(again, k.String())
		}
		if got, err := parse(strings.Join(again, "\n")); err != nil || !slices.Equal(got.PublicKeys(), keys.PublicKeys()) {
			t.Errorf("%q: got %q, %v, want %q", text, got.PublicKeys(), err, keys.PublicKeys())
		}
		if len(keys) > 0 {
			if sigs, err := keys[:1].Sign("1;x;", nil); err != nil || len(sigs) != 1 {
				t.Errorf("%q: got %q, %v", text, sigs, err)
			}
		}
	})
}

func BenchmarkSigned(b *testing.B) {
	k, _, err := signature.GenerateKeypair("a-1", nil)
	if err != nil {
		b.Fatal(err)
	}
	const fp = "1;/nix/store/z5x6mwzprrrld5rn4mhc9kb8xs0g10lq-top;sha256:0000000000000000000000000000000000000000000000000000;1000;"
	sigs, err := Keys{k}.Sign(fp, nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !(Keys{k}).Signed(fp, sigs) {
			b.Fatal("not signed")
		}
	}
}
