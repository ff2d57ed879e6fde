package cli

import (
	"context"
	"io"
	"slices"
	"strings"
)

// The shells ask the program itself for completions, so a script has to say
// only how. Bash and zsh pass the line in COMP_LINE, up to COMP_POINT; fish gives
// it as an argument.
var completions = map[string]string{
	"bash": "complete -o default -C 'nixoci completion words' nixoci\n",
	"zsh":  "#compdef nixoci\nautoload -U +X bashcompinit && bashcompinit\ncomplete -o default -C 'nixoci completion words' nixoci\n",
	"fish": "complete -c nixoci -n 'test (count (commandline -opc)) -eq 1' -f\ncomplete -c nixoci -a '(nixoci completion words (commandline -cp))'\n",
}

// completion answers the command of that name.
func (p *Program) completion(args []string, getenv func(string) string) (string, error) {
	if len(args) > 0 && args[0] == "words" {
		line := getenv("COMP_LINE")
		if line == "" && len(args) == 2 {
			line = args[1]
		}
		words := p.complete(line, getenv)
		return strings.Join(append(words, ""), "\n"), nil
	}
	if len(args) == 1 && completions[args[0]] != "" {
		return completions[args[0]], nil
	}
	return "", errShell
}

// complete returns what the last word of a command line can become.
func (p *Program) complete(line string, getenv func(string) string) (words []string) {
	given := strings.Fields(line)
	if line == "" || strings.HasSuffix(line, " ") {
		given = append(given, "")
	}
	last := len(given) - 1
	begins := func(candidates []string) []string {
		return slices.DeleteFunc(slices.Clone(candidates), func(w string) bool { return !strings.HasPrefix(w, given[last]) })
	}
	switch {
	case last < 1:
		return nil
	case last == 1:
		return begins(p.names())
	case last == 2 && given[1] == "help":
		return begins(p.names())
	case last == 2 && given[1] == "completion":
		return begins([]string{"bash", "zsh", "fish"})
	}
	c := p.find(given[1])
	if c == nil {
		return nil
	}
	for line := range strings.Lines(c.helpAs(helpFlags, getenv)) {
		flag, values, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if given[last-1] == flag && values != "" {
			return begins(strings.Fields(values))
		}
		words = append(words, flag)
	}
	if !strings.HasPrefix(given[last], "-") {
		return nil // a value: the shell completes files
	}
	return begins(words)
}

// helpAs returns a command's help in one of the forms.
func (c *Subcommand) helpAs(format string, getenv func(string) string) string {
	var b strings.Builder
	if c.Run(context.Background(), []string{"--help=" + format}, getenv, strings.NewReader(""), &b, io.Discard) != ExitDone {
		return ""
	}
	return b.String()
}
