package main

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/ui"
)

// Limits of a summary: GitHub takes 1 MiB of each step.
const (
	maxRows       = 200
	maxLargest    = 10
	maxFailures   = 20
	maxSummary    = 900 << 10
	maxCellLength = 200
)

// summarise appends to the job's summary, if that is wanted.
func (s *session) summarise(text func() string) error {
	if !s.cfg.summary {
		return nil
	}
	t := text()
	if len(t) > maxSummary {
		t = t[:strings.LastIndexByte(t[:maxSummary], '\n')] + "\n\n… and more, in the report.\n"
	}
	return s.msg.Summary(t)
}

// publishSummary tells what was published; ofJob: of what the job has built.
func (s *session) publishSummary(r *publishReport, ofJob bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## Nix cache %s\n\n", code(s.cfg.cache()))
	fmt.Fprintf(&b, "%s\n\n", headline(r, ofJob))
	if r.Error != "" {
		fmt.Fprintf(&b, "> ❌ %s\n\n", literal(cut(s.redact(r.Error), 2000)))
	}
	b.WriteString(s.failures(r))
	if r.Closure.Paths > 0 {
		b.WriteString(totals(r) + "\n")
	}
	b.WriteString(largest("Largest new paths", r.Paths, func(p pathReport) bool { return p.Reason == "new" }))
	if len(r.Outputs) > 0 {
		var rows [][]string
		for _, o := range r.Outputs[:min(len(r.Outputs), maxRows)] {
			why := o.Reason
			if o.Message != "" {
				why += ": " + o.Message
			}
			rows = append(rows, []string{icon(o.Status) + " " + literal(o.Status), code(o.Attr), literal(cut(s.redact(why), maxCellLength))})
		}
		if more := len(r.Outputs) - maxRows; more > 0 {
			rows = append(rows, []string{"", fmt.Sprintf("… and %d more", more), ""})
		}
		b.WriteString(folded("All outputs", table([]string{"", "output", "why"}, false, rows)))
	}
	b.WriteString(usage(s.cfg.cache(), r.PublicKeys))
	return b.String()
}

// headline is the result in one line.
func headline(r *publishReport, ofJob bool) string {
	var parts []string
	published, _ := r.counts()
	failures := 0
	for _, o := range r.Outputs {
		if o.Status == "failed" {
			failures++
		}
	}
	switch {
	case r.DryRun:
		parts = append(parts, "🔍 <b>dry run</b>: nothing was built or uploaded")
	case r.Status == "failed":
		parts = append(parts, "❌ <b>nothing was published</b>")
	case ofJob:
		parts = append(parts, "✅ <b>what this job has built is published</b>")
	default:
		parts = append(parts, fmt.Sprintf("✅ <b>%s published</b>", ui.Count(published, "output")))
	}
	if failures > 0 {
		parts = append(parts, fmt.Sprintf("❌ <b>%d failed</b>", failures))
	}
	if n := len(r.Failures); n > 0 {
		parts = append(parts, fmt.Sprintf("❌ <b>%s not uploaded</b>", ui.Count(n, "path")))
	}
	if r.Uploaded.Paths > 0 {
		parts = append(parts, fmt.Sprintf("⬆️ %s uploaded, %s", ui.Count(r.Uploaded.Paths, "path"), ui.Bytes(r.Uploaded.FileSize)))
	}
	took := 0.0
	for _, s := range r.Stages {
		took += s.Seconds
	}
	if took > 0 {
		parts = append(parts, "⏱️ "+ui.Duration(time.Duration(took*float64(time.Second))))
	}
	return strings.Join(parts, " · ")
}

func icon(status string) string {
	switch status {
	case "built", "cached":
		return "✅"
	case "failed":
		return "❌"
	}
	return "⏭️"
}

// failures shows each output that failed, open.
func (s *session) failures(r *publishReport) string {
	var b strings.Builder
	n := 0
	for _, o := range r.Outputs {
		if o.Status != "failed" || n == maxFailures {
			continue
		}
		if n++; n == 1 {
			b.WriteString("### What failed\n\n")
		}
		fmt.Fprintf(&b, "- %s: %s\n\n", code(o.Attr), literal(o.Reason))
		if o.Message != "" {
			b.WriteString(pre(s.redact(cut(o.Message, 4000))) + "\n\n")
		}
		if o.Log != "" {
			fmt.Fprintf(&b, "Last lines of %s:\n\n%s\n\n", code(path.Base(o.FailedDrv)), pre(s.redact(o.Log)))
		}
	}
	for i, f := range r.Failures {
		if i == maxFailures {
			break
		}
		fmt.Fprintf(&b, "- %s: %s\n", code(path.Base(f.Path)), literal(cut(s.redact(f.Error), maxCellLength)))
	}
	if b.Len() > 0 {
		b.WriteString("\n")
	}
	return b.String()
}

