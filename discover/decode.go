package discover

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/org/nixoci-action/internal/storepath"
)

// record is what discover.nix says about one attribute.
type record struct {
	Node    []string           `json:"node"` // where to examine it
	Attr    []string           `json:"attr"`
	Skip    string             `json:"skip"` // "" for something to build
	Name    *string            `json:"name"`
	System  *string            `json:"system"`
	Drv     *string            `json:"drv"`
	Outputs map[string]*string `json:"outputs"`
	Needs   []need             `json:"needs"`
	Sources []string           `json:"sources"`
	Unfree  bool               `json:"unfree"`
	Broken  bool               `json:"broken"`
}

type need struct {
	Drv string `json:"drv"`
	// Outputs are wanted outputs by name, with null where the path is not
	// known. If it is empty, all are wanted.
	Outputs map[string]*string `json:"outputs"`
}

// What discover.nix gives as the reason for skipping.
const (
	skipThrows        = "throws"
	skipNotDerivation = "notDerivation"
	skipSystem        = "system"
	skipExcluded      = "excluded"
)

// parseRecords decodes and checks the result of an evaluation. A flake can put
// anything into its attributes: a record that is not sound becomes one that is
// skipped, with the reason as its message. Only a result that discover.nix
// cannot have written is an error.
func parseRecords(raw []byte) (f finding, err error) {
	var records []record
	if err := json.Unmarshal(raw, &records); err != nil {
		return f, fmt.Errorf("decoding the evaluation's result: %w", err)
	}
	for i := range records {
		r := &records[i]
		if len(r.Attr) == 0 || len(r.Node) == 0 || !slices.Contains(AllKinds(), Kind(r.Attr[0])) {
			return f, fmt.Errorf("decoding the evaluation's result: record %d is of %q", i, r.Attr)
		}
		s := Skipped{Attr: r.Attr, Kind: Kind(r.Attr[0]), System: deref(r.System)}
		switch r.Skip {
		case "":
			o, err := r.output()
			if err == nil {
				f.outputs = append(f.outputs, o)
				continue
			}
			s.Reason, s.Message = NotDerivation, err.Error()
			if errors.Is(err, errUnknownPath) {
				s.Reason = UnknownPath
				f.skipped = append(f.skipped, pending{Skipped: s, node: r.Node, floating: o})
				continue
			}
		case skipThrows:
			switch {
			case r.Broken:
				s.Reason, s.Message = Broken, "its meta.broken is true"
			case r.Unfree:
				s.Reason, s.Message = Unfree, "its license is not free, and nixpkgs refuses it without allowUnfree"
			default:
				s.Reason = EvaluationError
			}
		case skipNotDerivation:
			s.Reason = NotDerivation
		case skipSystem:
			s.Reason = OtherSystem
		case skipExcluded:
			s.Reason = Excluded
		default:
			return f, fmt.Errorf("decoding the evaluation's result: reason %q", r.Skip)
		}
		f.skipped = append(f.skipped, pending{Skipped: s, node: r.Node})
	}
	return f, nil
}

// pending is a Skipped that may have to be examined for its message.
type pending struct {
	Skipped
	node []string
	// floating is the output itself, if all that it lacks are its paths
	floating Output
}

func (r *record) output() (Output, error) {
	o := Output{
		Attr: r.Attr, Kind: Kind(r.Attr[0]), System: deref(r.System), Name: deref(r.Name),
		Unfree: r.Unfree, Broken: r.Broken, Sources: r.Sources,
	}
	for _, s := range r.Sources {
		if _, err := storepath.Parse(s); err != nil {
			return o, fmt.Errorf("its source: %w", err)
		}
	}
	for _, n := range r.Needs {
		d, err := derivation(n.Drv, n.Outputs, true)
		if err != nil {
			return o, fmt.Errorf("what it needs: %w", err)
		}
		o.Needs = append(o.Needs, d)
	}
	var err error
	switch {
	case o.Kind != Apps && o.Kind != DefaultApp:
		o.Derivation, err = derivation(deref(r.Drv), r.Outputs, false)
	case len(o.Needs) > 0:
		o.Derivation, o.Needs = o.Needs[0], o.Needs[1:]
	case len(o.Sources) == 0:
		err = errors.New("its program is not in the store")
	}
	return o, err
}

// derivation checks a derivation. Paths of outputs may be unknown, "", only if
// open; they are resolved later.
func derivation(drv string, outputs map[string]*string, open bool) (Derivation, error) {
	if p, err := storepath.Parse(drv); err != nil {
		return Derivation{}, fmt.Errorf("its derivation: %w", err)
	} else if !strings.HasSuffix(p.Name, ".drv") {
		return Derivation{}, fmt.Errorf("its derivation: %s is none", drv)
	}
	if len(outputs) == 0 && !open {
		return Derivation{}, errors.New("its outputs are not known")
	}
	d := Derivation{DrvPath: drv, Outputs: make(map[string]string, len(outputs))}
	var unknown error
	for name, path := range outputs {
		// the name goes on command lines, after the derivation and a "!"
		if _, err := storepath.ParseBase(strings.Repeat("0", storepath.HashPartLen) + "-" + name); err != nil {
			return Derivation{}, fmt.Errorf("its output %q has no valid name", name)
		}
		if path == nil && open {
			d.Outputs[name] = ""
			continue
		}
		// floating content-addressed derivations have a placeholder here
		if _, err := storepath.Parse(deref(path)); err != nil {
			unknown = fmt.Errorf("the path of its output %q is %w: %w", name, errUnknownPath, err)
			d.Outputs[name] = ""
			continue
		}
		d.Outputs[name] = *path
	}
	return d, unknown
}

var errUnknownPath = errors.New("not known before it is built")

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
