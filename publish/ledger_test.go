package publish

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/report"
	"github.com/org/nixoci-action/upload"
)

func TestSummary(t *testing.T) {
	r := &ledger{Publish: report.Publish{
		Cache: "ghcr.io/o/r/nix-cache", Closure: report.Total{Paths: 1234, NarSize: 5_600_000_000},
		Pin: "prod", PinKeep: 2,
		OnUpstream: report.Total{Paths: 1200, NarSize: 5_000_000_000}, InCache: report.Total{Paths: 30, NarSize: 500_000_000}, New: report.Total{Paths: 4, NarSize: 100_000_000},
	}}
	r.discovered([]discover.Skipped{
		{Attr: discover.Attr{"packages", "aarch64-linux"}, Reason: discover.OtherSystem},
		{Attr: discover.Attr{"packages", "x86_64-linux", "a.b"}, Reason: discover.EvaluationError, Message: "oh"},
	})
	err := r.built([]discover.Built{
		{Output: discover.Output{Attr: discover.Attr{"packages", "x86_64-linux", "good"}}, Valid: []string{"/nix/store/x"}},
		{Output: discover.Output{Attr: discover.Attr{"packages", "x86_64-linux", "bad"}}, Missing: []string{"/nix/store/y"}},
	}, "")
	if want := `2 outputs failed: packages.x86_64-linux."a.b" (evaluation error), packages.x86_64-linux.bad (build failed)`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	for i := range 4 {
		r.uploaded(upload.Result{Info: nix.PathInfo{Path: fmt.Sprint(i), NarSize: 25_000_000}, Sent: 10_000_000})
	}
	r.Finish([]report.Stage{{Name: "build", Seconds: 12.34}}, report.AsPartly(err))
	want := `outputs: 4 found, 1 built, 2 failed, 1 skipped
skipped (other system): packages.aarch64-linux
failed: packages.x86_64-linux."a.b": evaluation error: oh
failed: packages.x86_64-linux.bad: build failed
                      paths  NAR size
closure               1,234    5.6 GB
on upstream caches    1,200    5.0 GB
in the cache already     30    500 MB
uploaded                  4    100 MB  40.0 MB compressed (40 %)
pinned: prod (the newest 2 stay until gc --unpin prod)
time: build 12.3 s
cache: ghcr.io/o/r/nix-cache`
	if got := r.Text(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// A thousand paths that fail for one reason are one message and a number.
func TestFailuresAreSummarised(t *testing.T) {
	r := &ledger{}
	down := hint.Wrap(errors.New("registry x: down"), "is it running?")
	var fs []upload.Failure
	for i := range 1000 {
		fs = append(fs, upload.Failure{Path: fmt.Sprint(i), Err: down})
	}
	for i := range 9 {
		fs = append(fs, upload.Failure{Path: "c", Err: fmt.Errorf("path %d is corrupted", i)})
	}
	r.failed(fs)
	err := report.UnsentError(r.unsent)
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 6 || lines[0] != "registry x: down" || lines[5] != "1,009 paths not uploaded" {
		t.Errorf("got %d lines: %v", len(lines), lines)
	}
	if len(r.Failures) != 1009 {
		t.Errorf("got %d failures in the report", len(r.Failures))
	}
	if report.UnsentError(nil) != nil {
		t.Error("an error without failures")
	}
}

// What was taken over is counted over several times, and what was left out is
// named.
func TestAdoptedIsReported(t *testing.T) {
	entry := func(name string) format.Entry {
		return format.Entry{Path: storepath.Path{Dir: "/nix/store", HashPart: strings.Repeat("0", 32), Name: name}}
	}
	r := &ledger{Publish: report.Publish{Closure: report.Total{Paths: 1}}}
	if b, err := json.Marshal(&r.Publish); err != nil || strings.Contains(string(b), "adopted") {
		t.Errorf("nothing: got %s, %v", b, err)
	}
	r.adopted(index.Adopted{Total: index.Total{Paths: 2, NarSize: 1_000_000, FileSize: 3}, Lost: []format.Entry{entry("lost")}})
	r.adopted(index.Adopted{Total: index.Total{Paths: 1, NarSize: 1_000_000}, Incomplete: []format.Entry{entry("needs")}})
	if text := r.Text(); !strings.Contains(text, "taken over                3    2.0 MB  from nixcache-oci") {
		t.Errorf("got\n%s", text)
	}
	b, err := json.Marshal(&r.Publish)
	want := `"adopted":{"paths":3,"narSize":2000000,"fileSize":3,"lost":["/nix/store/00000000000000000000000000000000-lost"],"incomplete":["/nix/store/00000000000000000000000000000000-needs"]}`
	if err != nil || !strings.Contains(string(b), want) {
		t.Errorf("got %s, %v", b, err)
	}
}
