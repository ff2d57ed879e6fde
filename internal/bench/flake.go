package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/report"
)

// flakeBench has what the measurements of a flake need.
type flakeBench struct {
	*bench
	store *store
	dir   string
	salt  int
}

// flakes measures what publish does with a flake: evaluating, and building while
// it uploads.
func flakes(ctx context.Context, b *bench) ([]section, error) {
	dir, remove, err := b.work("flake")
	if err != nil {
		return nil, err
	}
	defer remove()
	st, err := newStore(dir)
	if err != nil {
		return nil, err
	}
	f := &flakeBench{bench: b, store: st, dir: dir}
	evaluation := section{Title: "flakes: evaluation", About: "Publishing in a dry run, with one process and with as many as publish chooses."}
	building := section{Title: "flakes: building", About: "Two builds at a time; the registry is on the same machine."}
	for rep := range b.reps {
		b.log("flakes: repetition %d of %d", rep+1, b.reps)
		if err := b.waitQuiet(ctx); err != nil {
			return nil, err
		}
		for _, measure := range []func(context.Context, *section) error{f.configurations, f.packages, f.aborts, f.shell} {
			if err := measure(ctx, &evaluation); err != nil {
				return nil, err
			}
		}
		for _, measure := range []func(context.Context, *section) error{f.tail, f.beside} {
			if err := measure(ctx, &building); err != nil {
				return nil, err
			}
		}
	}
	return []section{evaluation, building}, nil
}

// flakeLib makes derivations, and numbers that take a while. Its salt makes all of
// them new.
const flakeLib = `{ outputs = { self }: let
  salt = "%d";
  mk = name: more: derivation ({ inherit name salt; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-ec" "export PATH=/usr/bin:/bin\necho $name > $out" ]; } // more);
  slow = n: toString (builtins.foldl' (a: b: a + b) 0 (builtins.genList (x: x * 3) n));
  many = n: f: builtins.listToAttrs (builtins.genList (i: { name = "p${toString i}"; value = f i; }) n);
in { %s }; }
`

// flake writes a flake and returns its reference.
func (f *flakeBench) flake(outputs string, args ...any) (string, error) {
	f.salt++
	dir := filepath.Join(f.dir, "flake"+strconv.Itoa(f.salt))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	text := fmt.Sprintf(flakeLib, f.salt, fmt.Sprintf(outputs, args...))
	return "path:" + dir, os.WriteFile(filepath.Join(dir, "flake.nix"), []byte(text), 0o600)
}

// publish publishes a flake, of which so many outputs must be found.
func (f *flakeBench) publish(ctx context.Context, ref string, outputs int, args ...string) (finished, error) {
	args = append([]string{"publish", "--flake", ref, "--upstream", "none", "--cache-dir", filepath.Join(f.dir, "cache"), "--json"}, args...)
	done, err := execute(ctx, f.store.env, "", f.program, args...)
	var r report.Publish
	if jerr := json.Unmarshal(done.stdout, &r); jerr != nil {
		return done, fmt.Errorf("decoding publish's result: %w, after %w", jerr, err)
	}
	n := 0
	for _, o := range r.Outputs {
		if o.Status != report.OutputFailed {
			n++
		}
	}
	if n != outputs {
		return done, fmt.Errorf("publish found %s, want %d: %w", ui.Count(n, "output"), outputs, err)
	}
	return done, nil
}

// compareJobs compares evaluation in as many processes as publish chooses with one.
func (f *flakeBench) compareJobs(ctx context.Context, s *section, name, ref string, outputs int) error {
	one, err := f.publish(ctx, ref, outputs, "--dry-run", "--eval-jobs", "1")
	if err != nil {
		return err
	}
	all, err := f.publish(ctx, ref, outputs, "--dry-run")
	if err != nil {
		return err
	}
	s.add(name+", one process", "s", one.wall.Seconds())
	s.add(name, "s", all.wall.Seconds())
	s.add(name+" / one process", "", all.wall.Seconds()/one.wall.Seconds())
	return nil
}

func (f *flakeBench) configurations(ctx context.Context, s *section) error {
	n := f.scaled(12, 2)
	ref, err := f.flake(`nixosConfigurations = many %d (i: { config.system.build.toplevel = mk "system" { x = slow (%d + i); }; });`, n, f.scaled(3_000_000, 100_000))
	if err != nil {
		return err
	}
	return f.compareJobs(ctx, s, ui.Count(n, "heavy configuration"), ref, n)
}

func (f *flakeBench) packages(ctx context.Context, s *section) error {
	n := f.scaled(400, 20)
	ref, err := f.flake(`packages.x86_64-linux = let shared = slow %d; in many %d (i: mk "p${toString i}" { inherit shared; x = slow (4000 + i); });`, f.scaled(4_000_000, 100_000), n)
	if err != nil {
		return err
	}
	return f.compareJobs(ctx, s, ui.Count(n, "package")+" of one set", ref, n)
}

