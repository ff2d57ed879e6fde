// Package command puts the commands together into one program. Each has a package
// of its own, with its flags and its wiring.
package command

import (
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/command/action"
	"github.com/org/nixoci-action/internal/command/gc"
	"github.com/org/nixoci-action/internal/command/inspect"
	"github.com/org/nixoci-action/internal/command/keys"
	"github.com/org/nixoci-action/internal/command/proxy"
	"github.com/org/nixoci-action/internal/command/publish"
	"github.com/org/nixoci-action/internal/command/sign"
)

// Nixoci is the program.
var Nixoci = &cli.Program{
	About: "Turns any OCI registry into a Nix binary cache: publishes what a flake builds, serves it to Nix, and removes what nothing needs any more.",
	Commands: []cli.Subcommand{
		{Command: publish.Command, Run: publish.Run},
		{Command: sign.Command, Run: sign.Run},
		{Command: proxy.Command, Run: proxy.Run},
		{Command: gc.Command, Run: gc.Run},
		{Command: inspect.Command, Run: inspect.Run},
		{Command: keys.Command, Run: keys.Run},
		{Command: action.Command, Run: action.Run},
	},
}
