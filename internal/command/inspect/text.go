package inspect

import (
	"fmt"
	"strings"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/page"
)

// maxRows is how much of a list is printed; --json has all of it.
const maxRows = 10

func summaryText(s page.Summary) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s, %s in the registry, %s unpacked\n", s.Cache, ui.Count(s.Paths.Paths, "store path"), ui.Bytes(s.Stored), ui.Bytes(s.Paths.NarSize))
	if len(s.PublicKeys) > 0 {
		fmt.Fprintf(&b, "public keys: %s\n", strings.Join(s.PublicKeys, " "))
	}
	if len(s.RetiredKeys) > 0 {
		fmt.Fprintf(&b, "retired keys: %s\n", strings.Join(s.RetiredKeys, " "))
	}
	if len(s.UnvouchedKeys) > 0 {
		fmt.Fprintf(&b, "keys for which no trusted key vouches: %s\n", strings.Join(s.UnvouchedKeys, " "))
	}
	if s.Removable.Paths > 0 {
		fmt.Fprintf(&b, "gc would remove %s, %s\n", ui.Count(s.Removable.Paths, "store path"), ui.Bytes(s.Removable.FileSize))
	}
	if len(s.Publications) > 0 {
		fmt.Fprintf(&b, "\n%s, newest first:\n", ui.Count(len(s.Publications), "publication"))
		b.WriteString(publicationsText(s.Publications))
	}
	if len(s.Largest) > 0 {
		b.WriteString("\nlargest store paths:\n" + pathsText(s.Largest))
	}
	return b.String()
}

func publicationsText(pubs []page.PublicationSummary) string {
	var rows [][]string
	for _, p := range pubs[:min(len(pubs), maxRows)] {
		kept := p.Reason
		if !p.Keep {
			kept = "no longer kept: " + kept
		}
		rows = append(rows, []string{minute(p.Time), ui.Line(p.From), ui.Number(p.Outputs), ui.Bytes(p.Reaches.FileSize), ui.Line(kept)})
	}
	return ui.Table([]string{"published (UTC)", "from", "outputs", "reaches", "kept"}, rows) + more(len(pubs))
}

func pathsText(paths []page.PathSummary) string {
	var rows [][]string
	for _, p := range paths {
		rows = append(rows, []string{ui.Bytes(p.FileSize), ui.Bytes(p.NarSize), p.Path, kept(p)})
	}
	return ui.Table([]string{"compressed", "NAR size", "path", "kept by"}, rows)
}

func kept(p page.PathSummary) string {
	if p.Keep {
		return ui.Line(p.Reason)
	}
	return "nothing: " + ui.Line(p.Reason)
}

func listText(l pathList) string {
	shown := l.Paths[:min(len(l.Paths), 5*maxRows)]
	text := fmt.Sprintf("%s have this in their names:\n%s", ui.Count(l.Count, "store path"), pathsText(shown))
	if left := l.Count - len(shown); left > 0 {
		text += fmt.Sprintf("and %s more\n", ui.Number(left))
	}
	return text
}

func pathText(r page.PathReport) string {
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "%-12s %s\n", name, value) }
	b.WriteString(r.Path + "\n")
	line("NAR size", ui.Bytes(r.NarSize))
	line("compressed", ui.Bytes(r.FileSize)+", "+r.Compression)
	line("closure", closureText(r.Closure))
	line("added", minute(r.Added)+" UTC")
	line("signed by", signers(r.Signatures))
	if r.Deriver != "" {
		line("deriver", r.Deriver)
	}
	if r.CA != "" {
		line("CA", r.CA)
	}
	line("NAR hash", r.NarHash)
	line("file hash", r.FileHash)
	line("kept by", kept(r.PathSummary))
	if len(r.Publications) > 0 {
		b.WriteString("\nneeded by:\n" + publicationsText(r.Publications))
	}
	for _, list := range []struct {
		name  string
		paths []string
	}{{"references", r.References}, {"referrers", r.Referrers}} {
		fmt.Fprintf(&b, "\n%s: %s\n", list.name, ui.Number(len(list.paths)))
		shown := list.paths[:min(len(list.paths), 2*maxRows)]
		for _, p := range shown {
			b.WriteString("  " + p + "\n")
		}
		if left := len(list.paths) - len(shown); left > 0 {
			fmt.Fprintf(&b, "  and %s more\n", ui.Number(left))
		}
	}
	return b.String()
}

func closureText(t index.Total) string {
	return fmt.Sprintf("%s in %s of this cache, %s compressed", ui.Bytes(t.NarSize), ui.Count(t.Paths, "path"), ui.Bytes(t.FileSize))
}

func signers(signatures []string) string {
	var names []string
	for _, s := range signatures {
		name, _, _ := strings.Cut(s, ":")
		names = append(names, name)
	}
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}

func more(n int) string {
	if n <= maxRows {
		return ""
	}
	return fmt.Sprintf("and %s more\n", ui.Number(n-maxRows))
}

func minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }
