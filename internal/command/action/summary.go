package action

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/org/nixoci-action/internal/ui"
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

// summarise appends to the job's summary, if that is wanted.
func (s *session) summarise(text func() string) error {
	if !s.cfg.summary {
		return nil
	}
	t := text()
	if len(t) > maxSummary {
		t = t[:strings.LastIndexByte(t[:maxSummary], '\n')] + "\n\n… and more, in the report.\n"
	}
	if err := s.msg.Summary(t); err != nil {
		return err
	}
	return set(s.getenv, "GITHUB_ENV", summarisedName, s.cfg.cache())
}

// publishSummary tells what was published; ofJob: of what the job has built.
func (s *session) publishSummary(r *publishReport, ofJob bool) string {
	var b strings.Builder
	b.WriteString(s.heading(s.part(ofJob)))
	fmt.Fprintf(&b, "%s\n\n", headline(r, ofJob))
	b.WriteString(s.problem(r.Error, r.Failures))
	b.WriteString(s.failures(r))
	if r.Closure.Paths > 0 {
		b.WriteString(totals(r) + "\n")
	}
	b.WriteString(notSigned(r))
	title := "Largest new paths"
	if r.DryRun {
		title = "Largest paths to upload"
	}
	b.WriteString(largest(title, r.Paths, func(p pathReport) bool { return p.Reason == "new" }))
	b.WriteString(overTime(r))
	b.WriteString(leftOut(r.LeftOut))
	b.WriteString(s.allOutputs(r.Outputs))
	if !r.DryRun && r.Status != "failed" && !s.summarised() {
		b.WriteString(usage(s.cfg.cache(), s.keys(r)))
	}
	return b.String()
}

// summarisedName is the variable that tells a later step of the job which cache
// an earlier one has summarised.
const summarisedName = "NIXOCI_SUMMARISED"

func (s *session) summarised() bool { return s.getenv(summarisedName) == s.cfg.cache() }

// heading names the cache, and where an earlier step of the job has done that
// already the part of the work.
func (s *session) heading(part string) string {
	if s.summarised() {
		return "### " + part + "\n\n"
	}
	return "## Nix cache " + code(s.cfg.cache()) + "\n\n"
}

// part names what a publish was of.
func (s *session) part(ofJob bool) string {
	if ofJob {
		return "Built in this job"
	}
	return "Flake " + code(cut(s.cfg.text["flake"], maxName))
}

// said is what an error repeats of the list of failures.
var said = regexp.MustCompile(`^[0-9,]+ (outputs? failed: |paths? not uploaded$)`)

// problem shows the error that ended the work, but for what the list of
// failures says already.
func (s *session) problem(text string, listed []failedPath) string {
	var lines []string
	for line := range strings.Lines(cut(ui.Text(s.redact(text)), maxMessage)) {
		line = strings.TrimSpace(line)
		if line == "" || said.MatchString(line) || slices.ContainsFunc(listed, func(f failedPath) bool { return f.Error == line }) {
			continue
		}
		lines = append(lines, literal(line))
	}
	if lines == nil {
		return ""
	}
	return "> [!CAUTION]\n> " + strings.Join(lines, "<br>") + "\n\n"
}

// keys are the cache's public keys, as far as the step knows them.
func (s *session) keys(r *publishReport) []string {
	keys := append(slices.Clone(s.state.Keys), r.PublicKeys...)
	slices.Sort(keys)
	return slices.Compact(keys)
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
	if failures > 0 {
		parts = append(parts, fmt.Sprintf("❌ <b>%s failed</b>", ui.Count(failures, "output")))
	}
	if n := len(r.Failures); n > 0 {
		parts = append(parts, fmt.Sprintf("❌ <b>%s not published</b>", ui.Count(n, "path")))
	}
	switch {
	case r.DryRun:
		parts = append(parts, "🔍 <b>dry run</b>: nothing was built or uploaded")
	case r.Status == "failed" && len(parts) > 0:
		parts = append(parts, "nothing was published")
	case r.Status == "failed":
		parts = append(parts, "❌ <b>nothing was published</b>")
	case ofJob:
		parts = append(parts, "✅ <b>what this job has built is published</b>")
	default:
		parts = append(parts, fmt.Sprintf("✅ <b>%s published</b>", ui.Count(published, "output")))
	}
	switch {
	case r.DryRun && r.New.Paths > 0:
		parts = append(parts, fmt.Sprintf("%s to upload", ui.Count(r.New.Paths, "path")))
	case r.Uploaded.Paths > 0 && r.Status == "failed":
		parts = append(parts, fmt.Sprintf("%s sent in vain, %s", ui.Count(r.Uploaded.Paths, "path"), ui.Bytes(r.Uploaded.FileSize)))
	case r.Uploaded.Paths > 0:
		parts = append(parts, fmt.Sprintf("%s uploaded, %s", ui.Count(r.Uploaded.Paths, "path"), ui.Bytes(r.Uploaded.FileSize)))
	case r.Status == "done" && r.Closure.Paths > 0:
		parts = append(parts, "nothing new to upload")
	}
	return strings.Join(append(parts, ui.Duration(r.took)), " · ")
}

