// Package summary writes reports as Markdown, for a page of a forge such as the
// summary of a job. Whatever a report says, the page has no markup but our own.
package summary

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/bincache"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/secret"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/matrix"
	"github.com/org/nixoci-action/report"
)

// Limits of a summary: GitHub takes 1 MiB of each step.
const (
	maxRows     = 200
	maxLargest  = 10
	maxOpen     = 5 // failures that are shown without a click
	maxFailures = 20
	maxSummary  = 900 << 10
	maxName     = 80  // of a name in a table, in bytes
	maxCell     = 200 // of other text there
	maxMessage  = 4000
)

// Options are what a summary says besides the report. The zero value names no
// cache, and hides nothing.
type Options struct {
	Cache string
	// Flake is what was published.
	Flake string
	// OfJob says that it was no flake, but what the job has built.
	OfJob bool
	// Again says that an earlier summary of the same page has named the cache,
	// and told how to use it.
	Again bool
	// Wording makes of a hint what readers of the summary know; nil leaves it as it
	// is.
	Wording func(hint string) string
	// Idle is why nothing is published, where that was decided before.
	Idle string
	// Keys are public keys of the cache, besides those of the report.
	Keys []string
	Took time.Duration
	// Secrets are not shown. It may be nil.
	Secrets *secret.Set
}

// Publish tells what was published.
func Publish(r *report.Publish, o Options) string {
	var b strings.Builder
	part := "Flake " + code(ui.Cut(o.Flake, maxName))
	if o.OfJob {
		part = "Built in this job"
	}
	b.WriteString(o.heading(part))
	fmt.Fprintf(&b, "%s\n\n%s", headline(r, o), o.idle())
	b.WriteString(o.problem(r.OtherError))
	b.WriteString(o.failures(r))
	b.WriteString(o.hints(r.Hints))
	if r.Closure.Paths > 0 {
		b.WriteString(totals(r) + "\n")
	}
	b.WriteString(notSigned(r))
	title := "Largest new paths"
	if r.DryRun && !r.BuildOnly {
		title = "Largest paths to upload"
	}
	b.WriteString(largestNew(title, r.Paths))
	b.WriteString(overTime(r))
	b.WriteString(leftOut(r.LeftOut))
	b.WriteString(o.allOutputs(r.Outputs))
	if !r.DryRun && r.Status != report.Failed && !o.Again {
		keys := append(slices.Clone(o.Keys), r.PublicKeys...)
		slices.Sort(keys)
		b.WriteString(usage(o.Cache, slices.Compact(keys), r.RetiredKeys))
	}
	return bounded(b.String())
}

// Idle tells of a step that publishes nothing, and whether it serves the cache to
// the steps that follow.
func Idle(read bool, o Options) string {
	what := "➖ <b>nothing is done</b>"
	if read {
		what = "📖 <b>the cache is only read</b>: nothing is built or published"
	}
	return o.heading("No publication") + what + "\n\n" + o.idle()
}

// idle says why nothing is published.
func (o *Options) idle() string {
	if o.Idle == "" {
		return ""
	}
	return "> [!NOTE]\n> Nothing is published: " + literal(ui.Cut(ui.Line(o.Idle), maxMessage)) + "\n\n"
}

// Matrix tells what is built where, and why the rest is not.
func Matrix(r *report.Publish, o Options) string {
	var b strings.Builder
	b.WriteString(o.heading("Plan"))
	n := r.Count()
	var jobs []matrix.Job
	parts := []string{"✅ <b>nothing has to be built</b>"}
	if r.Matrix == nil {
		parts = []string{"❌ <b>nothing was planned</b>"}
	} else if jobs = r.Matrix.Include; len(jobs) > 0 {
		parts = []string{fmt.Sprintf("🛠️ <b>%s to build in %s</b>", ui.Count(n[report.OutputPlanned], "output"), ui.Count(len(jobs), "job"))}
	}
	if n[report.OutputCached] > 0 {
		parts = append(parts, fmt.Sprintf("⏭️ %d in a cache already", n[report.OutputCached]))
	}
	if n[report.OutputFailed] > 0 {
		parts = append(parts, fmt.Sprintf("❌ <b>%d failed</b>", n[report.OutputFailed]))
	}
	b.WriteString(strings.Join(parts, " · ") + "\n\n")
	b.WriteString(o.problem(r.OtherError))
	b.WriteString(o.failures(r))
	b.WriteString(o.hints(r.Hints))
	if len(jobs) > 0 {
		var rows [][]string
		for _, j := range jobs {
			rows = append(rows, []string{code(j.Name), literal(j.System), literal(j.Runner), ui.Number(len(matrix.Lines(j.Outputs)))})
		}
		b.WriteString(table([]string{"job", "system", "runner", "outputs"}, false, rows) + "\n")
	}
	b.WriteString(o.allOutputs(r.Outputs))
	return bounded(b.String())
}

