package nix

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/nix/nixtest"
)

// What was built here is told from what was fetched, what was there before,
// sources and derivations; and a failed build by its log.
func TestBuiltAndLogs(t *testing.T) {
	t.Parallel()
	e := nixtest.New(t)
	c := New(Options{Env: e.Vars})
	build := func(name, script string) (drv, out string) {
		file := filepath.Join(e.Dir, name+".nix")
		text := `derivation { name = "` + name + `"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "` + script + `" ]; }`
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		drv = e.Run(t, e.Dir, "nix-instantiate", file)
		out = e.Run(t, e.Dir, "nix-store", "--query", "--outputs", drv)
		return drv, out
	}
	one, oneOut := build("one", "echo one > $out")
	bad, _ := build("bad", "i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo line $i; done; exit 3")
	if err := c.Realise(t.Context(), []string{one}, RealiseOptions{}); err != nil {
		t.Fatal(err)
	}
	remote := "file://" + filepath.Join(e.Dir, "remote")
	e.Nix(t, e.Dir, "copy", "--to", remote, oneOut)
	e.Run(t, e.Dir, "nix-store", "--delete", oneOut)
	two, twoOut := build("two", "echo two > $out")
	if err := c.Realise(t.Context(), []string{two}, RealiseOptions{}); err != nil {
		t.Fatal(err)
	}
	e.Nix(t, e.Dir, "copy", "--no-check-sigs", "--from", remote, oneOut)

	built, fetched, err := c.Built(t.Context(), time.Unix(0, 0))
	if err != nil || !slices.Equal(built, []string{twoOut}) || !slices.Equal(fetched, []string{oneOut}) {
		t.Errorf("got %v built and %v fetched, %v; want %s and %s", built, fetched, err, twoOut, oneOut)
	}
	built, fetched, err = c.Built(t.Context(), time.Now().Add(time.Hour))
	if err != nil || len(built)+len(fetched) > 0 {
		t.Errorf("in an hour: got %v and %v, %v", built, fetched, err)
	}

	if err := c.Realise(t.Context(), []string{bad}, RealiseOptions{}); err == nil {
		t.Fatal("the bad build succeeded")
	}
	log, err := c.WholeLog(t.Context(), bad, 1<<20)
	if err != nil || !strings.HasSuffix(string(log), "line 48\nline 49\nline 50\n") {
		t.Errorf("got the log %q, %v", log, err)
	}
	unbuilt, _ := build("unbuilt", "exit 0")
	if log, err := c.WholeLog(t.Context(), unbuilt, 1<<20); err == nil {
		t.Errorf("a build that never was: got %q, want an error", log)
	}
	if got, err := c.Requisites(t.Context(), bad); err != nil || !slices.Equal(got, []string{bad}) {
		t.Errorf("got the closure %v, %v", got, err)
	}
	if dir, err := c.StoreDir(t.Context()); err != nil || dir != e.Store {
		t.Errorf("got the store directory %q, %v, want %s", dir, err, e.Store)
	}
	if err := c.Seek(t.Context(), e.Store+"/"+strings.Repeat("0", 32)+"-x"); err != nil {
		t.Errorf("seeking what nobody has: %v", err)
	}
}

// Each derivation that failed is known, wherever its message is in the log.
func TestFailedDerivations(t *testing.T) {
	drv := func(name string) string { return "/nix/store/00000000000000000000000000000000-" + name + ".drv" }
	log := &tail{}
	text := "error: builder for '" + drv("a") + "' failed with exit code 1;\n       last 1 log lines:\n       > '" + drv("quoted") + "'\n" +
		strings.Repeat("building something\n", 20_000) +
		"\x1b[31;1merror:\x1b[0m Cannot build '\x1b[35;1m" + drv("b-1.0") + "\x1b[0m'.\n       Reason: builder failed\n" +
		"error: 1 dependencies of derivation '" + drv("c") + "' failed to build\n" +
		"error: build of '" + drv("c") + "', '" + drv("a") + "' failed\n"
	for len(text) > 0 { // in pieces, as a pipe gives them
		n := min(len(text), 1009)
		_, _ = log.Write([]byte(text[:n]))
		text = text[n:]
	}
	if want := []string{drv("a"), drv("b-1.0"), drv("c")}; !slices.Equal(log.failed, want) {
		t.Errorf("got %q, want %q", log.failed, want)
	}
	if !strings.HasPrefix(log.message(), "Cannot build '"+drv("b-1.0")) {
		t.Errorf("the message is %q", log.message())
	}
}
