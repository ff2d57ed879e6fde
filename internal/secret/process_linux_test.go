package secret

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What others see in /proc of a hidden process: nothing, or as root all but the
// secrets. The process itself still has them.
func TestHide(t *testing.T) {
	t.Parallel()
	if os.Getenv("HIDDEN_CHILD") != "" {
		err := Hide(func(name string) bool { return strings.HasPrefix(name, "SECRET") })
		hidden, _ := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		if os.Getenv("SHOWN") != "" {
			_ = Show()
		}
		dumpable, _ := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		fmt.Printf("%v %d%d %s %s\n", err, hidden, dumpable, os.Getenv("SECRET_ONE"), os.Environ())
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	t.Run("hidden", func(t *testing.T) { lookAt(t, "", "0") })
	t.Run("shown", func(t *testing.T) { lookAt(t, "yes", "1") })
}

// lookAt starts such a process, and looks at it.
func lookAt(t *testing.T, shown, want string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHide$")
	cmd.Env = []string{"A=first", "HIDDEN_CHILD=yes", "SECRET_ONE=hush-hush", "SECRET_EMPTY=", "B=between", "SECRET_TWO=a=hush-b", "Z=last", "SHOWN=" + shown}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 1000)
	n, _ := out.Read(said)
	seen, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid))
	_ = in.Close()
	if werr := cmd.Wait(); werr != nil {
		t.Fatal(werr)
	}
	if got := string(said[:n]); !strings.HasPrefix(got, "<nil> 0"+want+" hush-hush ") || !strings.Contains(got, "SECRET_TWO=a=hush-b") {
		t.Errorf("the process says %q", got)
	}
	if os.Geteuid() != 0 && shown == "" {
		if err == nil {
			t.Errorf("the same user reads %q", seen)
		}
		return
	}
	if err != nil || bytes.Contains(seen, []byte("hush")) {
		t.Errorf("others read %q, %v", seen, err)
	}
	for _, kv := range []string{"A=first\x00", "B=between\x00", "Z=last\x00", "SECRET_ONE=\x00"} {
		if !bytes.Contains(seen, []byte(kv)) {
			t.Errorf("%q lacks %q", seen, kv)
		}
	}
}
