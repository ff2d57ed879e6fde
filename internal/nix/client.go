// Package nix runs Nix's own programs, and decodes what they print. It hides
// the differences between Nix 2.8 and today's versions, Lix and Determinate Nix
// included. It knows nothing of registries.
//
// Decisions rest on exit statuses and standard output only. What Nix writes to
// standard error goes to people: live, and at the end of an error.
package nix

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/org/nixoci-action/internal/hint"
)

// Options configure a Client. The zero value runs "nix" with an empty
// environment, which has no PATH: give at least BinDir or Env.
type Options struct {
	// BinDir is the directory that holds nix and nix-store. If empty, they are
	// looked up in the PATH of Env.
	BinDir string
	// Env is the caller's environment, "NAME=value". Secrets are taken out
	// before any child sees it.
	Env []string
	// Args are added to every command, for example "--option", "cores", "2".
	Args []string
	// Stderr receives Nix's log as it is written. If nil, it is dropped.
	Stderr io.Writer
	// Logger receives one debug record for each command. If nil, none.
	Logger *slog.Logger
}

// Client runs Nix commands. It is safe for concurrent use.
type Client struct {
	binDir string
	env    []string
	args   []string
	stderr io.Writer
	log    *slog.Logger
	// stopDelay is shortened by tests.
	stopDelay time.Duration

	mu      sync.Mutex
	version *Version
}

// New returns a Client. It runs nothing yet: a missing Nix shows at the first
// command.
func New(opts Options) *Client {
	return &Client{
		binDir: opts.BinDir,
		env:    childEnv(opts.Env),
		args:   append([]string{"--extra-experimental-features", "nix-command flakes"}, opts.Args...),
		stderr: &lockedWriter{w: cmp.Or[io.Writer](opts.Stderr, io.Discard)},
		log:    cmp.Or(opts.Logger, slog.New(slog.DiscardHandler)),

		stopDelay: stopDelay,
	}
}

// lockedWriter lets commands that run at the same time share one log.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// program returns the absolute name of one of Nix's programs. The PATH is the
// one in the child's environment, not this process's.
func (c *Client) program(name string) (string, error) {
	dirs := []string{c.binDir}
	if c.binDir == "" {
		dirs = filepath.SplitList(envValue(c.env, "PATH"))
	}
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) {
			continue // never run a "nix" that lies about in the working directory
		}
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	err := fmt.Errorf("looking for %s in %s: %w", name, strings.Join(dirs, string(filepath.ListSeparator)), fs.ErrNotExist)
	return "", hint.Wrap(err, "is Nix installed? https://nixos.org/download, or in GitHub Actions: uses: cachix/install-nix-action")
}

// errStopped is the cause of stopping a command because its output is not wanted any more.
var errStopped = errors.New("its reader gave up")