func icon(status string) string {
	switch status {
	case "built", "cached":
		return "✅"
	case "failed":
		return "❌"
	}
	return "➖"
}

// failures shows each failure, the first ones open.
func (s *session) failures(r *publishReport) string {
	var b strings.Builder
	all := r.failuresByCause()
	for _, f := range all[:min(len(all), maxOpen)] {
		b.WriteString(s.failure(f))
	}
	if len(all) > maxOpen {
		var more strings.Builder
		for _, f := range all[maxOpen:min(len(all), maxFailures)] {
			more.WriteString(s.failure(f))
		}
		if n := len(all) - maxFailures; n > 0 {
			fmt.Fprintf(&more, "… and %s: see all outputs below.\n", ui.Count(n, "more failure"))
		}
		b.WriteString(folded(ui.Count(len(all)-maxOpen, "more failure"), more.String()) + "\n")
	}
	for _, f := range r.Failures[:min(len(r.Failures), maxFailures)] {
		fmt.Fprintf(&b, "- %s: %s\n", code(cut(pathName(f.Path), maxCell)), literal(cut(s.redact(f.Error), maxCell)))
	}
	if more := len(r.Failures) - maxFailures; more > 0 {
		fmt.Fprintf(&b, "- … and %s\n", ui.Count(more, "more path"))
	}
	if b.Len() == 0 {
		return ""
	}
	return "### What failed\n\n" + b.String() + "\n"
}

// failure shows what failed and why.
func (s *session) failure(f failure) string {
	var names []string
	for _, a := range f.attrs[:min(len(f.attrs), maxFailures)] {
		names = append(names, code(cut(a, maxCell)))
	}
	if more := len(f.attrs) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	text := strings.Join(names, ", ") + ": " + literal(f.reason)
	if f.drv != "" {
		text += ", in " + code(cut(drvName(f.drv), maxCell))
	}
	text += "\n\n"
	for _, said := range []string{cut(f.message, maxMessage), f.log} {
		if said != "" {
			text += pre(s.redact(said)) + "\n\n"
		}
	}
	return text
}

func totals(r *publishReport) string {
	header := []string{"store paths", "number", "size", "compressed"}
	if r.Uploaded.FileSize == 0 {
		header = header[:3]
	}
	row := func(name string, t total) []string {
		compressed := ""
		if t.FileSize > 0 {
			compressed = fmt.Sprintf("%s (%s)", ui.Bytes(t.FileSize), ui.Ratio(t.FileSize, t.NarSize))
		}
		return []string{name, ui.Number(t.Paths), ui.Bytes(t.NarSize), compressed}[:len(header)]
	}
	var rows [][]string
	for _, x := range []struct {
		name string
		total
	}{
		{"on upstream caches", r.OnUpstream},
		{"in the cache already", r.InCache},
		{"same contents as in the cache", r.Reused},
		{"left out", r.Excluded},
	} {
		if x.Paths > 0 {
			rows = append(rows, row(x.name, x.total))
		}
	}
	switch {
	case r.DryRun:
		rows = append(rows, row("<b>to upload</b>", r.New))
	case r.Status == "failed" && r.Uploaded.Paths > 0:
		rows = append(rows, row("<b>sent, not published</b>", r.Uploaded))
	default:
		rows = append(rows, row("<b>uploaded</b>", r.Uploaded))
	}
	return table(header, true, append(rows, row("all together", r.Closure)))
}

// notSigned warns of paths that are published without the job's signature.
func notSigned(r *publishReport) string {
	if r.Unsigned.Paths == 0 {
		return ""
	}
	by := ""
	if len(r.OtherKeys) > 0 {
		by = " Some are signed by " + literal(cut(ui.Few(r.OtherKeys), maxCell)) + "."
	}
	return fmt.Sprintf("> [!WARNING]\n> %s not signed: they were substituted or copied here, and no trusted key has signed them.%s The input `trusted-keys` takes public keys to trust.\n\n",
		ui.Count(r.Unsigned.Paths, "path"), by)
}

// largest is a table of the largest paths for which want is true.
func largest(title string, paths []pathReport, want func(pathReport) bool) string {
	paths = slices.DeleteFunc(slices.Clone(paths), func(p pathReport) bool { return !want(p) })
	if len(paths) == 0 {
		return ""
	}
	slices.SortStableFunc(paths, func(a, b pathReport) int { return cmp.Compare(b.NarSize, a.NarSize) })
	header, compressed := []string{"path", "size"}, slices.ContainsFunc(paths, func(p pathReport) bool { return p.FileSize > 0 })
	if compressed {
		header = append(header, "compressed")
	}
	var rows [][]string
	for _, p := range paths[:min(len(paths), maxLargest)] {
		cells := []string{code(cut(pathName(p.Path), maxName)), ui.Bytes(p.NarSize)}
		if compressed {
			cells = append(cells, ui.Bytes(p.FileSize))
		}
		rows = append(rows, cells)
	}
	return "### " + title + "\n\n" + table(header, true, rows) + "\n"
}

