package matrix

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/discover"
)

// drv is a derivation with outputs named NAME-OUTPUT.
func drv(name string, outputs ...string) discover.Derivation {
	d := discover.Derivation{DrvPath: "/s/" + name + ".drv", Outputs: map[string]string{}}
	for _, o := range outputs {
		d.Outputs[o] = "/s/" + name + "-" + o
	}
	return d
}

func output(attr, system string, d discover.Derivation, needs ...discover.Derivation) discover.Output {
	a := discover.Attr(strings.Split(attr, "."))
	return discover.Output{Attr: a, Kind: discover.Kind(a[0]), System: system, Derivation: d, Needs: needs}
}

func names(groups [][]*discover.Output) (all []string) {
	for _, g := range groups {
		var ns []string
		for _, o := range g {
			ns = append(ns, o.Attr[len(o.Attr)-1])
		}
		all = append(all, strings.Join(ns, " "))
	}
	return all
}

func everything(string) bool { return true }

func TestGroup(t *testing.T) {
	t.Parallel()
	app := output("apps.x.app", "x", drv("a", "out"))
	outputs := []discover.Output{
		app,
		output("packages.x.default", "x", drv("d", "out")),
		output("packages.x.dev", "x", drv("a", "dev")), // the same derivation
		output("packages.x.lone", "x", drv("l", "out"), drv("common", "out")),
		output("packages.x.other", "x", drv("d", "out"), drv("common", "out")),
		output("packages.x.shell", "x", drv("s", "out"), drv("a", "out"), drv("d", "out")), // joins two groups
		{Attr: discover.Attr{"apps", "x", "script"}, Sources: []string{"/s/source"}},
		{Attr: discover.Attr{"apps", "x", "script2"}, Sources: []string{"/s/source"}},
	}
	if got, want := names(group(outputs[:5], everything)), []string{"app dev", "default lone other"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := names(group(outputs, everything)), []string{"app default dev lone other shell", "script script2"}; !slices.Equal(got, want) {
		t.Errorf("with a shell: got %q, want %q", got, want)
	}
	// what is there already binds nothing together
	missing := func(path string) bool { return path != "/s/common-out" && path != "/s/a-out" }
	if got, want := names(group(outputs[:5], missing)), []string{"app", "default other", "dev", "lone"}; !slices.Equal(got, want) {
		t.Errorf("with paths that are there: got %q, want %q", got, want)
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	var outputs []discover.Output
	add := func(system string, n int) {
		for i := range n {
			name := fmt.Sprintf("p%02d", i)
			outputs = append(outputs, output("packages."+system+"."+name, system, drv(system+name, "out")))
		}
	}
	add("aarch64-linux", 3)
	add("x86_64-linux", 27)
	jobs := func(most int, outputs []discover.Output) (*Matrix, error) {
		return Plan(outputs, everything, Options{Jobs: most, Runners: DefaultRunners(), Systems: []string{"x86_64-linux", "aarch64-linux"}, Series: "matrix&"})
	}
	for most, want := range map[int]string{
		256: "3 of 1, 27 of 1",
		30:  "3 of 1, 27 of 1",
		20:  "2 of 1 to 2, 18 of 1 to 2",
		3:   "1 of 3, 2 of 13 to 14",
		2:   "1 of 3, 1 of 27",
	} {
		m, err := jobs(most, outputs)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		sizes := map[string][]int{}
		for _, j := range m.Include {
			list := Lines(j.Outputs)
			if len(j.Members()) != len(list) {
				t.Errorf("%d jobs: got %d members of %d outputs", most, len(j.Members()), len(list))
			}
			sizes[j.System] = append(sizes[j.System], len(list))
			for _, o := range list {
				if !strings.HasPrefix(o, "packages."+j.System+".") || j.Runner != DefaultRunners()[j.System] {
					t.Errorf("%d jobs: %s is in the job %+v", most, o, j)
				}
			}
			all = append(all, list...)
			if j.Systems != "x86_64-linux\naarch64-linux" || j.Series != "matrix&" {
				t.Errorf("%d jobs: got the job %+v", most, j)
			}
		}
		text := func(s []int) string {
			if lo, hi := slices.Min(s), slices.Max(s); lo != hi {
				return fmt.Sprintf("%d of %d to %d", len(s), lo, hi)
			}
			return fmt.Sprintf("%d of %d", len(s), s[0])
		}
		if got := text(sizes["aarch64-linux"]) + ", " + text(sizes["x86_64-linux"]); got != want {
			t.Errorf("%d jobs: got %s, want %s", most, got, want)
		}
		if slices.Sort(all); len(all) != len(outputs) || len(slices.Compact(all)) != len(outputs) {
			t.Errorf("%d jobs: got %d outputs, want each of %d once", most, len(all), len(outputs))
		}
		again, err := jobs(most, outputs)
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Errorf("%d jobs: the second time got %+v, %v", most, again, err)
		}
	}
	if m, err := jobs(20, nil); err != nil || m.Include == nil || len(m.Include) != 0 {
		t.Errorf("nothing to build: got %+v, %v", m, err)
	}
	if _, err := jobs(1, outputs); err == nil || !strings.Contains(err.Error(), "2 systems") {
		t.Errorf("one job for two systems: got %v", err)
	}
	other := append(slices.Clone(outputs), output("nixosConfigurations.host", "mips-linux", drv("h", "out")))
	if _, err := Plan(other[len(other)-1:], everything, Options{Jobs: 20, Runners: DefaultRunners(), Systems: []string{"mips-linux"}}); err == nil || !strings.Contains(err.Error(), "no runner is known for the system mips-linux") {
		t.Errorf("a system without a runner: got %v", err)
	}
	var many []discover.Output
	for i := range 5000 {
		name := fmt.Sprintf("%s%d", strings.Repeat("x", 100), i)
		many = append(many, output("packages.x86_64-linux."+name, "x86_64-linux", drv(name, "out")))
	}
	if _, err := jobs(1, many); err == nil || !strings.Contains(err.Error(), "more than a runner can hand on") {
		t.Errorf("a job that is too long: got %v", err)
	}
	if _, err := jobs(256, many); err == nil || !strings.Contains(err.Error(), "more than a job can hand on") {
		t.Errorf("a matrix that is too long: got %v", err)
	}
}

// Whatever there is, lists differ in length by the largest group at most.
func TestDeal(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 500 {
		var groups [][]*discover.Output
		n, largest := 0, 0
		for range 1 + r.IntN(40) {
			var g []*discover.Output
			for range 1 + r.IntN(3) {
				o := output(fmt.Sprintf("packages.x.p%d", n), "x", drv("d", "out"))
				g = append(g, &o)
				n++
			}
			largest = max(largest, len(g))
			groups = append(groups, g)
		}
		lists := deal(groups, 1+r.IntN(20))
		shortest, longest, sum := n, 0, 0
		for _, l := range lists {
			shortest, longest, sum = min(shortest, len(l)), max(longest, len(l)), sum+len(l)
		}
		if sum != n || shortest == 0 || longest > shortest+largest {
			t.Fatalf("seed %d: %d outputs in lists of %d to %d, all together %d", seed, n, shortest, longest, sum)
		}
	}
}

func TestHostSystem(t *testing.T) {
	t.Parallel()
	systems := []string{"aarch64-linux", "x86_64-linux"}
	for _, tc := range []struct{ attr, system, want string }{
		{"packages.x86_64-linux.a", "x86_64-linux", "x86_64-linux"},
		{"packages.x86_64-linux.cross", "aarch64-linux", "aarch64-linux"},
		{"packages.x86_64-linux.wine", "i686-linux", "x86_64-linux"},
		{"nixosConfigurations.old", "i686-linux", "x86_64-linux"},
		{"nixosConfigurations.arm", "aarch64-linux", "aarch64-linux"},
	} {
		o := output(tc.attr, tc.system, drv("d", "out"))
		if got := hostSystem(&o, systems); got != tc.want {
			t.Errorf("%s for %s: got %s, want %s", tc.attr, tc.system, got, tc.want)
		}
	}
}

// A job's name is one line that is not too long.
func TestJobName(t *testing.T) {
	t.Parallel()
	long := output("packages.x."+strings.Repeat("ü", 200), "x", drv("d", "out"))
	odd := output("packages.x.a\nb", "x", drv("d", "out"))
	for want, members := range map[string][]*discover.Output{
		`packages.x."a\nb" and 1 more`:                 {&odd, &long},
		`packages.x."` + strings.Repeat("ü", 87) + "…": {&long},
	} {
		if got := jobName(members); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// A job is read as a workflow hands it on, whatever other dimensions that has.
func TestParseJob(t *testing.T) {
	t.Parallel()
	x := output("packages.a.x y", "a", drv("d", "out"))
	m, err := Plan([]discover.Output{x}, everything, Options{Jobs: 1, Runners: map[string]string{"a": "r"}, Systems: []string{"a", "b"}, Series: "s"})
	if err != nil {
		t.Fatal(err)
	}
	text, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(strings.TrimSpace(string(text)), "[")
	got, err := ParseJob(strings.TrimSuffix(rest, "}]}") + `, "nix": [3]}`)
	if err != nil {
		t.Fatal(err)
	}
	want := m.Include[0]
	if want.members = nil; !reflect.DeepEqual(*got, want) || !slices.Equal(Lines(got.Systems), []string{"a", "b"}) || len(Lines(got.Outputs)) != 1 {
		t.Errorf("got %+v, want %+v", *got, want)
	}
	for _, bad := range []string{"", "plan", "[]", "{}", `{"outputs": "x", "systems": "a"}`, `{"outputs": "\n", "systems": "a", "series": "s"}`} {
		if j, err := ParseJob(bad); err == nil || !strings.Contains(err.Error(), "no job of a matrix") {
			t.Errorf("%s: got %+v, %v", bad, j, err)
		}
	}
}

// A job that is accepted is one that Plan could have made, written in JSON.
func FuzzParseJob(f *testing.F) {
	f.Add(`{"name":"a","system":"x86_64-linux","runner":"r","outputs":"packages.x.a\npackages.x.b","systems":"x86_64-linux","series":"matrix&","other":1}`)
	f.Add(`{"outputs":"\n","systems":"x","series":"s"}`)
	f.Fuzz(func(t *testing.T, text string) {
		j, err := ParseJob(text)
		if err != nil {
			return
		}
		raw, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseJob(string(raw))
		if err != nil || !reflect.DeepEqual(again, j) || j.Members() != nil || len(Lines(j.Outputs)) == 0 {
			t.Errorf("%q: got %+v, %v, want %+v", text, again, err, j)
		}
	})
}
