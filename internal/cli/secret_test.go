package cli

import (
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

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

// The credential that is used is a secret in hand, whoever gave it.
func TestSecretsInHand(t *testing.T) {
	const password = "a password of some length"
	getenv := env("NIXOCI_USERNAME", "me", "NIXOCI_PASSWORD", password, "CI_JOB_TOKEN", "glcbt-0123456789", "NIX_SIGNING_KEY", "cache-1:not-really-a-key", "NIXOCI_CACHE", "ghcr.io/owner/repo")
	s := Secrets(env("CI_JOB_TOKEN", "glcbt-0123456789", "NIX_SIGNING_KEY", "cache-1:not-really-a-key", "NIXOCI_CACHE", "ghcr.io/owner/repo"))
	registry, err := name.NewRegistry("registry.example.org")
	if err != nil {
		t.Fatal(err)
	}
	login := base64.StdEncoding.EncodeToString([]byte("me:" + password))
	for text, want := range map[string]string{
		"glcbt-0123456789": "the value of CI_JOB_TOKEN", "not-really-a-key": "the signing key cache-1", "ghcr.io/owner/repo": "", password: "", login: "",
	} {
		if kind, _ := s.Find([]byte(text)); kind != want {
			t.Errorf("%s: got %q, want %q", text, kind, want)
		}
	}
	auth, err := Remember(Keychain(getenv), s).Resolve(registry)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := auth.Authorization(); err != nil || c.Username != "me" || c.Password != password {
		t.Errorf("got %+v, %v", c, err)
	}
	for text, want := range map[string]string{password: "the password for registry.example.org", login: "the login for registry.example.org"} {
		if kind, _ := s.Find([]byte(text)); kind != want {
			t.Errorf("%s: got %q, want %q", text, kind, want)
		}
	}
	t.Setenv("DOCKER_CONFIG", t.TempDir()) // nobody is logged in
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	nobody, err := Remember(Keychain(env()), s).Resolve(registry)
	if err != nil || nobody != authn.Anonymous {
		t.Errorf("nobody: got %v, %v", nobody, err)
	}
}

func TestReadableSecretFiles(t *testing.T) {
	top, err := os.MkdirTemp("/tmp", "secret") // which everybody can enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	open, closed := filepath.Join(top, "open"), filepath.Join(top, "closed")
	if err := errors.Join(os.Chmod(top, 0o755), os.WriteFile(open, nil, 0o600), os.Chmod(open, 0o644), os.WriteFile(closed, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if errs := SecretFiles(env("GITHUB_TOKEN_FILE", open, "NIXOCI_PASSWORD_FILE", closed), open, closed, ""); len(errs) != 2 || !strings.Contains(errs[1].Error(), open) {
		t.Errorf("got %v", errs)
	}
}