// bounded cuts a summary that is too long for GitHub.
func bounded(text string) string {
	if len(text) <= maxSummary {
		return text
	}
	return text[:strings.LastIndexByte(text[:maxSummary], '\n')] + "\n\n… and more, in the report.\n"
}

// heading names the cache, or where that was done already the part of the work.
func (o *Options) heading(part string) string {
	if o.Again {
		return "### " + part + "\n\n"
	}
	return "## Nix cache " + code(o.Cache) + "\n\n"
}

// redact hides secrets, should a log have one.
func (o *Options) redact(text string) string { return string(o.Secrets.Redact([]byte(text))) }

// problem shows the error that ended the work. What follows an empty or an
// indented line keeps its layout: Nix points to a place in a file there.
func (o *Options) problem(text string) string {
	said := strings.TrimSpace(ui.Cut(ui.Text(o.redact(text)), maxMessage))
	if said == "" {
		return ""
	}
	drawn := ""
	if at := layout.FindStringIndex(said); at != nil {
		said, drawn = said[:at[0]], "\n> "+strings.ReplaceAll(pre(strings.Trim(said[at[0]:], "\n")), "\n", "\n> ")
	}
	lines := strings.Split(said, "\n")
	for i := range lines {
		lines[i] = literal(lines[i])
	}
	return "> [!CAUTION]\n> " + strings.Join(lines, "<br>") + drawn + "\n\n"
}

// layout is where lines begin whose layout has a meaning.
var layout = regexp.MustCompile(`\n[\n ]`)

// hints shows what can be done about the errors.
func (o *Options) hints(list []string) string {
	var lines []string
	for _, h := range list {
		if o.Wording != nil {
			h = o.Wording(h)
		}
		lines = append(lines, literal(ui.Cut(o.redact(h), maxMessage)))
	}
	if lines == nil {
		return ""
	}
	return "> [!TIP]\n> " + strings.Join(lines, "<br>\n> ") + "\n\n"
}

// headline is the result in one line.
func headline(r *report.Publish, o Options) string {
	var parts []string
	if n := r.Count()[report.OutputFailed]; n > 0 {
		parts = append(parts, fmt.Sprintf("❌ <b>%s failed</b>", ui.Count(n, "output")))
	}
	if n := len(r.Failures); n > 0 {
		parts = append(parts, fmt.Sprintf("❌ <b>%s not published</b>", ui.Count(n, "path")))
	}
	n, good := r.Count(), r.Published()
	switch {
	case r.BuildOnly && r.Status == report.Failed && n[report.OutputBuilt]+n[report.OutputCached] == 0 && len(parts) == 0:
		parts = append(parts, "❌ <b>nothing was built</b>")
	case r.BuildOnly:
		if n[report.OutputBuilt] > 0 {
			parts = append(parts, fmt.Sprintf("✅ <b>%s built</b>", ui.Count(n[report.OutputBuilt], "output")))
		}
		if n[report.OutputCached] > 0 {
			parts = append(parts, fmt.Sprintf("⏭️ %d in a cache already", n[report.OutputCached]))
		}
		if o.Idle == "" {
			parts = append(parts, "nothing is published")
		}
	case r.DryRun:
		parts = append(parts, "🔍 <b>dry run</b>: nothing was built or uploaded")
	case r.Status == report.Failed && len(parts) > 0:
		parts = append(parts, "nothing was published")
	case r.Status == report.Failed:
		parts = append(parts, "❌ <b>nothing was published</b>")
	case o.OfJob:
		parts = append(parts, "✅ <b>what this job has built is published</b>")
	case good == 0:
		parts = append(parts, "no output is published")
	default:
		parts = append(parts, fmt.Sprintf("✅ <b>%s published</b>", ui.Count(good, "output")))
	}
	switch {
	case r.BuildOnly:
	case r.DryRun && r.New.Paths > 0:
		parts = append(parts, fmt.Sprintf("%s to upload", ui.Count(r.New.Paths, "path")))
	case r.Uploaded.Paths > 0 && r.Status == report.Failed:
		parts = append(parts, fmt.Sprintf("%s sent in vain, %s", ui.Count(r.Uploaded.Paths, "path"), ui.Bytes(r.Uploaded.FileSize)))
	case r.Uploaded.Paths > 0:
		parts = append(parts, fmt.Sprintf("%s uploaded, %s", ui.Count(r.Uploaded.Paths, "path"), ui.Bytes(r.Uploaded.FileSize)))
	case r.Status == report.Done && r.Closure.Paths > 0:
		parts = append(parts, "nothing new to upload")
	}
	return strings.Join(append(parts, ui.Duration(o.Took)), " · ")
}

