package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The demo needs no network: it works on a machine that has loopback only, where
// Nix does without substituters by itself.
func TestDemoOnLoopback(t *testing.T) {
	t.Parallel()
	const alone = "ip link set lo up && exec "
	net := func(ctx context.Context, command string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "unshare", "--net", "sh", "-c", alone+command)
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "NIXOCI="+filepath.Join(bin, "nixoci"))
		return cmd
	}
	if out, err := net(t.Context(), "true").CombinedOutput(); err != nil {
		t.Skip("no network namespace can be made here: " + strings.TrimSpace(string(out)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	out, err := net(ctx, "scripts/with-nix scripts/demo").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "from that store: Hello from an OCI registry!") {
		t.Errorf("got %v\n%s", err, out)
	}
}
