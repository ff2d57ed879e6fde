// Command nixoci publishes to a Nix binary cache in an OCI registry, serves it to
// Nix, prunes it and shows it. Started under the name of one of its commands it
// is that command.
package main

import (
	"os"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/command"
)

func main() { cli.Main(command.Nixoci.As(os.Args[0])) }
