package nix

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// Requisites returns the closure of one store path: itself and all that it
// refers to, what is referred to first.
func (c *Client) Requisites(ctx context.Context, path string) ([]string, error) {
	if err := checkPaths([]string{path}); err != nil {
		return nil, fmt.Errorf("asking for the closure of a path: %w", err)
	}
	lines, err := c.paths(ctx, []string{"--query", "--requisites", path})
	if err != nil {
		return nil, fmt.Errorf("asking for the closure of %s: %w", path, err)
	}
	return lines, nil
}

// BuildLog returns the last lines, at most n, of what the build of a
// derivation printed on this machine. Escape sequences and control characters
// are taken out. Without a log it is an error.
func (c *Client) BuildLog(ctx context.Context, drv string, n int) (string, error) {
	if err := checkPaths([]string{drv}); err != nil {
		return "", fmt.Errorf("reading a build log: %w", err)
	}
	end := &tail{}
	err := c.run(ctx, command{program: "nix-store", args: []string{"--read-log", drv}, quiet: true}, func(r io.Reader) error {
		_, err := io.Copy(end, r)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("reading the build log of %s: %w", drv, err)
	}
	lines := strings.Split(strings.TrimSpace(clean(string(end.buf))), "\n")
	s := strings.Join(lines[max(0, len(lines)-n):], "\n")
	if len(s) > messageSize {
		s = "…" + strings.ToValidUTF8(s[len(s)-messageSize:], "")
	}
	return s, nil
}

// Built returns the paths that were built on this machine, not substituted or
// copied, and others that became valid at the given time or later. Time is
// counted in whole seconds: what came in the second before since may be among
// them. Derivations and sources are in neither.
func (c *Client) Built(ctx context.Context, since time.Time) (built, fetched []string, err error) {
	v, err := c.Version(ctx)
	if err != nil {
		return nil, nil, err
	}
	cmd := command{program: "nix", args: []string{"path-info", "--json", "--all"}}
	if v.hasJSONFormat() {
		cmd.args = append(cmd.args, "--json-format", "1")
	}
	infos, _, err := c.pathInfo(ctx, cmd)
	if err != nil {
		return nil, nil, fmt.Errorf("reading path information: %w", err)
	}
	since = since.Truncate(time.Second)
	for _, i := range infos {
		switch {
		case i.Registered.Before(since):
		case i.Ultimate:
			built = append(built, i.Path)
		case i.Deriver != "" || len(i.Signatures) > 0:
			fetched = append(fetched, i.Path)
		}
	}
	return built, fetched, nil
}
