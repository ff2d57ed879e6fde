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
	// Name is what follows the program's name on the command line.
	Name string
	// Summary is one line for the list of commands.
	Summary string
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
	fmt.Fprintf(&b, "Usage: %s %s %s\n\n", Name, c.Name, c.Synopsis)
	wrap(&b, "", c.About)
	if c.Examples != "" {
		b.WriteString("\nExamples:\n")
		for _, line := range c.examples() {
			b.WriteString("  " + line + "\n")
		}
	}
	b.WriteString("\nFlags (a flag wins over its environment variable, which wins over the default):\n")
	for _, d := range f.defined {
		value, usage := d.describe()
		if text := d.fallback(); text != "" {
			usage += " (default " + text + ")"
		}
		b.WriteString("  " + strings.TrimSpace("--"+d.flag.Name+" "+value) + "\n")
		wrap(&b, "      ", usage)
	}
	b.WriteString("  --version\n      print the version\n  --help\n      print this text\n")
	if len(c.Environment) > 0 {
		b.WriteString("\nEnvironment:\n")
		for _, v := range c.Environment {
			b.WriteString("  " + v.Name + "\n")
			wrap(&b, "      ", v.usage())
		}
	}
	b.WriteString("\nExit status:\n")
	for _, s := range c.statuses() {
		fmt.Fprintf(&b, "  %-3d  %s\n", s.status, s.meaning)
	}
	return b.String()
}

// examples are the lines of c.Examples.
func (c *Command) examples() []string {
	var lines []string
	for line := range strings.Lines(strings.TrimSpace(c.Examples)) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

type exitStatus struct {
	status  int
	meaning string
}

// statuses are the exit statuses of the command.
func (c *Command) statuses() []exitStatus {
	all := []exitStatus{{ExitDone, "done"}, {ExitFailed, "failed"}, {ExitUsage, "wrong usage or configuration"}}
	if c.Partly != "" {
		all = append(all, exitStatus{ExitPartly, "partly done: " + c.Partly})
	}
	return append(all, exitStatus{ExitInterrupted, "interrupted"})
}

// usage says what the variable is, and in what other way it can be given.
func (v *Variable) usage() string {
	if mayBeFile(v.Name) {
		return v.Usage + "; or " + v.Name + "_FILE, a file with it"
	}
	return v.Usage
}

// fallback is the flag's default, "" if there is none to speak of.
func (d *definition) fallback() string {
	if d.flag.DefValue == "false" {
		return ""
	}
	return d.flag.DefValue
}

// describe returns the name of the flag's value, if it takes one, and what it does.
func (d *definition) describe() (value, usage string) {
	value, usage = flag.UnquoteUsage(d.flag)
	if d.repeatable {
		usage += " (repeatable)"
	}
	usage += " [" + d.env + "]"
	return value, usage
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
