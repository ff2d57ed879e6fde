package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/org/nixoci-action/internal/hint"
)

// Name is the name of the program.
const Name = "nixoci"

// Program is the program with all its commands.
type Program struct {
	// About is one paragraph. It is wrapped when printed.
	About string
	// Commands are the commands, in the order of the help.
	Commands []Subcommand
}

// Subcommand is a command with what it does.
type Subcommand struct {
	*Command
	Run Run
}

// find returns the command with a name, nil if there is none.
func (p *Program) find(name string) *Subcommand {
	i := slices.IndexFunc(p.Commands, func(c Subcommand) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &p.Commands[i]
}

// As returns what a process does that was started by the given name: the command
// of that name, as in "gc" or "nixoci-gc", or else the whole program.
func (p *Program) As(argv0 string) Run {
	if c := p.find(strings.TrimPrefix(filepath.Base(argv0), Name+"-")); c != nil {
		return c.Run
	}
	return p.Run
}

// Run runs the command that the first argument names. It returns the exit status.
func (p *Program) Run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	name := "help"
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	print := func(text string, err error) int {
		if err == nil {
			err = &output{text}
		}
		return Report(ctx, err, getenv, stdout, stderr)
	}
	switch name {
	case "help", "--help", "-h":
		if c, format := p.helpOf(args); c != nil {
			return c.Run(ctx, []string{"--help=" + format}, getenv, stdin, stdout, stderr)
		}
		return print(p.help(args))
	case "version", "--version":
		return print(Name+" "+Version()+"\n", nil)
	case "completion":
		return print(p.completion(args, getenv))
	}
	if c := p.find(name); c != nil {
		return c.Run(ctx, args, getenv, stdin, stdout, stderr)
	}
	return print("", p.unknown(name))
}

// own are the commands that the program answers by itself.
var own = []Command{
	{Name: "completion", Synopsis: "bash | zsh | fish", Summary: "prints the shell's completions"},
	{Name: "help", Synopsis: "[COMMAND]", Summary: "tells about a command"},
	{Name: "version", Summary: "prints the version"},
}

// names are the names of all commands.
func (p *Program) names() []string {
	var names []string
	for _, c := range p.Commands {
		names = append(names, c.Name)
	}
	for _, c := range own {
		names = append(names, c.Name)
	}
	return names
}

// helpOf finds the command whose help is asked for, and the format.
func (p *Program) helpOf(args []string) (c *Subcommand, format string) {
	format = helpText
	if len(args) == 2 && args[0] == "--man" {
		args, format = args[1:], helpMan
	}
	if len(args) == 1 {
		c = p.find(args[0])
	}
	return c, format
}

// help is the help of the program as a whole.
func (p *Program) help(args []string) (string, error) {
	switch {
	case slices.Equal(args, []string{"--man"}):
		return p.man(), nil
	case len(args) > 1:
		return "", WithStatus(hint.Wrap(fmt.Errorf("unexpected argument %q", args[1]), "see "+Name+" help"), ExitUsage)
	case len(args) == 1 && !slices.Contains(p.names(), args[0]):
		return "", p.unknown(args[0])
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s COMMAND [ARGUMENT...]\n\n", Name)
	wrap(&b, "", p.About)
	b.WriteString("\nCommands:\n")
	line := func(c *Command) { fmt.Fprintf(&b, "  %-11s %s\n", c.Name, c.Summary) }
	for _, c := range p.Commands {
		line(c.Command)
	}
	for i := range own {
		line(&own[i])
	}
	fmt.Fprintf(&b, "\n%s help COMMAND tells about a command.\n", Name)
	return b.String(), nil
}

// unknown tells that there is no command of a name, and which may be meant.
func (p *Program) unknown(name string) error {
	err := fmt.Errorf("there is no command %q", name)
	advice := "see " + Name + " help"
	nearest, distance := "", min(3, len(name)) // more slips make another word
	for _, n := range p.names() {
		if d := editDistance(name, n); d < distance {
			nearest, distance = n, d
		}
	}
	if nearest != "" {
		advice = "did you mean " + Name + " " + nearest + "?"
	}
	return WithStatus(hint.Wrap(err, advice), ExitUsage)
}

// editDistance is the number of characters to insert, delete or replace to make
// b of a.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// errShell tells how to ask for completions.
var errShell = WithStatus(hint.Wrap(errors.New("no shell is named"), "give one of bash, zsh and fish"), ExitUsage)
