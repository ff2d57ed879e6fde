// Command bench measures publish, proxy and gc against what the machine itself
// can do, and against the registry read directly. Both sides of a comparison
// are taken in the same run, one after the other, so that their ratio means
// something on a machine that has other work too.
//
// It needs Nix and docker-registry, no network, and leaves nothing behind. It
// knows the commands by what they print; only the index of a large cache, which
// nobody wants to fill with real paths, is made through package index.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/cli"
)

func main() { cli.Main(run) }

type config struct {
	bin   string
	dir   string
	scale float64
	reps  int
	only  string
	quiet time.Duration
	json  bool
	doc   string
}

// parts are what can be measured by itself.
var parts = []struct {
	name    string
	measure func(context.Context, *bench) ([]section, error)
}{
	{"publish", publishCIRun},
	{"small", publishSmall},
	{"latency", latencies},
	{"flake", flakes},
	{"proxy", proxyCIRun},
	{"index", largeIndexes},
	{"gc", collections},
}

func run(ctx context.Context, args []string, _ func(string) string, _ io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 2 && args[0] == referenceCommand {
		if err := serveReference(ctx, args[1], stdout); err != nil {
			fmt.Fprintln(stderr, "error:", err)
			return cli.ExitFailed
		}
		return cli.ExitDone
	}
	c, err := parseConfig(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return cli.ExitDone
	}
	if err != nil {
		fmt.Fprintln(stderr, "error:", err)
		return cli.ExitUsage
	}
	if err := measure(ctx, c, stdout, stderr); err != nil {
		fmt.Fprintln(stderr, "error:", err)
		return cli.ExitFailed
	}
	return cli.ExitDone
}

func parseConfig(args []string, stderr io.Writer) (config, error) {
	var c config
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&c.bin, "bin", "bin", "`DIR` with the program")
	f.StringVar(&c.dir, "dir", "", "`DIR` for stores and registries, about 3 GB (default: the system's temporary directory)")
	f.Float64Var(&c.scale, "scale", 1, "`FACTOR` for the number of paths, bytes and entries; 0.05 takes half a minute")
	f.IntVar(&c.reps, "reps", 3, "`NUMBER` of repetitions")
	f.StringVar(&c.only, "only", "", "`PARTS` to measure, of "+strings.Join(names, ",")+" (default: all)")
	f.DurationVar(&c.quiet, "quiet", 0, "the longest `TIME` to wait before each repetition until the machine has nothing else to do")
	f.BoolVar(&c.json, "json", false, "print JSON")
	f.StringVar(&c.doc, "doc", "", "`FILE` whose part between the bench marks is replaced by the result, as in docs/performance.md; with -only, those sections of it")
	if err := f.Parse(args); err != nil {
		return c, err
	}
	if f.NArg() > 0 || c.scale <= 0 || c.scale > 10 || c.reps < 1 {
		return c, errors.New("no arguments; -scale between 0 and 10, -reps at least 1")
	}
	for _, p := range c.parts() {
		if !slices.Contains(names, p) {
			return c, fmt.Errorf("-only %q is none of %s", p, strings.Join(names, ", "))
		}
	}
	return c, nil
}

func (c config) parts() []string {
	if c.only == "" {
		return nil
	}
	return strings.Split(c.only, ",")
}

// bench is one run.
type bench struct {
	config
	program string
	jobs    int // paths at a time, as publish has it by default
	stderr  io.Writer
}

func (b *bench) log(format string, args ...any) {
	fmt.Fprintf(b.stderr, "bench: "+format+"\n", args...)
}

// scaled is n paths, bytes or entries at the chosen scale, at least least.
func (b *bench) scaled(n, least int) int { return max(least, int(float64(n)*b.scale)) }

// work makes a directory for one measurement, and tells how to remove it.
func (b *bench) work(name string) (string, func(), error) {
	dir, err := os.MkdirTemp(b.dir, "bench-"+name+"-")
	if err != nil {
		return "", nil, err
	}
	dir, err = filepath.EvalSymlinks(dir) // Nix refuses a store behind a link
	return dir, func() { _ = os.RemoveAll(dir) }, err
}

func measure(ctx context.Context, c config, stdout, stderr io.Writer) error {
	bin, err := filepath.Abs(c.bin)
	if err != nil {
		return err
	}
	b := &bench{
		config: c, program: filepath.Join(bin, "nixoci"),
		jobs: max(4, 2*runtime.GOMAXPROCS(0)), stderr: stderr,
	}
	start := time.Now()
	r := result{Machine: describeMachine(ctx), Scale: c.scale, Repetitions: c.reps}
	for _, p := range parts {
		if only := c.parts(); only != nil && !slices.Contains(only, p.name) {
			continue
		}
		sections, err := p.measure(ctx, b)
		if err != nil {
			return fmt.Errorf("measuring %s: %w", p.name, err)
		}
		r.Sections = append(r.Sections, sections...)
	}
	r.Seconds = time.Since(start).Seconds()
	if c.doc != "" {
		if err := updateDoc(c.doc, r, c.only != ""); err != nil {
			return err
		}
	}
	text := r.markdown()
	if c.json {
		j, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		text = string(j) + "\n"
	}
	_, err = io.WriteString(stdout, text)
	return err
}
