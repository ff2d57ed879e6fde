package cli

import "runtime/debug"

// version is set by the linker: -X …/internal/cli.version=v1.2.3.
var version string

// Version is the version of this program: as given at link time, else as
// recorded by the Go tool, else "source".
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "source"
}
