package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/internal/ui"
)

var noon = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

func store(name string) storepath.Path {
	return storepath.Path{Dir: storepath.DefaultDir, HashPart: strings.Repeat("a", storepath.HashPartLen), Name: name}
}

func retired(tag string, ago time.Duration) format.Retired {
	return format.Retired{Tag: tag, Manifest: v1.Hash{Algorithm: "sha256", Hex: tag}, Since: noon.Add(-ago)}
}

func planned(name, reason string, keep bool, size int64, days int) collect.PlannedPath {
	return collect.PlannedPath{Path: store(name), NarSize: 3 * size, FileSize: size, Added: noon.Add(-time.Duration(days) * day), Keep: keep, Reason: reason}
}

func examplePlan() *collect.Plan {
	pin := func(days int) format.Publication {
		return format.Publication{Time: noon.Add(-time.Duration(days) * day), Pin: "production", Roots: []format.Root{{Path: "x"}}}
	}
	return &collect.Plan{
		Verdicts: []collect.Verdict{
			{Publication: format.Publication{Time: noon.Add(-90 * day), Ref: "refs/heads/main", Pin: "production"}, Reason: "main, replaced 2026-10-01", Until: noon.Add(-30 * day)},
			{Publication: pin(80), Keep: true, Reason: "pin production, 2nd newest", Pinned: true},
			{Publication: pin(40), Keep: true, Reason: "pin production", Pinned: true},
			{Publication: format.Publication{Time: noon, Ref: "refs/heads/main"}, Keep: true, Reason: "newest of main"},
		},
		Paths: []collect.PlannedPath{
			planned("hello-2.12.1", "main, replaced 2026-10-01", false, 10_000_000, 90),
			planned("jq-1.7", "in no publication, added more than 30 days ago", false, 2_000, 1),
			planned("linux-6.12", "newest of main", true, 80_000_000, 20),
			planned("glibc-2.40", "pin production", true, 30_000_000, 20),
			planned("bash-5.2", "newest of main", true, 1_000_000, 20),
		},
		Kept: index.Total{Paths: 3, NarSize: 333_000_000, FileSize: 111_000_000}, Removed: index.Total{Paths: 2, NarSize: 30_006_000, FileSize: 10_002_000},
		Freed: 10_000_000, Rewritten: make([]format.SegmentInfo, 3), Written: 1,
		Deletable: []format.Retired{retired("a", 50*time.Hour)}, Waiting: []format.Retired{retired("b", 3*time.Hour), retired("c", time.Hour), retired("d", 2*time.Hour)},
	}
}

func exampleReport() *GC {
	r := NewGC("ghcr.io/o/r/nix-cache", false, noon, 24*time.Hour)
	r.Plan(examplePlan())
	return r
}

func TestGCPlanText(t *testing.T) {
	t.Parallel()
	r := exampleReport()
	want := `to remove: 2 of 5 paths, 10.0 MB compressed
   size   age  path                                           reason
10.0 MB  90 d  aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-hello-2.12.1  main, replaced 2026-10-01
 2.0 kB  24 h  aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-jq-1.7        in no publication, added more than 30 days ago

to keep: 3 paths, 111 MB compressed
   size    paths  reason
81.0 MB  2 paths  newest of main
30.0 MB   1 path  pin production

to free: 10.0 MB
index: 3 segments to be replaced by 1
replaced earlier: 1 manifest to be deleted now
replaced lately: 3 manifests to be deleted from 2026-12-02 11:00 UTC on
pins: production (2 publications, newest 2026-10-22)
cache: ghcr.io/o/r/nix-cache
`
	if got := r.PlanText(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}

	r = NewGC("oci:/c", false, noon, 0)
	r.Plan(&collect.Plan{})
	want = `to remove: 0 of 0 paths, 0 B compressed

to keep: 0 paths, 0 B compressed

to free: 0 B
cache: oci:/c
`
	if got := r.PlanText(); got != want {
		t.Errorf("an empty plan: got\n%s\nwant\n%s", got, want)
	}
}

