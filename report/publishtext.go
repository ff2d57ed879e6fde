package report

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/org/nixoci-action/internal/ui"
)

// Text is the summary for people, without a newline at its end.
func (r *Publish) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", r.outputsText())
	b.WriteString(r.Matrix.Text())
	if rows := r.rows(); rows != nil {
		b.WriteString(ui.Table([]string{"", "paths", "NAR size", ""}, rows))
	}
	if r.Status != Failed {
		b.WriteString(r.signedText())
	}
	if r.Pin != "" {
		stay := "newest stays"
		if r.PinKeep > 1 {
			stay = fmt.Sprintf("newest %d stay", r.PinKeep)
		}
		fmt.Fprintf(&b, "pinned: %s (the %s until gc --unpin %s)\n", r.Pin, stay, r.Pin)
	}
	b.WriteString(stagesText(r.Stages))
	fmt.Fprintf(&b, "cache: %s", r.Cache)
	if r.Status == Failed && !r.DryRun {
		b.WriteString("\nnothing is published")
	}
	return b.String()
}

// signedText says what the table does not say of signatures.
func (r *Publish) signedText() (text string) {
	if r.Signed > 0 {
		text += fmt.Sprintf("signed: %s that the cache had already\n", ui.Count(r.Signed, "path"))
	}
	if r.Bare > 0 {
		text += fmt.Sprintf("not signed: %s; no key was given. Nix takes unsigned paths only from a cache that it trusts as a whole\n", ui.Count(r.Bare, "path"))
	}
	if n := len(r.Fingerprints); n > 0 {
		text += fmt.Sprintf("to be signed: %s, by nixoci sign with the report of --json\n", ui.Count(n, "path"))
	}
	return text
}

// rows are the numbers of paths; nil if there are none.
func (r *Publish) rows() [][]string {
	var rows [][]string
	row := func(what string, t Total, extra string) {
		rows = append(rows, []string{what, ui.Number(t.Paths), ui.Bytes(t.NarSize), extra})
	}
	if r.Adopted.Paths > 0 {
		row("taken over", r.Adopted.Total, "from nixcache-oci")
	}
	if r.Closure.Paths == 0 {
		return rows
	}
	row("closure", r.Closure, "")
	for _, p := range r.Parts() {
		extra := ""
		if p.FileSize > 0 {
			extra = fmt.Sprintf("%s compressed (%s)", ui.Bytes(p.FileSize), ui.Ratio(p.FileSize, p.NarSize))
		}
		if p.Usual || p.Paths > 0 {
			row(p.Name, p.Total, extra)
		}
	}
	return rows
}

// outputsText counts the outputs, and names those that are not published.
func (r *Publish) outputsText() string {
	if len(r.Outputs) == 0 {
		return "summary"
	}
	left := map[string][]string{} // attributes by reason
	var failed []string
	for i, o := range r.Outputs {
		if o.Status == OutputFailed {
			failed = append(failed, r.Outputs[i].failure())
			continue
		}
		if !o.Status.Good() && o.Status != OutputPlanned {
			reason := string(o.Status) + " (" + o.Reason + ")"
			left[reason] = append(left[reason], o.Attr)
		}
	}
	s := "outputs: " + ui.Number(len(r.Outputs)) + " found"
	n := r.Count()
	for _, status := range OutputStatuses {
		if n[status] > 0 {
			s += fmt.Sprintf(", %d %s", n[status], status)
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(left)) {
		s += "\n" + reason + ": " + ui.Few(left[reason])
	}
	if n := len(failed); n > maxFailures {
		failed = append(failed[:maxFailures], fmt.Sprintf("%d more; --json has them all", n-maxFailures))
	}
	for _, line := range failed {
		s += "\nfailed: " + line
	}
	return s
}

// maxFailures bounds the lines about outputs that failed.
const maxFailures = 100

// failure says in one line why an output has failed.
func (o *Output) failure() string {
	line := o.Attr + ": " + o.Reason
	detail, _, _ := strings.Cut(o.Message, "\n")
	if log := strings.Split(strings.TrimSpace(o.Log), "\n"); detail == "" {
		detail = log[len(log)-1]
	}
	if detail != "" {
		line += ": " + detail
	}
	return ui.Line(line)
}

// PlanText is the plan of a dry run, a line for each path; "" if there are none.
func (r *Publish) PlanText() string {
	var rows [][]string
	for _, p := range r.Paths {
		rows = append(rows, []string{ui.Bytes(p.NarSize), path.Base(p.Path), p.Reason})
	}
	seen := map[string]bool{}
	for _, o := range r.Outputs {
		if o.Status == OutputNotBuilt {
			for _, m := range o.Missing {
				if seen[m] {
					continue
				}
				seen[m] = true
				rows = append(rows, []string{"-", path.Base(m), "not built yet: " + o.Attr})
			}
		}
	}
	if rows == nil {
		return ""
	}
	return ui.Table([]string{"NAR size", "path", "reason"}, rows) + "\n"
}
