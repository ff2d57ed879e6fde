// Command gc removes from a binary cache in an OCI registry what no
// publication needs any more. It is "nixoci gc" by itself.
package main

import (
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/command/gc"
)

func main() { cli.Main(gc.Run) }
