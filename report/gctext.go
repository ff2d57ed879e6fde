package report

import (
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/ui"
)

// maxRows bounds the tables of a plan.
const maxRows = 50

// PlanText is the plan of a dry run; "" if there is none.
func (r *GC) PlanText() string {
	if !r.planned {
		return ""
	}
	var b strings.Builder
	all := r.Kept.Paths + r.Removed.Paths
	fmt.Fprintf(&b, "to remove: %s of %s, %s compressed\n", ui.Number(r.Removed.Paths), ui.Count(all, "path"), ui.Bytes(r.Removed.FileSize))
	var rows [][]string
	for _, p := range r.Paths[:r.Removed.Paths] { // which come first
		rows = append(rows, []string{ui.Bytes(p.FileSize), age(r.now.Sub(p.Added)), path.Base(p.Path), ui.Line(p.Reason)})
	}
	table(&b, []string{"size", "age", "path", "reason"}, rows)
	fmt.Fprintf(&b, "\nto keep: %s, %s compressed\n", ui.Count(r.Kept.Paths, "path"), ui.Bytes(r.Kept.FileSize))
	rows = nil
	for _, x := range r.Reasons {
		if x.Keep {
			rows = append(rows, []string{ui.Bytes(x.FileSize), ui.Count(x.Paths, "path"), ui.Line(x.Reason)})
		}
	}
	table(&b, []string{"size", "paths", "reason"}, rows)
	fmt.Fprintf(&b, "\nto free: %s\n", ui.Bytes(r.FreedSize))
	switch {
	case r.Rewritten > 0:
		fmt.Fprintf(&b, "index: %s to be replaced by %d\n", ui.Count(r.Rewritten, "segment"), r.Written)
	case r.Written > 0: // the end of a pin
		fmt.Fprintf(&b, "index: %s to be added\n", ui.Count(r.Written, "segment"))
	}
	if n := len(r.Deletable); n > 0 {
		fmt.Fprintf(&b, "replaced earlier: %s to be deleted now\n", ui.Count(n, "manifest"))
	}
	if n := len(r.Waiting); n > 0 {
		last := *r.Waiting[0].Until
		for _, m := range r.Waiting {
			if m.Until.After(last) {
				last = *m.Until
			}
		}
		fmt.Fprintf(&b, "replaced lately: %s to be deleted from %s on\n", ui.Count(n, "manifest"), minute(last))
	}
	b.WriteString(r.pinsText())
	fmt.Fprintf(&b, "cache: %s\n", r.Cache)
	return b.String()
}

// table writes a table, cut short.
func table(b *strings.Builder, header []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	b.WriteString(ui.Table(header, rows[:min(len(rows), maxRows)]))
	if n := len(rows) - maxRows; n > 0 {
		fmt.Fprintf(b, "and %s more, see --json\n", ui.Number(n))
	}
}

func (r *GC) pinsText() string {
	if len(r.Pins) == 0 {
		return ""
	}
	var pins []string
	for _, p := range r.Pins {
		pins = append(pins, fmt.Sprintf("%s (%s, newest %s)", p.Name, ui.Count(p.Publications, "publication"), p.Newest.Format(time.DateOnly)))
	}
	return "pins: " + strings.Join(pins, ", ") + "\n"
}

// Text is the summary of a run for people; "" if nothing was tried.
func (r *GC) Text() string {
	res := r.Result
	if res == nil {
		return ""
	}
	var b strings.Builder
	b.WriteString("summary\n")
	row := func(what string, t index.Total) []string {
		return []string{what, ui.Number(t.Paths), ui.Bytes(t.NarSize), ui.Bytes(t.FileSize)}
	}
	b.WriteString(ui.Table([]string{"", "paths", "NAR size", "compressed"}, [][]string{row("removed", res.Removed), row("kept", res.Kept)}))
	if res.Rewritten > 0 {
		fmt.Fprintf(&b, "index: %s replaced by %d", ui.Count(res.Rewritten, "segment"), len(res.Segments))
		if res.RepackedSize > 0 {
			fmt.Fprintf(&b, ", %s copied into new packs", ui.Bytes(res.RepackedSize))
		}
		b.WriteByte('\n')
	}
	b.WriteString(r.manifestsText())
	if res.Freed.Blobs > 0 {
		fmt.Fprintf(&b, "freed: %s, %s\n", ui.Count(res.Freed.Blobs, "blob"), ui.Bytes(res.Freed.Bytes))
	}
	b.WriteString(r.pinsText())
	b.WriteString(stagesText(r.Stages))
	fmt.Fprintf(&b, "cache: %s", r.Cache)
	return b.String()
}

// manifestsText says what became of the manifests that were replaced, and what
// that means for the storage.
func (r *GC) manifestsText() string {
	res := r.Result
	var b strings.Builder
	if res.Deleted > 0 {
		fmt.Fprintf(&b, "deleted: %s\n", ui.Count(res.Deleted, "manifest"))
	}
	if res.Waiting > 0 {
		fmt.Fprintf(&b, "waiting: %s, to be deleted by a gc after %s\n", ui.Count(res.Waiting, "manifest"), minute(*res.WaitingUntil))
		if res.Rewritten > 0 && r.FreedSize > 0 {
			fmt.Fprintf(&b, "to free then: %s\n", ui.Bytes(r.FreedSize))
		}
	}
	refused := 0
	for _, f := range res.Refused {
		refused += len(f.Manifests)
	}
	if refused > 0 {
		fmt.Fprintf(&b, "refused: %s stay in the registry, and the blobs that they name\n", ui.Count(refused, "manifest"))
	}
	if refused > 0 && res.Deleted == 0 {
		b.WriteString("The index is pruned: clients no longer see what was removed. The registry frees nothing.\n")
	}
	return b.String()
}

func minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

const day = 24 * time.Hour

// age writes how long ago something was, in days, or hours if it is few.
func age(d time.Duration) string {
	if d < 2*day {
		return fmt.Sprintf("%d h", max(d, 0)/time.Hour)
	}
	return fmt.Sprintf("%d d", d/day)
}
