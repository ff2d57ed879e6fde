package bincache

import (
	"fmt"
	"strings"
)

// Substituter is what a Nix configuration says of a cache.
type Substituter struct {
	URL string
	// PublicKeys are "name:base64". Without any the cache is trusted, because
	// Nix would take nothing from it.
	PublicKeys []string
	// Untrusted tells that it has keys, and none to be trusted: then no lines have
	// Nix take anything from it.
	Untrusted bool
}

// The names of the settings. They add to those that there are.
const (
	SettingSubstituters = "extra-substituters"
	SettingKeys         = "extra-trusted-public-keys"
)

// Address is the URL with what Nix has to be told in it.
func (s Substituter) Address() string {
	if len(s.PublicKeys) == 0 && !s.Untrusted {
		return s.URL + "?trusted=1"
	}
	return s.URL
}

// Lines are the lines for nix.conf. The error tells of what would be read as
// something else there.
func (s Substituter) Lines() (string, error) {
	lines, err := Setting(SettingSubstituters, s.Address())
	if err != nil || len(s.PublicKeys) == 0 {
		return lines, err
	}
	keys, err := Setting(SettingKeys, s.PublicKeys...)
	return lines + keys, err
}

// Shown is Lines for people to read. What cannot be a line is a comment that says
// so.
func (s Substituter) Shown() string {
	lines, err := s.Lines()
	if err != nil {
		return "# " + err.Error() + "\n"
	}
	return lines
}

// NixOS are the lines for a NixOS configuration.
func (s Substituter) NixOS() string {
	var b strings.Builder
	b.WriteString("nix.settings = {\n  " + SettingSubstituters + " = [ " + quoteNix(s.Address()) + " ];\n")
	if len(s.PublicKeys) > 0 {
		b.WriteString("  " + SettingKeys + " = [")
		for _, k := range s.PublicKeys {
			b.WriteString(" " + quoteNix(k))
		}
		b.WriteString(" ];\n")
	}
	b.WriteString("};\n")
	return b.String()
}

// Setting is a line of nix.conf with a list of words. It knows no quotes, so
// what is not a word by itself is an error.
func Setting(name string, words ...string) (string, error) {
	for _, w := range words {
		for i := range len(w) {
			if c := w[i]; c <= ' ' || c > '~' || c == '#' {
				return "", fmt.Errorf("%q cannot stand in nix.conf, which has no quotes for %q", w, c)
			}
		}
		if w == "" {
			return "", fmt.Errorf("an empty word cannot stand in nix.conf, as one of %s", name)
		}
	}
	return name + " = " + strings.Join(words, " ") + "\n", nil
}

// quoteNix is a string of the Nix language.
func quoteNix(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", `\${`, "\n", `\n`, "\r", `\r`).Replace(s) + `"`
}
