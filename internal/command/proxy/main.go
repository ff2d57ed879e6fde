// Command proxy serves a cache to Nix over HTTP, on this machine.
package main

import "github.com/org/nixoci-action/internal/cli"

func main() { cli.Main(run) }
