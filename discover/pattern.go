package discover

import (
	"fmt"
	"regexp"
	"strings"
)

// compilePattern turns a glob over attribute paths into one POSIX regular
// expression for each name, as builtins.match wants them. In a name, "*" is
// any text, "?" one byte, "[a-z]" and "[!a-z]" one of a set. A name with a dot
// in it is written in quotes, as Nix does.
func compilePattern(glob string) ([]string, error) {
	names, err := splitAttr(glob)
	if err != nil {
		return nil, err
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
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case c == '.' && !quoted:
			names = append(names, b.String())
			b.Reset()
		default:
			b.WriteByte(c)
		}
	}
	names = append(names, b.String())
	if quoted {
		return nil, fmt.Errorf("pattern %q: a quote is not closed", s)
	}
	for _, n := range names {
		if n == "" {
			return nil, fmt.Errorf("pattern %q: an empty name", s)
		}
	}
	return names, nil
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
			if strings.TrimLeft(set, "!^") == "" || strings.ContainsAny(set, `[\`) {
				return "", fmt.Errorf("%q is not a set", glob[i:])
			}
			if set[0] == '!' {
				set = "^" + set[1:]
			}
			b.WriteString("[" + set + "]")
			i += 1 + end
		default:
			if strings.IndexByte(`\.+*?()|[]{}^$`, c) >= 0 {
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