func icon(status report.OutputStatus) string {
	switch {
	case status.Good():
		return "✅"
	case status == report.OutputFailed:
		return "❌"
	}
	return "➖"
}

// failures shows each failure, the first ones open.
func (o *Options) failures(r *report.Publish) string {
	var b strings.Builder
	all := r.Causes()
	for _, c := range all[:min(len(all), maxOpen)] {
		b.WriteString(o.cause(c))
	}
	if len(all) > maxOpen {
		var more strings.Builder
		for _, c := range all[maxOpen:min(len(all), maxFailures)] {
			more.WriteString(o.cause(c))
		}
		if n := len(all) - maxFailures; n > 0 {
			fmt.Fprintf(&more, "… and %s: see all outputs below.\n", ui.Count(n, "more failure"))
		}
		b.WriteString(folded(ui.Count(len(all)-maxOpen, "more failure"), more.String()) + "\n")
	}
	for _, f := range r.Failures[:min(len(r.Failures), maxFailures)] {
		fmt.Fprintf(&b, "- %s: %s\n", code(ui.Cut(report.Name(f.Path), maxCell)), literal(ui.Cut(o.redact(f.Error), maxCell)))
	}
	if more := len(r.Failures) - maxFailures; more > 0 {
		fmt.Fprintf(&b, "- … and %s\n", ui.Count(more, "more path"))
	}
	if b.Len() == 0 {
		return ""
	}
	return "### What failed\n\n" + b.String() + "\n"
}

// cause shows what failed and why.
func (o *Options) cause(c report.Cause) string {
	var names []string
	for _, a := range c.Attrs[:min(len(c.Attrs), maxFailures)] {
		names = append(names, code(ui.Cut(a, maxCell)))
	}
	if more := len(c.Attrs) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	text := strings.Join(names, ", ") + ": " + literal(c.Reason)
	if c.FailedDrv != "" {
		text += ", in " + code(ui.Cut(c.Drv(), maxCell))
	}
	text += "\n\n"
	for _, block := range []string{ui.Cut(c.Message, maxMessage), c.Log} {
		if block != "" {
			text += pre(o.redact(block)) + "\n\n"
		}
	}
	return text
}

func totals(r *report.Publish) string {
	header := []string{"store paths", "number", "size", "compressed"}
	if r.Uploaded.FileSize == 0 {
		header = header[:3]
	}
	row := func(name string, t report.Total) []string {
		compressed := ""
		if t.FileSize > 0 {
			compressed = fmt.Sprintf("%s (%s)", ui.Bytes(t.FileSize), ui.Ratio(t.FileSize, t.NarSize))
		}
		return []string{name, ui.Number(t.Paths), ui.Bytes(t.NarSize), compressed}[:len(header)]
	}
	var rows [][]string
	parts := r.Parts()
	for _, p := range parts[:len(parts)-1] {
		if p.Paths > 0 {
			rows = append(rows, row(p.Name, p.Total))
		}
	}
	last := parts[len(parts)-1]
	rows = append(rows, row("<b>"+last.Name+"</b>", last.Total))
	return table(header, true, append(rows, row("all together", r.Closure)))
}