func TestGCPlanTextIsBounded(t *testing.T) {
	t.Parallel()
	p := &collect.Plan{}
	for i := range 1000 {
		p.Paths = append(p.Paths, planned(fmt.Sprint("x", i), "line one\nline two", false, 1, 1))
		p.Removed.Paths++
	}
	for i := range 60 {
		p.Paths = append(p.Paths, planned(fmt.Sprint("y", i), fmt.Sprint("reason ", i), true, 1, 1))
		p.Kept.Paths++
	}
	r := NewGC("oci:/c", false, noon, 0)
	r.Plan(p)
	text := r.PlanText()
	if n := strings.Count(text, "\n"); n > 115 || !strings.Contains(text, "and 950 more, see --json\n") || !strings.Contains(text, "and 10 more, see --json\n") {
		t.Errorf("got %d lines:\n%s", n, text)
	}
	if !strings.Contains(text, "line one line two\n") {
		t.Error("a reason takes two lines")
	}
	if len(r.Paths) != 1060 {
		t.Errorf("got %d paths in the report", len(r.Paths))
	}
}

func TestGCText(t *testing.T) {
	t.Parallel()
	r := exampleReport()
	r.Collected(collect.Collected{
		Removed: index.Total{Paths: 2, NarSize: 30_006_000, FileSize: 10_002_000}, Rewritten: 3, Segments: []format.SegmentInfo{{Tag: "segment-x"}}, Repacked: 5_000_000,
		Deleted: 1, Waiting: []format.Retired{retired("e", 0), retired("b", 3*time.Hour)}, Freed: registry.Freed{Blobs: 4, Bytes: 2_500_000},
	})
	if err := r.Failure(nil); err != nil {
		t.Errorf("got %v", err)
	}
	r.Finish([]Stage{{Name: "read", Seconds: 0.26}, {Name: "collect", Seconds: 3}}, nil)
	want := `summary
         paths  NAR size  compressed
removed      2   30.0 MB     10.0 MB
kept         3    333 MB      111 MB
index: 3 segments replaced by 1, 5.0 MB copied into new packs
deleted: 1 manifest
waiting: 2 manifests, to be deleted by a gc after 2026-12-02 12:00 UTC
to free then: 10.0 MB
freed: 4 blobs, 2.5 MB
pins: production (2 publications, newest 2026-10-22)
time: read 0.3 s, collect 3.0 s
cache: ghcr.io/o/r/nix-cache`
	if got := r.Text(); got != want || r.Status != "done" {
		t.Errorf("got %s and\n%s\nwant\n%s", r.Status, got, want)
	}
}

// However many manifests are refused, each reason is said once, with what to
// do about it.
func TestRefusals(t *testing.T) {
	t.Parallel()
	denied := &registry.RefusedError{All: true, Reason: "the token may not delete", Remedy: "use a classic token", Err: errors.New("403")}
	var c collect.Collected
	for i := range 40 {
		c.Refused = append(c.Refused, collect.Refusal{Retired: retired(fmt.Sprint(i), 0), Err: fmt.Errorf("deleting: %w", denied)})
	}
	c.Refused = append(c.Refused, collect.Refusal{Retired: retired("x", 0), Err: hint.Wrap(errors.New("down"), "later?")})
	c.Rewritten = 1
	c.Lost = []format.Entry{{Path: store("b")}, {Path: store("a")}}

	r := exampleReport()
	r.Collected(c)
	err := r.Failure(nil)
	r.Finish(nil, err)
	var stderr bytes.Buffer
	ui.New(&stderr, func(string) string { return "" }).Error(err)
	if !IsPartly(err) || r.Status != Partly {
		t.Errorf("got %v and the status %q, want %q", err, r.Status, Partly)
	}
	want := `error: the registry does not delete 40 manifests that nothing needs: the token may not delete
error: the registry does not delete 1 manifest that nothing needs: down
error: the registry has lost 2 paths, or what they refer to: /nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-a, /nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-b
hint: use a classic token
hint: later?
hint: publish again what is still wanted; does something else clean up in this repository?
`
	if stderr.String() != want {
		t.Errorf("got\n%s\nwant\n%s", stderr.String(), want)
	}
	for _, part := range []string{"refused: 41 manifests stay in the registry", "The index is pruned"} {
		if !strings.Contains(r.Text(), part) {
			t.Errorf("the summary has no %q:\n%s", part, r.Text())
		}
	}
	r.Result.Deleted = 1
	if strings.Contains(r.Text(), "The index is pruned") {
		t.Errorf("something was deleted:\n%s", r.Text())
	}
	if len(r.Result.Refused) != 2 || len(r.Result.Refused[0].Manifests) != 40 {
		t.Errorf("got %+v", r.Result.Refused)
	}
}

