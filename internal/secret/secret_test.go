package secret

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/hint"
)

const token = "ghp_0123456789abcdefghijABCDEFGHIJ012345"

func noise(seed uint64, n int) []byte {
	var key [32]byte
	key[0] = byte(seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// signingKey is what `nix key generate-secret` would print.
func signingKey() (text string, raw []byte) {
	raw = noise(9, 64)
	return "cache-1:" + base64.StdEncoding.EncodeToString(raw), raw
}

func set() *Set {
	s := &Set{}
	key, _ := signingKey()
	s.AddKeys(key + "\n")
	s.Add("a token", token+"\n")
	s.Add("a password", "short", "twelve-bytes", "eightlong")
	return s
}

func TestFind(t *testing.T) {
	key, raw := signingKey()
	_, digits, _ := strings.Cut(key, ":")
	s := set()
	for name, tc := range map[string]struct{ text, want string }{
		"the key":                 {key, "the signing key cache-1"},
		"its base64":              {digits, "the signing key cache-1"},
		"its secret half":         {base64.StdEncoding.EncodeToString(raw[:32]), "the signing key cache-1"},
		"its bytes":               {string(raw), "the signing key cache-1"},
		"its secret half's bytes": {string(raw[:32]), "the signing key cache-1"},
		"its public half":         {base64.StdEncoding.EncodeToString(raw[32:]), ""},
		"its public half's bytes": {string(raw[32:]), ""},
		"its name":                {"cache-1:", ""},
		"a token":                 {token, "a token"},
		"half a token":            {token[:39], ""},
		"a password":              {"twelve-bytes", "a password"},
		"a word":                  {"eightlong", ""},
		"a short one":             {"short", ""},
	} {
		for before := range 64 { // every position in a stride
			b := append(append(noise(1, before), tc.text...), noise(2, before%7)...)
			kind, found := s.Find(b)
			if kind != tc.want || found != (tc.want != "") {
				t.Errorf("%s after %d bytes: got %q, %t, want %q", name, before, kind, found, tc.want)
			}
		}
	}
	for _, none := range []*Set{nil, {}} {
		if kind, found := none.Find([]byte(key)); found || none.Texts() != nil || string(none.Redact([]byte("x"))) != "x" {
			t.Errorf("no secrets: got %q", kind)
		}
	}
}

func TestRedact(t *testing.T) {
	key, _ := signingKey()
	_, digits, _ := strings.Cut(key, ":")
	s := set()
	text := fmt.Sprintf("a %s b %s c %s d short e eightlong", key, digits, token)
	if got, want := string(s.Redact([]byte(text))), "a *** b *** c *** d short e ***"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := s.Texts(); got[0] != key || len(got) != 6 {
		t.Errorf("got %q", got)
	}
}

// What is no key is no less secret.
func TestAddKeys(t *testing.T) {
	var s Set
	s.AddKeys("no-colon-in-this\nname:not base64, though\n\n")
	for text, want := range map[string]string{"no-colon-in-this": "a signing key", "not base64, though": "the signing key name"} {
		if kind, _ := s.Find([]byte(text)); kind != want {
			t.Errorf("%s: got %q, want %q", text, kind, want)
		}
	}
}

// However a text is cut, a guard lets it through as it is, or finds the secret
// before the last byte of it is passed on.
func TestGuard(t *testing.T) {
	key, raw := signingKey()
	for _, secret := range []string{"", token, key, string(raw)} {
		for _, size := range []int{1, 2, 7, 12, 13, 41, 42, 87, 88, 95, 96, 97, 200, 1000, 5000} {
			for before := 880; before < 880+120; before += 7 {
				text := append(append(noise(1, before), secret...), noise(2, 3000)...)
				var out bytes.Buffer
				g := set().Guard(&out)
				var err error
				for p := text; len(p) > 0 && err == nil; {
					k := min(size, len(p))
					_, err = g.Write(p[:k])
					p = p[k:]
				}
				if err == nil {
					err = g.Flush()
				}
				if secret == "" {
					if err != nil || !bytes.Equal(out.Bytes(), text) {
						t.Fatalf("pieces of %d bytes: got %d bytes, %v, want %d", size, out.Len(), err, len(text))
					}
					continue
				}
				var found *FoundError
				if !errors.As(err, &found) {
					t.Fatalf("pieces of %d bytes: got %v", size, err)
				}
				if !bytes.HasPrefix(text, out.Bytes()) || out.Len() >= before+len(secret) {
					t.Fatalf("pieces of %d bytes: %d bytes went out, the secret ends at %d", size, out.Len(), before+len(secret))
				}
			}
		}
	}
	var out bytes.Buffer
	if g := (*Set)(nil).Guard(&out); g.f != nil {
		t.Error("there is nothing to look for")
	} else if _, err := g.Write([]byte(token)); err != nil || g.Flush() != nil || out.String() != token {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

func FuzzGuard(f *testing.F) {
	f.Add([]byte("xx"+token+"yy"), 3)
	f.Add([]byte("twelve-bytetwelve-bytes"), 5)
	f.Fuzz(func(t *testing.T, text []byte, size int) {
		size = max(1, min(size, 1<<16))
		want := false
		for _, s := range set().needles {
			want = want || len(s.text) >= MinLength && bytes.Contains(text, s.text)
		}
		var out bytes.Buffer
		g := set().Guard(&out)
		var err error
		for p := text; len(p) > 0 && err == nil; {
			k := min(size, len(p))
			_, err = g.Write(p[:k])
			p = p[k:]
		}
		if err == nil {
			err = g.Flush()
		}
		if _, found := set().Find(text); (err != nil) != want || found != want || err == nil && !bytes.Equal(out.Bytes(), text) {
			t.Errorf("got %v, %t, want %t", err, found, want)
		}
	})
}

func TestReference(t *testing.T) {
	for _, tc := range []struct {
		ref, want string
		secrets   []string
	}{
		{ref: ".", want: "."},
		{ref: "./x?dir=sub", want: "./x?dir=sub"},
		{ref: "github:o/r/main?dir=x&host=y", want: "github:o/r/main?dir=x&host=y"},
		{ref: "git+https://me:t%40ken@h.example/r.git?ref=main", want: "git+https://h.example/r.git?ref=main", secrets: []string{"t%40ken", "t@ken"}},
		{ref: "git+https://ghp_x@h.example/r", want: "git+https://h.example/r", secrets: []string{"ghp_x"}},
		{ref: "git+ssh://git@h.example/r@v1", want: "git+ssh://git@h.example/r@v1"},
		{ref: "ssh://git:pass@h.example/r", want: "ssh://h.example/r", secrets: []string{"pass"}},
		{ref: "https://h.example/x.tar.gz?private_token=abc&narHash=sha256-x%2B=", want: "https://h.example/x.tar.gz?narHash=sha256-x%2B=", secrets: []string{"abc"}},
		{ref: "https://h.example/x.tgz?X-Amz-Signature=abc&sig=d%2Fe", want: "https://h.example/x.tgz", secrets: []string{"abc", "d%2Fe", "d/e"}},
		{ref: "https://u:p@h.example", want: "https://h.example", secrets: []string{"p"}},
		{ref: "https://h.example/@x:y", want: "https://h.example/@x:y"},
		{ref: "https://h.example/x?id=1&dir=d", want: "https://h.example/x?dir=d&hidden=d9fc91d4", secrets: []string{"1"}},
		{ref: "git+file:///a/b?submodules=1&allRefs=1&rev=0123", want: "git+file:///a/b?submodules=1&allRefs=1&rev=0123"},
	} {
		got, secrets := Reference(tc.ref)
		if got != tc.want || !reflect.DeepEqual(secrets, tc.secrets) {
			t.Errorf("%s: got %s, %q, want %s, %q", tc.ref, got, secrets, tc.want, tc.secrets)
		}
		if again, more := Reference(got); again != got || len(more) > 0 {
			t.Errorf("%s: %s became %s, %q", tc.ref, got, again, more)
		}
	}
}

func TestCheckFile(t *testing.T) {
	top, err := os.MkdirTemp("/tmp", "secret") // which everybody can enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	dir := filepath.Join(top, "dir")
	file, link := filepath.Join(dir, "key"), filepath.Join(top, "link")
	if err := errors.Join(os.Chmod(top, 0o755), os.Mkdir(dir, 0o755), os.WriteFile(file, nil, 0o600), os.Symlink(file, link)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		dir, file os.FileMode
		want      bool
	}{
		{0o755, 0o600, false},
		{0o755, 0o440, false},
		{0o755, 0o644, true},
		{0o711, 0o644, true}, // it can be read by who knows its name
		{0o700, 0o644, false},
		{0o750, 0o644, false},
	} {
		if err := errors.Join(os.Chmod(file, tc.file), os.Chmod(dir, tc.dir)); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{file, link} {
			err := checkFile(name)
			if (err != nil) != tc.want || tc.want && (!strings.Contains(err.Error(), name) || !strings.Contains(hint.Of(err), "chmod 600")) {
				t.Errorf("%o in %o: got %v", tc.file, tc.dir, err)
			}
		}
	}
	for _, name := range []string{filepath.Join(dir, "absent"), os.DevNull} {
		if err := checkFile(name); err != nil {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// BenchmarkGuard: one pass, whatever the data and the number of secrets.
func BenchmarkGuard(b *testing.B) {
	const size = 4 << 20
	program, err := exec.LookPath("go") // not this one, which has the secrets in it
	if err != nil {
		b.Skip(err)
	}
	exe, err := os.ReadFile(program)
	if err != nil {
		b.Skip(err)
	}
	random := noise(1, size)
	for name, data := range map[string][]byte{
		"noise": random, "base64": []byte(base64.StdEncoding.EncodeToString(random))[:size], "zeros": make([]byte, size),
		"program": exe[:min(size, len(exe))], "part of a secret": bytes.Repeat([]byte(token[:39]), size/39),
		"group of a secret": bytes.Repeat([]byte(token[8:12]), size/4),
	} {
		for _, with := range []string{"tokens", "a short password, too"} {
			b.Run(name+" with "+with, func(b *testing.B) {
				s := &Set{}
				key, _ := signingKey()
				s.AddKeys(key)
				s.Add("a token", token, strings.Repeat("eyJhbGciOi", 150), "glpat-0123456789abcdefgh", string(noise(3, 50)))
				if with != "tokens" {
					s.Add("a password", "twelve-bytes")
				}
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					g := s.Guard(&nowhere{})
					for p := data; len(p) > 0; {
						k := min(256<<10, len(p)) // as upload writes
						if _, err := g.Write(p[:k]); err != nil {
							b.Fatal(err)
						}
						p = p[k:]
					}
				}
			})
		}
	}
}

type nowhere struct{}

func (*nowhere) Write(p []byte) (int, error) { return len(p), nil }
