// Package cli is what the commands share: flags with their environment
// variables, help, exit statuses, signals, default places. It knows nothing of
// what the commands do.
package cli

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

// Command describes a command for its help text.
type Command struct {
	// Name is the name of the binary.
	Name string
	// Synopsis is what follows the name in the usage line.
	Synopsis string
	// About is one paragraph. It is wrapped when printed.
	About string
	// Examples are command lines, one in each line.
	Examples string
	// Environment describes variables that belong to no flag.
	Environment []Variable
	// Partly says what the exit status 3 means here; empty if the command
	// never ends with it.
	Partly string
}

// Variable is an environment variable for which there is no flag, such as a
// secret.
type Variable struct{ Name, Usage string }

// Flags starts the definition of c's flags. The environment is looked up with
// getenv, during Parse only (and for the default of Cache).
func (c *Command) Flags(getenv func(string) string) *Flags {
	f := &Flags{
		command: c,
		set:     flag.NewFlagSet(c.Name, flag.ContinueOnError),
		getenv:  getenv,
	}
	f.set.SetOutput(io.Discard) // errors are returned, and printed once by Report
	f.set.Usage = func() {}
	return f
}

const helpWidth = 80

// help is the help text, made from the definitions of the flags.
func (f *Flags) help() string {
	c := f.command
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s %s\n\n", c.Name, c.Synopsis)
	wrap(&b, "", c.About)
	if c.Examples != "" {
		b.WriteString("\nExamples:\n")
		for line := range strings.Lines(strings.TrimSpace(c.Examples) + "\n") {
			b.WriteString("  " + strings.TrimLeft(line, " \t"))
		}
	}
	b.WriteString("\nFlags (a flag wins over its environment variable, which wins over the default):\n")
	for _, d := range f.defined {
		f.describe(&b, d)
	}
	b.WriteString("  --version\n      print the version\n  --help\n      print this text\n")
	if len(c.Environment) > 0 {
		b.WriteString("\nEnvironment:\n")
		for _, v := range c.Environment {
			b.WriteString("  " + v.Name + "\n")
			usage := v.Usage
			if mayBeFile(v.Name) {
				usage += "; or " + v.Name + "_FILE, a file with it"
			}
			wrap(&b, "      ", usage)
		}
	}
	b.WriteString("\nExit status:\n")
	fmt.Fprintf(&b, "  %-3d  done\n  %-3d  failed\n  %-3d  wrong usage or configuration\n", ExitDone, ExitFailed, ExitUsage)
	if c.Partly != "" {
		fmt.Fprintf(&b, "  %-3d  partly done: %s\n", ExitPartly, c.Partly)
	}
	fmt.Fprintf(&b, "  %-3d  interrupted\n", ExitInterrupted)
	return b.String()
}

func (f *Flags) describe(b *strings.Builder, d definition) {
	value, usage := flag.UnquoteUsage(d.flag)
	b.WriteString("  --" + d.flag.Name)
	if value != "" {
		b.WriteString(" " + value)
	}
	b.WriteByte('\n')
	if d.repeatable {
		usage += " (repeatable)"
	}
	note := "[" + d.env + "]"
	if d.flag.DefValue != "" && d.flag.DefValue != "false" {
		note += " (default " + d.flag.DefValue + ")"
	}
	wrap(b, "      ", usage+" "+note)
}

// wrap writes text with every line indented, broken at spaces.
func wrap(b *strings.Builder, indent, text string) {
	line := indent
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == indent:
		case len(line)+1+len(word) > helpWidth:
			b.WriteString(line + "\n")
			line = indent
		default:
			line += " "
		}
		line += word
	}
	b.WriteString(line + "\n")
}