// notSigned warns of paths that are published without the job's signature.
func notSigned(r *report.Publish) string {
	if r.Unsigned.Paths == 0 {
		return ""
	}
	by := ""
	if len(r.OtherKeys) > 0 {
		by = " Some are signed by " + literal(ui.Cut(ui.Few(r.OtherKeys), maxCell)) + "."
	}
	return fmt.Sprintf("> [!WARNING]\n> %s not signed: they were substituted or copied here, and no trusted key has signed them.%s The input `trusted-keys` takes public keys to trust.\n\n",
		ui.Count(r.Unsigned.Paths, "path"), by)
}

// largestNew is a table of the largest paths that are new.
func largestNew(title string, paths []report.Path) string {
	paths = slices.DeleteFunc(slices.Clone(paths), func(p report.Path) bool { return !p.New() })
	return largest(title, paths)
}

// largest is a table of the largest paths.
func largest(title string, paths []report.Path) string {
	if len(paths) == 0 {
		return ""
	}
	paths = slices.SortedStableFunc(slices.Values(paths), func(a, b report.Path) int { return cmp.Compare(b.NarSize, a.NarSize) })
	header, compressed := []string{"path", "size"}, slices.ContainsFunc(paths, func(p report.Path) bool { return p.FileSize > 0 })
	if compressed {
		header = append(header, "compressed")
	}
	var rows [][]string
	for _, p := range paths[:min(len(paths), maxLargest)] {
		cells := []string{code(ui.Cut(report.Name(p.Path), maxName)), ui.Bytes(p.NarSize)}
		if compressed {
			cells = append(cells, ui.Bytes(p.FileSize))
		}
		rows = append(rows, cells)
	}
	return "### " + title + "\n\n" + table(header, true, rows) + "\n"
}

// leftOut lists the paths that were to be excluded, and what needs them.
func leftOut(paths []report.Path) string {
	if len(paths) == 0 {
		return ""
	}
	var rows [][]string
	for _, p := range paths[:min(len(paths), maxRows)] {
		rows = append(rows, []string{code(ui.Cut(report.Name(p.Path), maxName)), literal(ui.Cut(p.Reason, maxCell))})
	}
	if more := len(paths) - maxRows; more > 0 {
		rows = append(rows, []string{fmt.Sprintf("… and %d more", more), ""})
	}
	return folded("Left out: "+ui.Count(len(paths), "path"), table([]string{"path", "why"}, false, rows))
}

// allOutputs lists the outputs, those that are not published first.
func (o *Options) allOutputs(outputs []report.Output) string {
	if len(outputs) == 0 {
		return ""
	}
	n := map[report.OutputStatus]int{}
	for _, x := range outputs {
		n[x.Status]++
	}
	outputs = slices.SortedStableFunc(slices.Values(outputs), func(a, b report.Output) int {
		return cmp.Compare(slices.Index(order, a.Status), slices.Index(order, b.Status))
	})
	header := []string{"", "output"}
	if slices.ContainsFunc(outputs, func(x report.Output) bool { return x.Reason+x.Job != "" }) {
		header = append(header, "why")
	}
	var rows [][]string
	for _, x := range outputs[:min(len(outputs), maxRows)] {
		why := x.Reason
		switch {
		case x.Job != "":
			why = "for " + x.Job
		case x.Message != "":
			why += ": " + x.Message
		}
		status := icon(x.Status) + "&#160;" + strings.ReplaceAll(literal(string(x.Status)), " ", "&#160;")
		rows = append(rows, []string{status, code(ui.Cut(x.Attr, maxName)), literal(ui.Cut(o.redact(why), maxCell))}[:len(header)])
	}
	if more := len(outputs) - maxRows; more > 0 {
		rows = append(rows, []string{"", fmt.Sprintf("… and %d more", more), ""}[:len(header)])
	}
	var counts []string
	for _, status := range slices.Backward(order) {
		if n[status] > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n[status], status))
		}
	}
	return folded("All outputs: "+strings.Join(counts, ", "), table(header, false, rows))
}

// order is that of the outputs: those that are not published first.
var order = []report.OutputStatus{
	report.OutputFailed, report.OutputNotBuilt, report.OutputLeftOut, report.OutputPlanned, report.OutputSkipped, report.OutputCached, report.OutputPresent, report.OutputBuilt,
}

