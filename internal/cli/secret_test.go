package cli

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/hint"
)

func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	password := write("password", " pass word \r\n")
	keys := write("keys", "a-1:x\nb-1:y\n\n")

	getenv, err := WithSecretFiles(env("NIXOCI_PASSWORD_FILE", password, "NIX_SIGNING_KEY_FILE", keys, "HOME", "/h",
		"GITHUB_TOKEN", "token", "GITHUB_TOKEN_FILE", filepath.Join(dir, "nowhere"), "OTHER_FILE", password))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"NIXOCI_PASSWORD": " pass word ", "NIX_SIGNING_KEY": "a-1:x\nb-1:y", "HOME": "/h",
		"GITHUB_TOKEN": "token", // the variable wins
		"OTHER":        "",
	} {
		if got := getenv(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}

	for name, file := range map[string]string{
		"missing": filepath.Join(dir, "nowhere"), "empty": write("empty", "\n"), "a directory": dir,
		"too large": write("large", strings.Repeat("x", secretLimit+1)),
	} {
		_, err := WithSecretFiles(env("GITHUB_TOKEN_FILE", file))
		if err == nil || !strings.Contains(err.Error(), "GITHUB_TOKEN_FILE") || !strings.Contains(err.Error(), file) || hint.Of(err) == "" {
			t.Errorf("%s: got %v, want an error that names the variable and the file, and a hint", name, err)
		}
		if status := Report(t.Context(), err, env(), io.Discard, io.Discard); status != ExitUsage {
			t.Errorf("%s: got status %d, want %d", name, status, ExitUsage)
		}
	}
	if _, err := WithSecretFiles(env("NIXOCI_PASSWORD_FILE", write("full", strings.Repeat("x", secretLimit)))); err != nil {
		t.Errorf("a file of the limit's size: %v", err)
	}
}
