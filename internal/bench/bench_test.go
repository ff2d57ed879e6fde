package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/registrytest"
)

// The whole of it at a hundredth of its size: every comparison must hold, every
// figure be there.
func TestRun(t *testing.T) {
	for _, program := range []string{"nix-store", registryProgram, "go"} {
		if _, err := exec.LookPath(program); err != nil {
			registrytest.Missing(t, program+" is not installed")
		}
	}
	bin := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", bin+"/", "../../cmd/nixoci").CombinedOutput(); err != nil {
		t.Fatalf("building the commands: %v\n%s", err, out)
	}
	work := t.TempDir()
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), []string{"-bin", bin, "-dir", work, "-scale", "0.01", "-reps", "1", "-json"}, os.Getenv, nil, &stdout, &stderr)
	if status != cli.ExitDone {
		t.Fatalf("got status %d\n%s", status, &stderr)
	}
	var r result
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Sections) != 13 {
		t.Errorf("got %d sections, want 13", len(r.Sections))
	}
	want := map[string]float64{ // counts, the same on every machine
		"poll, nothing new: requests":    1,
		"poll, nothing new: received":    0, // HEAD
		"poll after ten paths: requests": 4,
		"before: requests":               4, // HEAD of the root, root, list, entries
		"after: requests":                4,
		"100 entries: requests for that": 4, // ping, root, list, entries
	}
	for _, s := range r.Sections {
		for _, f := range s.Rows {
			if n, ok := want[f.Name]; ok && f.Median != n {
				t.Errorf("%s: got %v, want %v", f.Name, f.Median, n)
			} else if !ok && f.Median <= 0 && !strings.HasSuffix(f.Name, "round trips") { // a difference, of tiny runs
				t.Errorf("%s, %s: got %v, want a positive number", s.Title, f.Name, f.Median)
			}
			delete(want, f.Name)
		}
	}
	if len(want) > 0 {
		t.Errorf("figures are missing: %v", want)
	}
	if left, _ := os.ReadDir(work); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestMain lets the test program play the reference server, which the
// benchmark starts as a second process of its own program.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == referenceCommand {
		if err := serveReference(context.Background(), os.Args[2], os.Stdout); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"-scale", "0"}, {"-scale", "11"}, {"-reps", "0"}, {"-only", "everything"}, {"x"}, {"-x"}} {
		var stderr bytes.Buffer
		if got := run(t.Context(), args, os.Getenv, nil, nil, &stderr); got != cli.ExitUsage {
			t.Errorf("%v: got status %d, want %d", args, got, cli.ExitUsage)
		}
	}
}

func TestTables(t *testing.T) {
	s := section{Title: "a", About: "b"}
	for _, v := range []float64{1234.4, 3, 2} {
		s.add("rate", "MB/s", v)
	}
	s.add("ratio", "", 0.5)
	r := result{Sections: []section{s}, Repetitions: 3}
	if got, want := r.markdown(), "\n| rate | 3 | MB/s | 2 | 1,234 |\n| ratio | 0.50 |  |  |  |\n"; !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want it to end with %q", got, want)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 7: "7", 1234567: "1,234,567", 345.6: "346", 99.96: "100", 34.56: "34.6", 9.999: "10.0", 0.5: "0.50", 0.01234: "0.012"} {
		if got := number(v); got != want {
			t.Errorf("number(%v): got %q, want %q", v, got, want)
		}
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("got median %v, want 2.5", got)
	}
}

func TestUpdateDoc(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.md")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	update := func(parts bool, sections ...section) string {
		t.Helper()
		if err := updateDoc(name, result{Sections: sections}, parts); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	write("head\n" + beginMark + "old\n" + endMark + "tail\n")
	one, two := section{Title: "one", About: "x"}, section{Title: "two", About: "y"}
	whole := update(false, one, two)
	text := result{Sections: []section{one, two}}.markdown()
	if want := "head\n" + beginMark + "\n" + text + "\n" + endMark + "tail\n"; whole != want {
		t.Errorf("got %q, want %q", whole, want)
	}
	// what was not measured again stays
	before, after, _ := strings.Cut(whole, "two\n\ny\n")
	got := update(true, section{Title: "two", About: "new"})
	if !strings.HasPrefix(got, before+"two\n\nnew\n\nMeasured") || !strings.HasSuffix(got, after) {
		t.Errorf("got %q", got)
	}
	if again := update(true, section{Title: "two", About: "new"}); again != got {
		t.Errorf("got %q, want %q", again, got)
	}
	if got := update(true, section{Title: "three"}); !strings.Contains(got, after[:len(after)-len("\n"+endMark+"tail\n")]+heading+"three\n") {
		t.Errorf("got %q", got)
	}
	write("no marks\n")
	if err := updateDoc(name, result{}, false); err == nil {
		t.Error("a document without marks was accepted")
	}
}

func TestSumMetric(t *testing.T) {
	const text = "# HELP a_total x\na_total{code=\"200\",le=\"+Inf\"} 3\na_total{code=\"404\"} 1e+01\na_total_more{x=\"y\"} 7\n"
	if got, err := sumMetric(text, "a_total"); err != nil || got != 13 {
		t.Errorf("got %d, %v; want 13", got, err)
	}
	for _, bad := range []string{"b", "a_total{x=\"y\"} many\n"} {
		if _, err := sumMetric(bad, "a_total"); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestLoad(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing" {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("0123456789"))
	}))
	defer s.Close()
	addr := strings.TrimPrefix(s.URL, "http://")
	all := []ask{{method: "GET", path: "/a"}, {method: "HEAD", path: "/a"}, {method: "GET", path: "/a", offset: 2, size: 3}}
	a, err := load{addr: addr, conns: 2, asks: all}.run(t.Context())
	if err != nil || len(a.times) != 3 || a.bytes != 13 {
		t.Errorf("got %d answers with %d bytes, %v; want 3 with 13", len(a.times), a.bytes, err)
	}
	a, err = load{addr: addr, conns: 2, asks: all, window: 50 * time.Millisecond}.run(t.Context())
	if err != nil || len(a.times) <= 3 || a.took < 50*time.Millisecond {
		t.Errorf("got %d answers in %v, %v; want many", len(a.times), a.took, err)
	}
	missing := []ask{{method: "GET", path: "/missing"}}
	if _, err := (load{addr: addr, conns: 1, asks: missing, status: 404}).run(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := (load{addr: addr, conns: 1, asks: missing}).run(t.Context()); err == nil {
		t.Error("404 was taken for 200")
	}
}

// What passes through a relay comes whole, in both directions, and no sooner than
// a round trip later.
func TestRelay(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	defer s.Close()
	const roundTrip = 20 * time.Millisecond
	r, err := startRelay(t.Context(), s.Listener.Addr().String(), roundTrip)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, size := range []int{1, 10 << 20} {
		sent := bytes.Repeat([]byte("x"), size)
		start := time.Now()
		resp, err := http.Post("http://"+r.addr, "text/plain", bytes.NewReader(sent))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !bytes.Equal(got, sent) || time.Since(start) < roundTrip {
			t.Errorf("%d bytes: got %d after %v, %v", size, len(got), time.Since(start), err)
		}
	}
}
