package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nix-community/go-nix/pkg/nar"
	"github.com/nix-community/go-nix/pkg/nixbase32"
)

// store is a Nix store in a directory of its own.
type store struct {
	dir string // the store directory
	env []string
}

// path is one store path.
type path struct {
	name string // absolute
	refs []*path

	narHash [sha256.Size]byte
	narSize int64
}

func newStore(dir string) (*store, error) {
	s := &store{dir: filepath.Join(dir, "store"), env: []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir + "/home",
		"NIX_STORE_DIR=" + dir + "/store", "NIX_STATE_DIR=" + dir + "/var", "NIX_LOG_DIR=" + dir + "/log", "NIX_CONF_DIR=" + dir + "/etc",
		"NIX_CONFIG=experimental-features = nix-command flakes\nsandbox = false\nbuild-users-group =\nsubstituters =\nmax-jobs = 2\n",
	}}
	for _, sub := range []string{"store", "home", "etc"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// path names a store path, without making it. Its hash part depends on the
// name only.
func (s *store) path(name string) *path {
	sum := sha256.Sum256([]byte(name))
	return &path{name: s.dir + "/" + nixbase32.EncodeToString(sum[:20]) + "-" + name}
}

// measure finds out the NAR hash and size of a path whose files are written.
func (p *path) measure() error {
	h := &counter{w: sha256.New()}
	buf := bufio.NewWriterSize(h, 256<<10)
	if err := nar.DumpPath(buf, p.name); err != nil {
		return fmt.Errorf("reading %s: %w", p.name, err)
	}
	if err := buf.Flush(); err != nil {
		return err
	}
	p.narHash, p.narSize = h.sum(), h.n
	return nil
}

// register makes paths valid. Nothing was built: publish asks what the store's
// database says, and that can be said directly.
func (s *store) register(ctx context.Context, paths []*path) error {
	var b bytes.Buffer
	for _, p := range paths {
		fmt.Fprintf(&b, "%s\n%s\n%d\n\n%d\n", p.name, hex.EncodeToString(p.narHash[:]), p.narSize, len(p.refs))
		for _, r := range p.refs {
			fmt.Fprintln(&b, r.name)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nix-store", "--load-db")
	cmd.Env, cmd.Stdin = s.env, &b
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("registering store paths: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
