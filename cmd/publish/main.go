// Command publish puts what a flake builds, or store paths, into a binary
// cache in an OCI registry. It is "nixoci publish" by itself.
package main

import (
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/command/publish"
)

func main() { cli.Main(publish.Run) }
