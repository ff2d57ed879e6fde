package discover

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/org/nixoci-action/internal/nix"
)

// Kind is a top-level attribute of a flake.
type Kind string

// The kinds of flake outputs that can be published.
const (
	Packages       Kind = "packages"
	Checks         Kind = "checks"
	DevShells      Kind = "devShells"
	Apps           Kind = "apps"
	Formatter      Kind = "formatter"
	LegacyPackages Kind = "legacyPackages"
	NixOS          Kind = "nixosConfigurations"
	Darwin         Kind = "darwinConfigurations"
	Home           Kind = "homeConfigurations"
	HydraJobs      Kind = "hydraJobs"

	// What Nix still takes where there is no packages.SYSTEM.default and so on.
	DefaultPackage Kind = "defaultPackage"
	DevShell       Kind = "devShell"
	DefaultApp     Kind = "defaultApp"
)

// DefaultKinds returns the kinds that Discover looks at when none are named:
// all but hydraJobs, which mostly repeat the others.
func DefaultKinds() []Kind {
	return []Kind{Packages, Checks, DevShells, Apps, Formatter, LegacyPackages, NixOS, Darwin, Home, DefaultPackage, DevShell, DefaultApp}
}

// AllKinds returns every kind.
func AllKinds() []Kind { return append(DefaultKinds(), HydraJobs) }

// ParseKinds parses a comma-separated list of kinds.
func ParseKinds(s string) ([]Kind, error) {
	var kinds []Kind
	for name := range strings.SplitSeq(s, ",") {
		k := Kind(strings.TrimSpace(name))
		if !slices.Contains(AllKinds(), k) {
			return nil, fmt.Errorf("%q is not a kind of flake output; there are %v", name, AllKinds())
		}
		if !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	return kinds, nil
}

// Attr is an attribute path in a flake, one name for each element.
type Attr []string

var (
	identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_'-]*$`)
	keywords   = []string{"assert", "else", "if", "in", "inherit", "let", "or", "rec", "then", "with"}
)

// String returns the path as Nix writes it, names quoted where they must be:
// packages.x86_64-linux."a.b".
func (a Attr) String() string {
	names := make([]string, len(a))
	for i, n := range a {
		if names[i] = n; !identifier.MatchString(n) || slices.Contains(keywords, n) {
			names[i] = nix.Quote(n)
		}
	}
	return strings.Join(names, ".")
}

// Derivation is something to build.
type Derivation struct {
	// DrvPath is the absolute path of the .drv, which is in the local store.
	DrvPath string
	// Outputs are the wanted outputs: absolute store paths by name. Those of a
	// floating derivation are "" until it is built.
	Outputs map[string]string
}

// floating reports whether the derivation is content-addressed, so that its
// paths depend on what is built.
func (d Derivation) floating() bool {
	for _, p := range d.Outputs {
		if p == "" {
			return true
		}
	}
	return false
}

// all returns what to tell Nix to build all wanted outputs.
func (d Derivation) all() string {
	return d.DrvPath + "!" + strings.Join(slices.Sorted(maps.Keys(d.Outputs)), ",")
}

// Output is one thing of a flake that can be built and published.
type Output struct {
	Attr Attr
	Kind Kind
	// System is the derivation's system, or for an app that of its attribute.
	System string
	// Name is the derivation's name, or for an app that of its attribute.
	Name string
	// Derivation is what the attribute is, with all of its outputs. For an app
	// it is the derivation of its program with the outputs that the program
	// uses; it is empty for an app whose program is a file of the flake.
	Derivation
	// Needs are derivations to build and publish along with it: the inputs of
	// a development shell, more programs of an app.
	Needs []Derivation
	// Sources are store paths to publish along with it that are there already.
	Sources []string
	// Unfree and Broken repeat what its meta says.
	Unfree, Broken bool
}

// Paths returns every store path to publish for the output, sorted, each once:
// all outputs of its derivations whose paths are known, and its sources.
func (o *Output) Paths() []string {
	paths := slices.Clone(o.Sources)
	for _, d := range o.derivations() {
		for _, p := range d.Outputs {
			if p != "" {
				paths = append(paths, p)
			}
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// Inputs returns the output without its own derivation, if that is the shell of
// "nix develop": this builds what the shell needs, and never the shell itself,
// which may not even be meant to be built.
func (o *Output) Inputs() (Output, bool) {
	inputs := *o
	inputs.Derivation = Derivation{}
	return inputs, o.Kind == DevShells || o.Kind == DevShell
}

func (o *Output) derivations() []Derivation {
	if o.DrvPath == "" {
		return o.Needs
	}
	return append([]Derivation{o.Derivation}, o.Needs...)
}

// Reason is why an attribute is skipped.
type Reason string

// The reasons for skipping an attribute.
const (
	OtherSystem     Reason = "other system"
	Broken          Reason = "broken"
	Unfree          Reason = "unfree"
	EvaluationError Reason = "evaluation error"
	NotDerivation   Reason = "not a derivation"
	Excluded        Reason = "excluded"
	// NotLookedAt: it is no kind of output that is built, or one that was not
	// chosen.
	NotLookedAt Reason = "not looked at"
	// UnknownPath: a content-addressed derivation has no path before it is
	// built.
	UnknownPath Reason = "unknown path"
	// NotEvaluated: the time or the number of evaluations was used up.
	NotEvaluated Reason = "not evaluated"
)

// Failure reports whether the reason is one that the flake's author would
// want to hear about, as opposed to what was asked for.
func (r Reason) Failure() bool { return r == EvaluationError || r == NotEvaluated }

// Skipped is an attribute that is not published, or a whole set of them.
type Skipped struct {
	Attr   Attr
	Kind   Kind
	System string // or "" if not known
	Reason Reason
	// Message says more; for an EvaluationError it is Nix's own.
	Message string
}
