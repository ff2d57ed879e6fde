package publish

import (
	"cmp"
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/origin"
)

// gitTimeout bounds the reading of a repository's configuration.
const gitTimeout = 10 * time.Second

// flakeOrigin names where a flake comes from that was given as a folder, or by a
// name of the registry of flakes: these mean something else on another machine.
// It is "" for all others, which say it themselves.
func (p *publisher) flakeOrigin(ctx context.Context, f nix.Flake) string {
	resolved := cmp.Or(f.Resolved, f.Original)
	ref, query, _ := strings.Cut(resolved, "?")
	values, _ := url.ParseQuery(query) // what does not parse chooses nothing
	if dir, ok := strings.CutPrefix(ref, "git+file://"); ok {
		dir = folder(dir)
		return origin.Within(cmp.Or(p.remote(ctx, dir), onHost(dir)), values)
	}
	if dir, ok := strings.CutPrefix(ref, "path:"); ok {
		return origin.Within(onHost(folder(strings.TrimPrefix(dir, "//"))), values)
	}
	if resolved != f.Original {
		return p.printable(resolved)
	}
	return ""
}

// folder is the one folder that all ways to it lead to.
func folder(escaped string) string {
	dir, err := url.PathUnescape(escaped)
	if err != nil {
		dir = escaped
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	return dir
}

func onHost(dir string) string {
	host, err := os.Hostname()
	if err != nil {
		return ""
	}
	return origin.Folder(host, dir)
}

// remote names the repository that a work tree, or a bare repository, was cloned
// from: its remote origin, or the only one. It is "" if there is none on another
// machine, or if Git does not say.
func (p *publisher) remote(ctx context.Context, dir string) string {
	if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
		dir = filepath.Join(dir, ".git")
	}
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", "--git-dir="+dir, "remote", "--verbose")
	cmd.WaitDelay = time.Second
	cmd.Env = []string{} // nil would be this process's
	for _, kv := range p.GitEnv {
		name, _, _ := strings.Cut(kv, "=")
		if slices.Contains([]string{"PATH", "HOME", "XDG_CONFIG_HOME"}, name) { // no secrets, and no GIT_DIR
			cmd.Env = append(cmd.Env, kv)
		}
	}
	out, err := cmd.Output()
	if err != nil {
		p.Log.Debug("Git does not say where the flake comes from", "folder", dir, "error", err)
		return ""
	}
	return parseRemotes(string(out))
}

// parseRemotes reads lines of NAME, a tab, URL and " (fetch)" or " (push)".
func parseRemotes(text string) string {
	var names []string
	for line := range strings.Lines(text) {
		remote, rest, _ := strings.Cut(line, "\t")
		i := strings.LastIndex(rest, " (fetch)")
		if i < 0 {
			continue
		}
		name := origin.URL(rest[:i])
		if remote == "origin" {
			return name
		}
		names = append(names, name)
	}
	if len(names) != 1 {
		return ""
	}
	return names[0]
}