func totals(r *publishReport) string {
	row := func(name string, t total) []string {
		compressed := ""
		if t.FileSize > 0 {
			compressed = fmt.Sprintf("%s (%s)", ui.Bytes(t.FileSize), ui.Ratio(t.FileSize, t.NarSize))
		}
		return []string{name, ui.Number(t.Paths), ui.Bytes(t.NarSize), compressed}
	}
	rows := [][]string{row("on upstream caches", r.OnUpstream), row("in the cache already", r.InCache)}
	if r.Excluded.Paths > 0 {
		rows = append(rows, row("excluded", r.Excluded))
	}
	if r.Reused.Paths > 0 {
		rows = append(rows, row("same contents as in the cache", r.Reused))
	}
	if r.DryRun {
		rows = append(rows, row("<b>to upload</b>", r.New))
	} else {
		rows = append(rows, row("<b>uploaded</b>", r.Uploaded))
	}
	return table([]string{"store paths", "number", "size", "compressed"}, true, append(rows, row("all together", r.Closure)))
}

// largest is a table of the largest paths for which want is true.
func largest(title string, paths []pathReport, want func(pathReport) bool) string {
	paths = slices.DeleteFunc(slices.Clone(paths), func(p pathReport) bool { return !want(p) })
	if len(paths) == 0 {
		return ""
	}
	slices.SortStableFunc(paths, func(a, b pathReport) int { return cmp.Compare(b.NarSize, a.NarSize) })
	var rows [][]string
	for _, p := range paths[:min(len(paths), maxLargest)] {
		base := path.Base(p.Path)
		if _, name, ok := strings.Cut(base, "-"); ok {
			base = name
		}
		compressed := ""
		if p.FileSize > 0 {
			compressed = ui.Bytes(p.FileSize)
		}
		rows = append(rows, []string{code(base), ui.Bytes(p.NarSize), compressed})
	}
	return "### " + title + "\n\n" + table([]string{"path", "size", "compressed"}, true, rows) + "\n"
}

// usage is what others must do to use the cache.
func usage(cache string, keys []string) string {
	conf := "extra-substituters = http://127.0.0.1:37515\n"
	nixos := "nix.settings.extra-substituters = [ \"http://127.0.0.1:37515\" ];\n"
	note := ""
	if len(keys) > 0 {
		conf += "extra-trusted-public-keys = " + strings.Join(keys, " ") + "\n"
		nixos += "nix.settings.extra-trusted-public-keys = [ \"" + strings.Join(keys, "\" \"") + "\" ];\n"
	} else {
		note = "The cache is not signed by this job: Nix takes its paths only from a substituter that ends in " + code("?trusted=1") + ".\n\n"
	}
	return folded("Use this cache", "Run the proxy,\n\n"+pre("proxy --cache "+cache+"\n")+
		"\n\nand add to "+code("nix.conf")+":\n\n"+pre(conf)+"\n\nor on NixOS:\n\n"+pre(nixos)+"\n\n"+note)
}

// gcSummary tells what was collected.
func (s *session) gcSummary(r *gcReport) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## Nix cache %s: collection\n\n", code(s.cfg.cache()))
	kept, removed, verb := r.Kept, r.Removed, "to remove"
	if r.Result != nil {
		kept, removed, verb = r.Result.Kept, r.Result.Removed, "removed"
	}
	if r.DryRun {
		b.WriteString("🔍 <b>dry run</b>: nothing was changed\n\n")
	}
	if r.Error != "" {
		fmt.Fprintf(&b, "> ❌ %s\n\n", literal(cut(s.redact(r.Error), 2000)))
	}
	b.WriteString(table([]string{"store paths", "number", "compressed"}, true, [][]string{
		{"kept", ui.Number(kept.Paths), ui.Bytes(kept.FileSize)},
		{"<b>" + verb + "</b>", ui.Number(removed.Paths), ui.Bytes(removed.FileSize)},
	}) + "\n")
	if r.Result != nil {
		fmt.Fprintf(&b, "%s deleted", ui.Count(r.Result.Deleted, "manifest"))
		if r.Result.WaitingUntil != nil {
			fmt.Fprintf(&b, "; %s may still be in use, and wait until %s", ui.Count(r.Result.Waiting, "other"), r.Result.WaitingUntil.Format("2006-01-02 15:04 MST"))
		}
		b.WriteString(".\n\n")
	}
	if len(r.Reasons) > 0 {
		var rows [][]string
		for _, x := range r.Reasons[:min(len(r.Reasons), maxRows)] {
			what := "removed"
			if x.Keep {
				what = "kept"
			}
			rows = append(rows, []string{literal(cut(x.Reason, maxCellLength)), what, ui.Number(x.Paths), ui.Bytes(x.FileSize)})
		}
		b.WriteString("### Why\n\n" + table([]string{"reason", "", "paths", "compressed"}, true, rows) + "\n")
	}
	b.WriteString(largest("Largest removed paths", r.Paths, func(p pathReport) bool { return !p.Keep }))
	return b.String()
}

// redact hides the step's secrets, should a log have one.
func (s *session) redact(text string) string {
	for _, secret := range s.cfg.secrets() {
		for line := range strings.Lines(secret) {
			if line = strings.TrimSpace(line); line != "" {
				text = strings.ReplaceAll(text, line, "***")
			}
		}
	}
	return text
}

// cut shortens text to at most n bytes.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
