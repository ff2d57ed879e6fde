package nix

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/registrytest"
)

const logDrv = "/nix/store/z5x6mwzprrrld5rn4mhc9kb8xs0g10lq-top.drv"

// logged is a client for which a log stands where Nix keeps logs, compressed as
// Nix does.
func logged(t testing.TB, log []byte) *Client {
	t.Helper()
	cmd := exec.Command("bzip2", "-9")
	cmd.Stdin = bytes.NewReader(log)
	packed, err := cmd.Output()
	if err != nil {
		registrytest.Missing(t, "bzip2 does not run: "+err.Error())
	}
	return loggedFile(t, packed)
}

func loggedFile(t testing.TB, file []byte) *Client {
	t.Helper()
	dir := t.TempDir()
	name := filepath.Join(dir, "drvs", filepath.Base(logDrv)[:2], filepath.Base(logDrv)[2:]+".bz2")
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, file, 0o600); err != nil {
		t.Fatal(err)
	}
	return New(Options{Env: []string{"NIX_LOG_DIR=" + dir}})
}

// A log is the same whatever the size of its file and of its blocks.
func TestLogFile(t *testing.T) {
	t.Parallel()
	lines := []byte(strings.Repeat("a line of a log\n", 1000))
	for name, log := range map[string][]byte{
		"empty":                                 {},
		"a few lines":                           lines[:100],
		"one small block":                       lines,
		"a large block in a small file":         bytes.Repeat(lines, 40),
		"several blocks in a small file":        bytes.Repeat(lines, 80),
		"several blocks in a large file":        random(3 << 20),
		"one block in a file that is not small": random(20 << 10),
	} {
		got := ends{half: 8 << 20}
		if !logged(t, log).logFile(logDrv, &got) || !bytes.Equal(got.bytes(), log) {
			t.Errorf("%s: got %d bytes, want %d", name, len(got.bytes()), len(log))
		}
	}
	for name, file := range map[string]string{
		"nothing":   "",
		"a header":  "BZh9",
		"cut off":   "BZh9\x17\x72\x45\x38\x50\x90\x00\x00\x00",
		"other sum": "BZh9\x17\x72\x45\x38\x50\x90\x00\x00\x00\x01",
	} {
		if loggedFile(t, []byte(file)).logFile(logDrv, &ends{half: 100}) {
			t.Errorf("%s was read as a log", name)
		}
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	x := uint32(12345)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func BenchmarkLogFile(b *testing.B) {
	for name, log := range map[string]string{"empty": "", "of 20 lines": strings.Repeat("checking for something... yes\n", 20)} {
		c := logged(b, []byte(log))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !c.logFile(logDrv, &ends{half: 8 << 20}) {
					b.Fatal("no log")
				}
			}
		})
	}
}
