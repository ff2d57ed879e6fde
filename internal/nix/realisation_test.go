package nix

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/storepath"
)

func TestParseRealisations(t *testing.T) {
	const (
		id  = "sha256:916f78f647aa6c9428b9b0de0781b8a40ca768e7f5d8c010ebb5981866e3a110!out"
		dep = "sha256:e601b1a56e2016fdf808770055aada8e335928ff70c67a6ff7c13cf205499ff7!out"
		top = "c4gawc43zfkbrqj10kdk2sr1p501n287-top"
		lib = "k0bq3s4hdvxal217l04jr24n8jm5l29g-dep"
	)
	drv := storepath.Path{Dir: "/nix/store", HashPart: strings.Repeat("0", 32), Name: "top.drv"}
	of := func(id, drv, output, base string) Realisation {
		return Realisation{ID: id, Drv: drv, Output: output, Path: "/nix/store/" + base}
	}
	trace := func(drv, output, path string) string {
		return `{"key":{"drvPath":"` + drv + `","outputName":"` + output + `"},"value":{"outPath":"` + path + `","signatures":[]}}`
	}
	const (
		resolved = "wkh51r12dc10nzl5g0kgnbc02j119mvb-top.drv"
		libs     = "z5x6mwzprrrld5rn4mhc9kb8xs0g10lq-dep.drv"
		dev      = "a4gawc43zfkbrqj10kdk2sr1p501n287-top-dev"
		topsDev  = "y5x6mwzprrrld5rn4mhc9kb8xs0g10lq-top-dev.drv"
	)
	for name, tc := range map[string]struct {
		raw         string
		own, inputs []Realisation
	}{
		"2.8, 2.26": {`[{"dependentRealisations":{"` + dep + `":"` + lib + `"},"id":"` + id + `","outPath":"` + top + `","signatures":[]},{"opaquePath":"/nix/store/` + top + `"}]`,
			[]Realisation{of(id, "", "out", top)}, []Realisation{of(dep, "", "out", lib)}},
		"2.34": {`[{"dependentRealisations":{},"id":"` + id + `","outPath":"` + top + `","signatures":[]}]`,
			[]Realisation{of(id, "", "out", top)}, nil},
		// sorted by path, whichever comes first
		"2.35": {`[` + trace(resolved, "out", top) + `,` + trace(libs, "out", lib) + `,{"opaquePath":"/nix/store/` + top + `"}]`,
			[]Realisation{of("", resolved, "out", top)}, []Realisation{of("", libs, "out", lib)}},
		"2.35, an output for the same name": {`[` + trace(topsDev, "out", dev) + `,` + trace(resolved, "dev", dev) + `,` + trace(resolved, "out", top) + `,{"opaquePath":"/nix/store/` + dev + `"},{"opaquePath":"/nix/store/` + top + `"}]`,
			[]Realisation{of("", resolved, "dev", dev), of("", resolved, "out", top)}, []Realisation{of("", topsDev, "out", dev)}},
		"2.35, an input of the same name": {`[` + trace(libs, "out", dev[:32]+"-top") + `,` + trace(resolved, "out", top) + `,{"opaquePath":"/nix/store/` + top + `"}]`,
			[]Realisation{of("", resolved, "out", top)}, []Realisation{of("", libs, "out", dev[:32]+"-top")}},
		"nothing": {`[]`, nil, nil},
	} {
		own, inputs, err := parseRealisations([]byte(tc.raw), drv)
		if err != nil || !reflect.DeepEqual(own, tc.own) || !reflect.DeepEqual(inputs, tc.inputs) {
			t.Errorf("%s: got %+v and %+v, %v, want %+v and %+v", name, own, inputs, err, tc.own, tc.inputs)
		}
	}
	for _, bad := range []string{``, `{}`, `[{}]`, `[{"id":"` + id + `","outPath":"../x"}]`, `[{"id":"sha256:x!o ut","outPath":"` + top + `"}]`, `[{"id":"` + id + `","outPath":"` + top + `","dependentRealisations":{"x":"y"}}]`} {
		if own, inputs, err := parseRealisations([]byte(bad), drv); err == nil {
			t.Errorf("%s: got %+v and %+v", bad, own, inputs)
		}
	}
}

