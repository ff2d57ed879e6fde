package discover

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/org/nixoci-action/internal/nix"
)

// compilePattern turns a glob over attribute paths into one POSIX regular
// expression for each name, as builtins.match wants them. In a name, "*" is
// any text, "?" one byte, "[a-z]" and "[!a-z]" one of a set, "[*]", "[?]" and
// "[[]" these bytes themselves. A name with a dot in it is written in quotes, as
// Nix does, with Nix's escapes.
func compilePattern(glob string) ([]string, error) {
	names, err := splitAttr(glob)
	if err != nil {
		return nil, fmt.Errorf("pattern %q: %w", glob, err)
	}
	out := make([]string, len(names))
	for i, n := range names {
		re, err := globRegexp(n)
		if err != nil {
			return nil, fmt.Errorf("pattern %q: %w", glob, err)
		}
		out[i] = re
	}
	return out, nil
}

// splitAttr splits at the dots that are not inside quotes.
func splitAttr(s string) ([]string, error) {
	var names []string
	var b strings.Builder
	quoted, named := false, false // named: what is in b is a name, even if it is empty
	for i := 0; i <= len(s); i++ {
		switch {
		case i == len(s) || s[i] == '.' && !quoted:
			if b.Len() == 0 && !named {
				return nil, errors.New("an empty name")
			}
			names = append(names, b.String())
			b.Reset()
			named = false
		case s[i] == '"':
			quoted, named = !quoted, true
		case quoted && s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(unescape(s[i]))
		default:
			b.WriteByte(s[i])
		}
	}
	if quoted {
		return nil, errors.New("a quote is not closed")
	}
	return names, nil
}

// unescape is the byte that Nix writes as a backslash and c.
func unescape(c byte) byte {
	switch c {
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return c
}

var (
	globEscapes = strings.NewReplacer("*", "[*]", "?", "[?]", "[", "[[]")
	// plain is a name that means itself in a pattern, with no quotes around it.
	plain = regexp.MustCompile(`^[A-Za-z0-9_'+=:@%/-]+$`)
)

// Pattern returns a pattern for Options.Include that matches the output and no
// other. It is one line of text without spaces at its ends.
func (o *Output) Pattern() string {
	attr := o.Attr
	switch o.Kind {
	case NixOS, Darwin, Home:
		attr = attr[:min(len(attr), 2)] // patterns are for the configuration, not for what is built of it
	}
	names := make([]string, len(attr))
	for i, n := range attr {
		if names[i] = n; !plain.MatchString(n) {
			names[i] = nix.Quote(globEscapes.Replace(n))
		}
	}
	return strings.Join(names, ".")
}

func globRegexp(glob string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(glob); i++ {
		switch c := glob[i]; c {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteByte('.')
		case '[':
			end := strings.IndexByte(glob[i+1:], ']')
			set := ""
			if end > 0 {
				set = glob[i+1 : i+1+end]
			}
			if set == "[" {
				b.WriteString(`\[`)
				i += 2
				continue
			}
			if strings.TrimLeft(set, "!^") == "" || strings.ContainsAny(set, `[\`) {
				return "", fmt.Errorf("%q is not a set", glob[i:])
			}
			if set[0] == '!' {
				set = "^" + set[1:]
			}
			b.WriteString("[" + set + "]")
			i += 1 + end
		case ']', '}': // which builtins.match does not take with a backslash
			b.WriteString("[" + string(c) + "]")
		default:
			if strings.IndexByte(`\.+*?()|[{^$`, c) >= 0 {
				b.WriteByte('\\')
			}
			b.WriteByte(c)
		}
	}
	re := b.String()
	// A range the wrong way round would end the evaluation.
	if _, err := regexp.CompilePOSIX(re); err != nil {
		return "", fmt.Errorf("%q is not a glob", glob)
	}
	return re, nil
}