// usage is what others must do to use the cache.
func usage(cache string, keys, retired []string) string {
	const proxy = "http://127.0.0.1:37515"
	cached, note := bincache.Substituter{URL: proxy, PublicKeys: keys, Untrusted: len(retired) > 0}, ""
	switch {
	case len(retired) > 0:
		note = "Retired, no longer to be trusted: " + code(strings.Join(retired, " ")) + "\n"
	case len(keys) == 0:
		note = "The cache is not signed, so " + code("?trusted=1") + " trusts everybody who can write to it.\n"
	}
	return folded("Use this cache", "Run the proxy on the machine that wants it:\n\n"+pre("nix run github:org/nixoci-action -- proxy --cache "+cache+"\n")+
		"\n\nIn "+code("nix.conf")+":\n\n"+pre(cached.Shown())+"\n\nOr on NixOS:\n\n"+pre(cached.NixOS())+"\n\n"+note)
}

// GC tells what was collected.
func GC(r *report.GC, o Options) string {
	var b strings.Builder
	b.WriteString(o.heading("Collection"))
	kept, removed, verb := r.Kept, r.Removed, "to remove"
	if r.Result != nil {
		kept, removed, verb = r.Result.Kept, r.Result.Removed, "removed"
	}
	b.WriteString(gcHeadline(r, kept, removed) + "\n\n")
	b.WriteString(o.problem(r.Error))
	b.WriteString(o.hints(r.Hints))
	if kept.Paths+removed.Paths > 0 {
		b.WriteString(table([]string{"store paths", "number", "size", "compressed"}, true, [][]string{
			{"kept", ui.Number(kept.Paths), ui.Bytes(kept.NarSize), ui.Bytes(kept.FileSize)},
			{"<b>" + verb + "</b>", ui.Number(removed.Paths), ui.Bytes(removed.NarSize), ui.Bytes(removed.FileSize)},
		}) + "\n")
	}
	if r.Result != nil {
		fmt.Fprintf(&b, "%s deleted", ui.Count(r.Result.Deleted, "manifest"))
		if r.Result.WaitingUntil != nil {
			fmt.Fprintf(&b, "; %s may still be in use, and wait until %s", ui.Count(r.Result.Waiting, "other"), r.Result.WaitingUntil.UTC().Format("2006-01-02 15:04 MST"))
		}
		b.WriteString(".\n\n")
		for _, x := range r.Result.Refused {
			fmt.Fprintf(&b, "> [!WARNING]\n> %s<br>\n> %s\n\n", literal(ui.Cut(x.Reason, maxCell)), literal(ui.Cut(x.Remedy, maxCell)))
		}
	}
	var gone []report.Path
	for _, p := range r.Paths {
		if !p.Keep {
			gone = append(gone, report.Path{Path: p.Path, NarSize: p.NarSize, FileSize: p.FileSize})
		}
	}
	b.WriteString(largest("Largest removed paths", gone))
	if len(r.Reasons) > 0 {
		var rows [][]string
		for _, x := range r.Reasons[:min(len(r.Reasons), maxRows)] {
			what := verb
			if x.Keep {
				what = "kept"
			}
			rows = append(rows, []string{literal(ui.Cut(x.Reason, maxCell)) + ": " + what, ui.Number(x.Paths), ui.Bytes(x.FileSize)})
		}
		b.WriteString("### Why\n\n" + table([]string{"reason", "paths", "compressed"}, true, rows) + "\n")
	}
	return bounded(b.String())
}

func gcHeadline(r *report.GC, kept, removed index.Total) string {
	switch {
	case r.Status == report.Failed:
		return "❌ <b>nothing was removed</b>"
	case r.DryRun:
		return fmt.Sprintf("🔍 <b>dry run</b>: nothing was changed · %s of %s would go", ui.Number(removed.Paths), ui.Count(removed.Paths+kept.Paths, "path"))
	case removed.Paths == 0:
		return "✅ <b>nothing to remove</b>"
	}
	return fmt.Sprintf("✅ <b>%s removed</b>, %s", ui.Count(removed.Paths, "path"), ui.Bytes(removed.FileSize))
}
