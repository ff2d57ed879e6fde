package proxy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/hint"
)

func TestReadTokens(t *testing.T) {
	const long = "0123456789abcdef0123456789abcdef"
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "tokens")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	if got, err := readTokens(file("\n" + long + "\r\nan-older-one-of-ours")); err != nil || !slices.Equal(got, []string{long, "an-older-one-of-ours"}) {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := readTokens(""); err != nil || got != nil {
		t.Errorf("no file: got %q, %v", got, err)
	}
	for name, f := range map[string]string{
		"missing": filepath.Join(t.TempDir(), "missing"), "empty": file(" \n"), "short": file(long + "\nsecret-word\n"), "large": file(strings.Repeat("x", maxTokenFile+1)),
	} {
		got, err := readTokens(f)
		if err == nil || got != nil || hint.Of(err) == "" || strings.Contains(err.Error(), "secret-word") {
			t.Errorf("%s: got %q, %v; want an error with a hint and no token", name, got, err)
		}
	}
}

// Every token is long enough, and no error shows one.
func FuzzParseTokens(f *testing.F) {
	f.Add("0123456789abcdef0123456789abcdef\r\nan-older-one-of-ours\n")
	f.Add("secret-word\n")
	f.Add(" \n")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseTokens(text)
		if err != nil {
			if s := err.Error(); s != "it is empty" && s != "a token has less than 16 characters" {
				t.Errorf("%q: got %v", text, err)
			}
			return
		}
		if short := slices.ContainsFunc(got, func(s string) bool { return len(s) < minToken }); short || !slices.Equal(got, strings.Fields(text)) {
			t.Errorf("%q: got %q", text, got)
		}
	})
}
