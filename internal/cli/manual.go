package cli

import (
	"flag"
	"fmt"
	"strings"
)

// The forms of a command's help: --help=FORM. All are made from the definitions
// of the flags.
const (
	helpText     = "text"
	helpMan      = "man"      // a page for man(1)
	helpMarkdown = "markdown" // a table for the documentation
	helpFlags    = "flags"    // for completions: a line for each flag, with the words that it takes
)

// helpForm is the value of --help. Without one it is helpText.
type helpForm string

func (h *helpForm) String() string { return string(*h) }

func (h *helpForm) IsBoolFlag() bool { return true }

func (h *helpForm) Set(s string) error {
	if *h = helpForm(s); s == "true" {
		*h = helpText
	}
	return nil
}

func (f *Flags) helpAs(form helpForm) string {
	switch form {
	case helpMan:
		return f.man()
	case helpMarkdown:
		return f.markdown()
	case helpFlags:
		return f.words()
	}
	return f.help()
}

// words lists the flags and the words that they take.
func (f *Flags) words() string {
	var b strings.Builder
	for _, d := range f.defined {
		b.WriteString("--" + d.flag.Name)
		if c, ok := d.flag.Value.(*choiceValue); ok {
			b.WriteString(" " + strings.Join(c.words, " "))
		}
		b.WriteByte('\n')
	}
	return b.String() + "--help\n--version\n"
}

// portable is the flag's default, "" if it is one of this machine only: what is
// written elsewhere must be the same wherever it is made.
func (d *definition) portable() string {
	if d.local {
		return ""
	}
	return d.fallback()
}

// markdown is a section of the documentation, with a table of the flags.
func (f *Flags) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s %s\n\n`%s %s %s`\n\n%s\n\n| flag | default | |\n|---|---|---|\n", Name, f.command.Name, Name, f.command.Name, f.command.Synopsis, f.command.About)
	for _, d := range f.defined {
		value, usage := flag.UnquoteUsage(d.flag)
		fallback := d.portable()
		if fallback != "" {
			fallback = "`" + fallback + "`"
		}
		if d.repeatable {
			usage += ". Repeatable"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", strings.TrimSpace("--"+d.flag.Name+" "+value), fallback, strings.ReplaceAll(usage, "|", `\|`))
	}
	if len(f.command.Environment) > 0 {
		b.WriteString("\n| variable | |\n|---|---|\n")
		for _, v := range f.command.Environment {
			fmt.Fprintf(&b, "| `%s` | %s |\n", v.Name, strings.ReplaceAll(v.usage(), "|", `\|`))
		}
	}
	return b.String()
}

// roff escapes text for man(7).
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

func manHead(b *strings.Builder, page, summary, synopsis, about string) {
	fmt.Fprintf(b, ".TH %s 1 \"\" \"%s %s\"\n.SH NAME\n%s \\- %s\n.SH SYNOPSIS\n%s\n.SH DESCRIPTION\n%s\n",
		strings.ToUpper(page), Name, roff(Version()), roff(page), roff(summary), roff(synopsis), roff(about))
}

// man is the command's page for man(1).
func (f *Flags) man() string {
	c := f.command
	var b strings.Builder
	manHead(&b, Name+"-"+c.Name, c.Summary, Name+" "+c.Name+" "+c.Synopsis, c.About)
	b.WriteString(".SH OPTIONS\nA flag wins over its environment variable, which wins over the default.\n")
	for _, d := range f.defined {
		value, usage := d.describe()
		if text := d.portable(); text != "" {
			usage += " (default " + text + ")"
		}
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(strings.TrimSpace("--"+d.flag.Name+" "+value)), roff(usage))
	}
	if len(c.Environment) > 0 {
		b.WriteString(".SH ENVIRONMENT\n")
		for _, v := range c.Environment {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", v.Name, roff(v.usage()))
		}
	}
	b.WriteString(".SH EXIT STATUS\n")
	for _, s := range c.statuses() {
		fmt.Fprintf(&b, ".TP\n.B %d\n%s\n", s.status, roff(s.meaning))
	}
	if c.Examples != "" {
		b.WriteString(".SH EXAMPLES\n.nf\n")
		for _, line := range c.examples() {
			b.WriteString(roff(line) + "\n")
		}
		b.WriteString(".fi\n")
	}
	return b.String()
}

// man is the program's own page.
func (p *Program) man() string {
	var b strings.Builder
	manHead(&b, Name, "Nix binary caches in OCI registries", Name+" COMMAND [ARGUMENT...]", p.About)
	b.WriteString(".SH COMMANDS\n")
	for _, c := range p.Commands {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s; see \\fB%s\\fR(1)\n", roff(c.Name), roff(c.Summary), roff(Name+"-"+c.Name))
	}
	for _, c := range own {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(strings.TrimSpace(c.Name+" "+c.Synopsis)), roff(c.Summary))
	}
	return b.String()
}