// leftOut lists the paths that were to be excluded, and what needs them.
func leftOut(paths []pathReport) string {
	if len(paths) == 0 {
		return ""
	}
	var rows [][]string
	for _, p := range paths[:min(len(paths), maxRows)] {
		rows = append(rows, []string{code(cut(pathName(p.Path), maxName)), literal(cut(p.Reason, maxCell))})
	}
	if more := len(paths) - maxRows; more > 0 {
		rows = append(rows, []string{fmt.Sprintf("… and %d more", more), ""})
	}
	return folded("Left out: "+ui.Count(len(paths), "path"), table([]string{"path", "why"}, false, rows))
}

// allOutputs lists the outputs, those that are not published first.
func (s *session) allOutputs(outputs []outputReport) string {
	if len(outputs) == 0 {
		return ""
	}
	n := map[string]int{}
	for _, o := range outputs {
		n[o.Status]++
	}
	order := []string{"failed", "not built", "left out", "planned", "skipped", "cached", "built"}
	outputs = slices.SortedStableFunc(slices.Values(outputs), func(a, b outputReport) int {
		return cmp.Compare(slices.Index(order, a.Status), slices.Index(order, b.Status))
	})
	header := []string{"", "output"}
	if slices.ContainsFunc(outputs, func(o outputReport) bool { return o.Reason+o.Job != "" }) {
		header = append(header, "why")
	}
	var rows [][]string
	for _, o := range outputs[:min(len(outputs), maxRows)] {
		why := o.Reason
		switch {
		case o.Job != "":
			why = "for " + o.Job
		case o.Message != "":
			why += ": " + o.Message
		}
		rows = append(rows, []string{icon(o.Status) + "&#160;" + strings.ReplaceAll(literal(o.Status), " ", "&#160;"), code(cut(o.Attr, maxName)), literal(cut(s.redact(why), maxCell))}[:len(header)])
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

// usage is what others must do to use the cache.
func usage(cache string, keys []string) string {
	const proxy = "http://127.0.0.1:37515"
	url, note := proxy, ""
	conf, nixos := "", ""
	if len(keys) > 0 {
		conf = "extra-trusted-public-keys = " + strings.Join(keys, " ") + "\n"
		nixos = "  extra-trusted-public-keys = [ \"" + strings.Join(keys, "\" \"") + "\" ];\n"
	} else {
		url += "?trusted=1"
		note = "The cache is not signed, so " + code("?trusted=1") + " trusts everybody who can write to it.\n"
	}
	conf = "extra-substituters = " + url + "\n" + conf
	nixos = "nix.settings = {\n  extra-substituters = [ \"" + url + "\" ];\n" + nixos + "};\n"
	return folded("Use this cache", "Run the proxy on the machine that wants it:\n\n"+pre("nix run github:org/nixoci-action#proxy -- --cache "+cache+"\n")+
		"\n\nIn "+code("nix.conf")+":\n\n"+pre(conf)+"\n\nOr on NixOS:\n\n"+pre(nixos)+"\n\n"+note)
}

// gcSummary tells what was collected.
func (s *session) gcSummary(r *gcReport) string {
	var b strings.Builder
	b.WriteString(s.heading("Collection"))
	kept, removed, verb := r.Kept, r.Removed, "to remove"
	if r.Result != nil {
		kept, removed, verb = r.Result.Kept, r.Result.Removed, "removed"
	}
	b.WriteString(gcHeadline(r, kept, removed) + "\n\n")
	b.WriteString(s.problem(r.Error, nil))
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
			fmt.Fprintf(&b, "> [!WARNING]\n> %s<br>\n> %s\n\n", literal(cut(x.Reason, maxCell)), literal(cut(x.Remedy, maxCell)))
		}
	}
	b.WriteString(largest("Largest removed paths", r.Paths, func(p pathReport) bool { return !p.Keep }))
	if len(r.Reasons) > 0 {
		var rows [][]string
		for _, x := range r.Reasons[:min(len(r.Reasons), maxRows)] {
			what := verb
			if x.Keep {
				what = "kept"
			}
			rows = append(rows, []string{literal(cut(x.Reason, maxCell)) + ": " + what, ui.Number(x.Paths), ui.Bytes(x.FileSize)})
		}
		b.WriteString("### Why\n\n" + table([]string{"reason", "paths", "compressed"}, true, rows) + "\n")
	}
	return b.String()
}

func gcHeadline(r *gcReport, kept, removed total) string {
	switch {
	case r.Status == "failed":
		return "❌ <b>nothing was removed</b>"
	case r.DryRun:
		return fmt.Sprintf("🔍 <b>dry run</b>: nothing was changed · %s of %s would go", ui.Number(removed.Paths), ui.Count(removed.Paths+kept.Paths, "path"))
	case removed.Paths == 0:
		return "✅ <b>nothing to remove</b>"
	}
	return fmt.Sprintf("✅ <b>%s removed</b>, %s", ui.Count(removed.Paths, "path"), ui.Bytes(removed.FileSize))
}

// redact hides the step's secrets, should a log have one.
func (s *session) redact(text string) string { return string(s.cfg.secrets().Redact([]byte(text))) }

// cut shortens text to at most n bytes.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
