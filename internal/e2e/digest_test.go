package e2e

import (
	"crypto/sha256"
	"os/exec"
)

// digest is the SHA-256 of what a command prints.
func digest(cmd *exec.Cmd) (sum [32]byte, err error) {
	h := sha256.New()
	cmd.Stdout = h
	err = cmd.Run()
	return [32]byte(h.Sum(nil)), err
}