func TestGCStatus(t *testing.T) {
	t.Parallel()
	down := errors.New("down")
	for _, tc := range []struct {
		name   string
		c      collect.Collected
		err    error
		failed bool
		status Status
	}{
		{"done", collect.Collected{Rewritten: 1}, nil, false, Done},
		{"waiting only", collect.Collected{Waiting: []format.Retired{retired("a", 0)}}, nil, false, Done},
		{"nothing done", collect.Collected{}, down, true, Failed},
		{"failed after the index", collect.Collected{Rewritten: 1}, down, true, Partly},
		{"failed while deleting", collect.Collected{Deleted: 1}, down, true, Partly},
		{"refused", collect.Collected{Refused: []collect.Refusal{{Err: down}}}, nil, true, Partly},
		{"lost", collect.Collected{Lost: []format.Entry{{Path: store("a")}}}, nil, true, Partly},
	} {
		r := exampleReport()
		r.Collected(tc.c)
		err := r.Failure(tc.err)
		r.Finish(nil, err)
		if (err != nil) != tc.failed || IsPartly(err) != (tc.status == Partly) || r.Status != tc.status {
			t.Errorf("%s: got %v, %s, want %s", tc.name, err, r.Status, tc.status)
		}
	}
}

// The names in the JSON are an interface.
func TestGCJSON(t *testing.T) {
	t.Parallel()
	r := exampleReport()
	r.Unknown = []Unknown{{"packages.x", "evaluation error", "oh"}}
	r.Collected(collect.Collected{Waiting: []format.Retired{retired("e", 0)}, Refused: []collect.Refusal{{Retired: retired("f", 0), Err: errors.New("no")}}})
	r.Finish([]Stage{}, r.Failure(nil))
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(r); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]any{
		"status": "partly", "cache": "ghcr.io/o/r/nix-cache", "dryRun": false, "unknown.0.attr": "packages.x",
		"kept.paths": 3.0, "removed.fileSize": 10_002_000.0, "reasons.0.reason": "newest of main", "reasons.0.keep": true, "reasons.0.paths": 2.0,
		"paths.0.path": store("hello-2.12.1").String(), "paths.0.keep": false, "paths.0.added": "2026-09-02T12:00:00Z", "paths.4.narSize": 3_000_000.0,
		"publications.0.until": "2026-11-01T12:00:00Z", "publications.1.until": nil, "publications.1.roots": 1.0, "publications.3.ref": "refs/heads/main",
		"pins.0.name": "production", "pins.0.publications": 2.0, "pins.0.newest": "2026-10-22T12:00:00Z",
		"freedSize": 10_000_000.0, "rewritten": 3.0, "written": 1.0, "deletable.0.manifest": "sha256:a", "deletable.0.until": nil, "waiting.0.until": "2026-12-02T09:00:00Z",
		"result.kept.paths": 5.0, "result.waiting": 1.0, "result.waitingUntil": "2026-12-02T12:00:00Z", "result.freed.blobs": 0.0,
		"result.refused.0.reason": "no", "result.refused.0.manifests.0": "sha256:f",
	} {
		if v := at(got, path); !reflect.DeepEqual(v, want) {
			t.Errorf("%s: got %v, want %v", path, v, want)
		}
	}
	var empty bytes.Buffer
	none := NewGC("oci:/c", false, noon, 0)
	none.Finish([]Stage{}, nil)
	if err := json.NewEncoder(&empty).Encode(none); err != nil || strings.Contains(empty.String(), "null") {
		t.Errorf("got %v and lists that are null:\n%s", err, empty.String())
	}
}

// at looks up a value by the names and numbers on the way to it.
func at(v any, path string) any {
	for step := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[step]
		case []any:
			var i int
			if _, err := fmt.Sscan(step, &i); err != nil || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}
