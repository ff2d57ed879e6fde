package format

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/storepath"
)

// Realisation says which output of which content-addressed derivation a store
// path is. The derivation has one of two names: an ID, as Nix up to 2.34 has
// it, or the store path of its resolved form, as Nix since 2.35 has it.
type Realisation struct {
	// ID is "sha256:<64 hex digits>!<output>", the hash that of the
	// derivation with its inputs reduced to theirs. If it is not empty, Drv
	// and Output are.
	ID string `json:"id,omitempty"`
	// Drv is the base name of the resolved derivation, Output the output's name.
	Drv    string `json:"drv,omitempty"`
	Output string `json:"output,omitempty"`
	// Signatures are "name:base64", over Fingerprint.
	Signatures []string `json:"sigs,omitempty"`
}

var realisationID = regexp.MustCompile(`^sha256:[0-9a-f]{64}!([A-Za-z0-9+._?=-]{1,200})$`)

// ValidOutput reports whether s can be the name of a derivation's output.
func ValidOutput(s string) bool {
	return realisationID.MatchString("sha256:" + strings.Repeat("0", 64) + "!" + s)
}

// Validate checks every field.
func (r *Realisation) Validate() error {
	switch {
	case r.ID != "" && r.Drv == "" && r.Output == "":
		if !realisationID.MatchString(r.ID) {
			return fmt.Errorf("realisation %q", r.ID)
		}
	case r.ID == "" && r.Drv != "":
		if _, err := storepath.ParseBase(r.Drv); err != nil || !strings.HasSuffix(r.Drv, ".drv") || !ValidOutput(r.Output) {
			return fmt.Errorf("realisation of output %q of %q", r.Output, r.Drv)
		}
	default:
		return fmt.Errorf("realisation %q of %q", r.ID, r.Drv)
	}
	if !slices.Equal(r.Signatures, bincache.Signatures(r.Signatures)) {
		return fmt.Errorf("signatures %q of a realisation", r.Signatures)
	}
	return nil
}

// Key tells apart realisations by their names.
func (r Realisation) Key() string { return r.ID + "\x00" + r.Drv + "\x00" + r.Output }

// Equal reports whether two realisations have one name and the same signatures.
func (r Realisation) Equal(o Realisation) bool {
	return r.Key() == o.Key() && slices.Equal(r.Signatures, o.Signatures)
}

// mergeRealisations returns the union, of signatures too.
func mergeRealisations(a, b []Realisation) []Realisation {
	a = slices.Clone(a)
	for _, r := range b {
		i := slices.IndexFunc(a, func(o Realisation) bool { return o.Key() == r.Key() })
		if i < 0 {
			a = append(a, r)
			continue
		}
		for _, s := range r.Signatures {
			if !slices.Contains(a[i].Signatures, s) {
				a[i].Signatures = append(slices.Clip(a[i].Signatures), s)
			}
		}
	}
	return a[:min(len(a), MaxRealisations)]
}

// oldRealisation is Nix's JSON up to 2.34. The fields are in alphabetical
// order, which is what a signature covers. What the realisation depends on is
// left empty, as Nix 2.34 does: the references of the path say that, too.
type oldRealisation struct {
	Depends    struct{} `json:"dependentRealisations"`
	ID         string   `json:"id"`
	OutPath    string   `json:"outPath"`
	Signatures []string `json:"signatures,omitempty"`
}

// newRealisation is Nix's JSON from 2.35 on, without the key.
type newRealisation struct {
	OutPath    string         `json:"outPath"`
	Signatures []newSignature `json:"signatures"`
}

type newSignature struct {
	KeyName string `json:"keyName"`
	Sig     string `json:"sig"`
}

// Fingerprint is the text that a signature covers. outPath is the base name of
// the path.
func (r *Realisation) Fingerprint(outPath string) string {
	var doc any = oldRealisation{ID: r.ID, OutPath: outPath}
	if r.ID == "" {
		doc = struct {
			Key   map[string]string `json:"key"`
			Value map[string]string `json:"value"`
		}{map[string]string{"drvPath": r.Drv, "outputName": r.Output}, map[string]string{"outPath": outPath}}
	}
	return marshal(doc)
}

// JSON is the realisation as a binary cache serves it. outPath is the base
// name of the path.
func (r *Realisation) JSON(outPath string) string {
	if r.ID != "" {
		// Nix wants the field, also if nobody has signed
		return marshal(struct {
			oldRealisation
			Signatures []string `json:"signatures"`
		}{oldRealisation{ID: r.ID, OutPath: outPath}, append([]string{}, r.Signatures...)})
	}
	doc := newRealisation{OutPath: outPath, Signatures: []newSignature{}}
	for _, s := range r.Signatures {
		name, sig, _ := strings.Cut(s, ":")
		doc.Signatures = append(doc.Signatures, newSignature{name, sig})
	}
	return marshal(doc)
}

func marshal(v any) string {
	b, err := json.Marshal(v) // no character that it would escape: see Validate
	if err != nil {
		panic(err) // only for types that have no JSON
	}
	return string(b)
}

// RealisationOf is the realisation that a file of a binary cache is about,
// without its signatures, nor checked. It is empty for other files.
func RealisationOf(f bincache.File) Realisation {
	switch f.Kind {
	case bincache.Realisation:
		return Realisation{ID: f.Name}
	case bincache.BuildTrace:
		return Realisation{Drv: f.Name, Output: f.Detail}
	}
	return Realisation{}
}

// ParseRealisation reads a realisation as Nix writes it into a binary cache, as
// the file f. It returns the base name of the path as well. What the realisation
// says of those it depends on is left out, and so are signatures that cover it.
func ParseRealisation(f bincache.File, doc []byte) (Realisation, string, error) {
	fail := func(err error) (Realisation, string, error) {
		return Realisation{}, "", fmt.Errorf("reading the realisation %q: %w", f.Path(), err)
	}
	r := RealisationOf(f)
	var d struct {
		ID         string                     `json:"id"`
		OutPath    string                     `json:"outPath"`
		Depends    map[string]json.RawMessage `json:"dependentRealisations"`
		Signatures []json.RawMessage          `json:"signatures"`
	}
	if err := json.Unmarshal(doc, &d); err != nil {
		return fail(err)
	}
	if d.ID != r.ID && r.ID != "" {
		return fail(fmt.Errorf("it is about %q", d.ID))
	}
	if _, err := storepath.ParseBase(d.OutPath); err != nil {
		return fail(err)
	}
	if len(d.Depends) == 0 {
		for _, raw := range d.Signatures {
			s, err := parseSignature(raw)
			if err != nil {
				return fail(err)
			}
			r.Signatures = append(r.Signatures, bincache.Signatures([]string{s})...)
		}
	}
	if err := r.Validate(); err != nil {
		return fail(err)
	}
	return r, d.OutPath, nil
}

// parseSignature reads a signature in one of its two forms.
func parseSignature(raw json.RawMessage) (s string, err error) {
	if bytesStart(raw, '{') {
		var n newSignature
		err = json.Unmarshal(raw, &n)
		return n.KeyName + ":" + n.Sig, err
	}
	return s, json.Unmarshal(raw, &s)
}

func bytesStart(b []byte, c byte) bool { return len(b) > 0 && b[0] == c }
