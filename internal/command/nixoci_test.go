package command

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/registrytest"
)

// A name that is spelled wrong looks like success nowhere. Only gc, which may be
// scheduled before the first publish, does not fail.
func TestNoCache(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, paths := filepath.Join(dir, "key"), filepath.Join(dir, "report.json")
	secret, _, err := signature.GenerateKeypair("k-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{key: secret.String(), paths: "{}"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	registry := registrytest.GGCR(t)
	for _, cache := range []string{"oci:" + filepath.Join(dir, "none"), registry + "/no/such"} {
		for _, tc := range []struct {
			args   []string
			status int
			kind   string
		}{
			{[]string{"gc"}, cli.ExitDone, "warning"},
			{[]string{"gc", "--dry-run"}, cli.ExitDone, "warning"},
			{[]string{"inspect"}, cli.ExitFailed, "error"},
			{[]string{"inspect", "hello"}, cli.ExitFailed, "error"},
			{[]string{"inspect", "--export", filepath.Join(dir, "site")}, cli.ExitFailed, "error"},
			{[]string{"keys", "list"}, cli.ExitFailed, "error"},
			{[]string{"sign", "--report", paths, "--sign-key-file", key}, cli.ExitFailed, "error"},
		} {
			var stdout, stderr bytes.Buffer
			env := func(name string) string { return map[string]string{"HOME": dir}[name] }
			status := Nixoci.Run(t.Context(), append(tc.args, "--cache", cache), env, nil, &stdout, &stderr)
			if status != tc.status || !strings.Contains(stderr.String(), tc.kind+": there is no cache "+cache+"\nhint: is the name right?") {
				t.Errorf("%v of %s: got %d, %s", tc.args, cache, status, stderr.String())
			}
			if private := strings.Contains(stderr.String(), "logged in"); private == strings.HasPrefix(cache, "oci:") {
				t.Errorf("%v of %s: got %s", tc.args, cache, stderr.String())
			}
			if stdout.Len() > 0 {
				t.Errorf("%v of %s: got %s", tc.args, cache, stdout.String())
			}
		}
	}
	for _, name := range []string{"none", "site"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s was made", name)
		}
	}
}
