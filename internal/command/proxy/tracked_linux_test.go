package proxy

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/org/nixoci-action/internal/secret"
)

// GitHub's runner finds by their environment the processes that a job has left.
// One with keys or tokens of its own stays hidden all the same.
func TestRunnerFindsProxy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = secret.Show() })
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tt := range map[string]struct {
		tracking string
		args     []string
		want     int
	}{
		"no job":                  {"", nil, 0},
		"a job":                   {"github_1", nil, 1},
		"a job that is pushed to": {"github_1", []string{"--allow-push", "--push-token-file", file}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
				t.Fatal(err)
			}
			args := append([]string{"--cache", "oci:" + filepath.Join(t.TempDir(), "cache"), "--listen", "127.0.0.1:0"}, tt.args...)
			Run(ended, args, env("RUNNER_TRACKING_ID", tt.tracking), nil, io.Discard, io.Discard)
			if got, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || got != tt.want {
				t.Errorf("got %d, %v, want %d", got, err, tt.want)
			}
		})
	}
}
