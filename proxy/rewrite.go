package proxy

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/org/nixoci-action/internal/storepath"
)

// rewriteNarinfo makes the URL in an upstream's narinfo absolute, and leaves
// everything else as it is. It refuses what would make Nix fail instead of
// look elsewhere: a text that is no narinfo, such as a login page, one with a
// field that Nix cannot parse, and one of another store path.
func rewriteNarinfo(text string, base *url.URL, hashPart, storeDir string) (string, error) {
	var out strings.Builder
	out.Grow(len(text) + len(base.String()))
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		key, value, ok := strings.Cut(line, ": ")
		if !ok {
			if key, ok = strings.CutSuffix(line, ":"); !ok { // "References:" without any
				return "", errors.New("the upstream's answer is no narinfo")
			}
		}
		if seen[key] && key != "Sig" {
			return "", fmt.Errorf("the upstream's narinfo has two lines %q", key)
		}
		seen[key] = true
		value, err := checkField(key, value, base, hashPart, storeDir)
		if err != nil {
			return "", err
		}
		out.WriteString(key + ": " + value + "\n")
	}
	for _, key := range []string{"StorePath", "URL", "NarHash", "NarSize"} {
		if !seen[key] {
			return "", fmt.Errorf("the upstream's narinfo has no %s", key)
		}
	}
	return out.String(), nil
}

// checkField returns a field's value as it is to be served.
func checkField(key, value string, base *url.URL, hashPart, storeDir string) (string, error) {
	switch key {
	case "StorePath":
		p, err := storepath.Parse(value)
		if err != nil {
			return "", fmt.Errorf("the upstream's narinfo: %w", err)
		}
		if p.HashPart != hashPart || p.Dir != storeDir {
			return "", fmt.Errorf("the upstream's narinfo is of %s", p)
		}
	case "URL":
		u, err := base.Parse(value)
		if err != nil || value == "" || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return "", errors.New("the upstream's narinfo has no usable URL")
		}
		return u.String(), nil
	case "NarSize":
		if n, err := strconv.ParseUint(value, 10, 63); err != nil || n == 0 {
			return "", fmt.Errorf("the upstream's narinfo has the NarSize %q", value)
		}
	case "NarHash":
		if value == "" {
			return "", errors.New("the upstream's narinfo has no NarHash")
		}
	case "References":
		for _, r := range strings.Fields(value) {
			if _, err := storepath.ParseBase(r); err != nil {
				return "", fmt.Errorf("the upstream's narinfo: reference %w", err)
			}
		}
	case "Deriver":
		if value == "unknown-deriver" {
			break
		}
		if _, err := storepath.ParseBase(value); err != nil {
			return "", fmt.Errorf("the upstream's narinfo: deriver %w", err)
		}
	}
	return value, nil
}