// What a content-addressed derivation has become is asked of Nix, and its log
// is read whole.
func TestRealisationsAndWholeLogs(t *testing.T) {
	t.Parallel()
	e := nixtest.New(t)
	for i, v := range e.Vars {
		if strings.HasPrefix(v, "NIX_CONFIG=") {
			e.Vars[i] += "extra-experimental-features = ca-derivations\n"
		}
	}
	c := New(Options{Env: e.Vars})
	file := filepath.Join(e.Dir, "ca.nix")
	text := `derivation { name = "ca"; system = "x86_64-linux"; builder = "/bin/sh"; outputs = [ "out" "dev" ]; args = [ "-c" "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); echo line $i; done; echo out > $out; echo dev > $dev" ];
		__contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; }`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	drv := e.Run(t, e.Dir, "nix-instantiate", file)
	if rs, _, err := c.Realisations(t.Context(), drv); err == nil {
		t.Errorf("before it is built: got %+v", rs)
	}
	if err := c.Realise(t.Context(), []string{drv + "!dev,out"}, RealiseOptions{}); err != nil {
		t.Fatal(err)
	}
	rs, inputs, err := c.Realisations(t.Context(), drv)
	if err != nil || len(rs) != 2 || len(inputs) != 0 {
		t.Fatalf("got %+v and %+v, %v", rs, inputs, err)
	}
	for _, r := range rs {
		if b, err := os.ReadFile(r.Path); err != nil || string(b) != r.Output+"\n" {
			t.Errorf("output %s is %q, %v", r.Output, b, err)
		}
	}

	var want bytes.Buffer
	for i := range 1000 {
		fmt.Fprintf(&want, "line %d\n", i+1)
	}
	if log, err := c.WholeLog(t.Context(), drv, 1<<20); err != nil || !bytes.Equal(log, want.Bytes()) {
		t.Errorf("got a log of %d bytes, %v, want %d", len(log), err, want.Len())
	}
	kept := ends{half: 1 << 20}
	if !c.logFile(drv, &kept) || !bytes.Equal(kept.bytes(), want.Bytes()) {
		t.Errorf("from its file: got %d bytes", len(kept.bytes()))
	}
	elsewhere := New(Options{Env: e.Vars})
	elsewhere.env = append(elsewhere.env, "NIX_LOG_DIR=") // the default's place, where it is not
	if elsewhere.logFile(drv, &ends{half: 10}) {
		t.Error("there is a log of this store in the system's place")
	}
	// as with compress-build-log = false
	dir := filepath.Join(e.Dir, "log", "drvs", filepath.Base(drv)[:2], filepath.Base(drv)[2:])
	plain := strings.TrimSuffix(drv, "-ca.drv") + "-plain.drv"
	if err := os.WriteFile(strings.TrimSuffix(dir, "-ca.drv")+"-plain.drv", want.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if log, err := c.WholeLog(t.Context(), plain, 1<<20); err != nil || !bytes.Equal(log, want.Bytes()) {
		t.Errorf("not compressed: got %d bytes, %v", len(log), err)
	}
	log, err := c.WholeLog(t.Context(), drv, 1000)
	notice := fmt.Sprintf("\n[… %d bytes of this log were left out …]\n", want.Len()-1000)
	if s := want.String(); err != nil || string(log) != s[:500]+notice+s[len(s)-500:] {
		t.Errorf("cut: got %q, %v", log, err)
	}
	if log, err := c.WholeLog(t.Context(), strings.Replace(drv, "-ca.drv", "-no.drv", 1), 1000); err == nil {
		t.Errorf("without a log: got %q", log)
	}
}

// The ends of what is written are the same in whatever pieces it comes.
func TestEnds(t *testing.T) {
	for size := range 100 {
		all := bytes.Repeat([]byte("0123456789"), 10)[:size]
		for piece := 1; piece < 40; piece += 3 {
			e := ends{half: 10}
			for at := 0; at < size; at += piece {
				_, _ = e.Write(all[at:min(at+piece, size)])
			}
			want := string(all)
			if size > 20 {
				want = string(all[:10]) + fmt.Sprintf("\n[… %d bytes of this log were left out …]\n", size-20) + string(all[size-10:])
			}
			if got := string(e.bytes()); got != want {
				t.Fatalf("%d bytes in pieces of %d: got %q, want %q", size, piece, got, want)
			}
		}
	}
}
