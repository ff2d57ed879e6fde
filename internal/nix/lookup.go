package nix

import (
	"context"
	"fmt"
	"io"
	"strings"
)

// StoreDir returns the directory of the store, such as /nix/store.
func (c *Client) StoreDir(ctx context.Context) (string, error) {
	var dir strings.Builder
	err := c.run(ctx, command{program: "nix", args: []string{"eval", "--raw", "--expr", "builtins.storeDir"}, quiet: true}, func(r io.Reader) error {
		_, err := io.Copy(&dir, io.LimitReader(r, 4096))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("asking for the store directory: %w", err)
	}
	return strings.TrimSuffix(dir.String(), "\n"), nil
}

// Seek has Nix look for a store path in all of its substituters, and fetch
// nothing. That none has it is no error.
func (c *Client) Seek(ctx context.Context, path string) error {
	if err := checkPaths([]string{path}); err != nil {
		return fmt.Errorf("looking for a path: %w", err)
	}
	err := c.run(ctx, command{program: "nix-store", args: []string{"--realise", "--dry-run", path}, quiet: true}, nil)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", path, err)
	}
	return nil
}