func (f *flakeBench) aborts(ctx context.Context, s *section) error {
	n := f.scaled(500, 20)
	const text = `packages.x86_64-linux = let shared = slow %d; in many %d (i: mk "p${toString i}" { inherit shared; x = slow (4000 + i); }) // (if %v then many 4 (i: abort "by hand") else { });`
	work := f.scaled(2_000_000, 100_000)
	good, err := f.flake(text, work, n, false)
	if err != nil {
		return err
	}
	bad, err := f.flake(text, work, n, true)
	if err != nil {
		return err
	}
	without, err := f.publish(ctx, good, n, "--dry-run")
	if err != nil {
		return err
	}
	with, err := f.publish(ctx, bad, n-4, "--dry-run")
	if err != nil {
		return err
	}
	s.add(ui.Count(n, "package"), "s", without.wall.Seconds())
	s.add("four of them abort", "s", with.wall.Seconds())
	s.add("four abort / none does", "", with.wall.Seconds()/without.wall.Seconds())
	return nil
}

func (f *flakeBench) shell(ctx context.Context, s *section) error {
	n := f.scaled(600, 20)
	ref, err := f.flake(`devShells.x86_64-linux.default = mk "shell" { inputs = map (i: mk "i${toString i}" { x = slow (4000 + i); }) (builtins.genList (i: i) %d); };`, n)
	if err != nil {
		return err
	}
	eval, err := execute(ctx, f.store.env, "", "nix", "eval", "--raw", ref+"#devShells.x86_64-linux.default.drvPath")
	if err != nil {
		return err
	}
	if ref, err = f.flake(`devShells.x86_64-linux.default = mk "shell" { inputs = map (i: mk "i${toString i}" { x = slow (4000 + i); }) (builtins.genList (i: i) %d); };`, n); err != nil {
		return err
	}
	publish, err := f.publish(ctx, ref, 1, "--dry-run")
	if err != nil {
		return err
	}
	name := "a shell with " + ui.Count(n, "input")
	s.add(name+", nix eval of its derivation", "s", eval.wall.Seconds())
	s.add(name, "s", publish.wall.Seconds())
	s.add(name+" / nix eval", "", publish.wall.Seconds()/eval.wall.Seconds())
	return nil
}

// tail measures how long publish goes on when the last build has ended.
func (f *flakeBench) tail(ctx context.Context, s *section) error {
	d, err := startDistribution(ctx, f.dir)
	if err != nil {
		return err
	}
	defer d.stop()
	n := f.scaled(60, 4)
	last := filepath.Join(f.dir, "last")
	ref, err := f.flake(`packages.x86_64-linux = let others = many %d (i: mk "p${toString i}" { args = [ "-ec" "export PATH=/usr/bin:/bin\nhead -c 20000000 /dev/urandom > $out; sleep 0.5" ]; }); in others // {
		last = mk "last" { others = builtins.attrValues others; args = [ "-ec" "export PATH=/usr/bin:/bin\necho > $out; date +%%s.%%N > %s" ]; }; };`, n-1, last)
	if err != nil {
		return err
	}
	if _, err := f.publish(ctx, ref, n, "--cache", d.cache("tail"+strconv.Itoa(f.salt))); err != nil {
		return err
	}
	end := time.Now()
	text, err := os.ReadFile(last)
	if err != nil {
		return err
	}
	at, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
	if err != nil {
		return err
	}
	s.add(ui.Count(n, "output")+" of 20 MB, the last one small: from the end of the last build to that of publish", "s", float64(end.UnixNano())/1e9-at)
	return nil
}

// beside measures what uploads cost the builds: of each build some cores are
// busy all the time.
func (f *flakeBench) beside(ctx context.Context, s *section) error {
	n := f.scaled(16, 4)
	marks := filepath.Join(f.dir, "marks")
	build := func(args ...string) (float64, error) {
		_ = os.Remove(marks)
		ref, err := f.flake(`packages.x86_64-linux = many %d (i: mk "p${toString i}" { args = [ "-ec" "export PATH=/usr/bin:/bin\ndate +%%s.%%N >> %s; head -c 5000000 /dev/urandom | od -An -tx1 > $out; for i in 1 2 3 4 5; do head -c 100000000 /dev/zero | sha256sum > /dev/null; done; date +%%s.%%N >> %[2]s" ]; });`, n, marks)
		if err != nil {
			return 0, err
		}
		if _, err := f.publish(ctx, ref, n, append(args, "--cache", "oci:"+filepath.Join(f.dir, "layout"+strconv.Itoa(f.salt)))...); err != nil {
			return 0, err
		}
		text, err := os.ReadFile(marks)
		if err != nil {
			return 0, err
		}
		first, last := 0.0, 0.0
		for word := range strings.FieldsSeq(string(text)) {
			at, err := strconv.ParseFloat(word, 64)
			if err != nil {
				return 0, err
			}
			if first == 0 || at < first {
				first = at
			}
			last = max(last, at)
		}
		return last - first, nil
	}
	without, err := build("--build-only")
	if err != nil {
		return err
	}
	with, err := build()
	if err != nil {
		return err
	}
	s.add("builds that keep all cores busy, without uploads", "s", without)
	s.add("the same, with uploads", "s", with)
	s.add("with uploads / without", "", with/without)
	return nil
}
