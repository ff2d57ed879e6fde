package format

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/origin"
)

// Publication is the record of one publish: what it made available, and why
// it should stay.
type Publication struct {
	Time time.Time `json:"time"`
	// Origin names where it comes from, so that publications of two places
	// with one branch or folder name do not take each other's place: in CI
	// HOST/PATH of the repository that the job belongs to, outside CI the name
	// of the flake's own repository or folder. It is compared and shown. Empty
	// if Flake says it, or if nothing does.
	Origin string `json:"origin,omitempty"`
	// Flake is the flake reference as the user gave it, without credentials; or
	// Origin, where it means another thing on another machine. Revision is the
	// revision it was locked to, if it has one.
	Flake    string `json:"flake,omitempty"`
	Revision string `json:"revision,omitempty"`
	// Ref is the Git reference in full: refs/heads/…, refs/tags/…,
	// refs/pull/…. Empty if not known.
	Ref string `json:"ref,omitempty"`
	// RunURL is the page of the CI run.
	RunURL  string   `json:"runUrl,omitempty"`
	Systems []string `json:"systems,omitempty"`
	// Selection tells apart what different jobs publish from the same flake
	// and branch, so that the newest of one does not take the place of the
	// other's. It is compared, never interpreted.
	Selection string `json:"selection,omitempty"`
	// Series, if there is one, stands for Systems and Selection: where several
	// jobs publish parts of one thing, the whole takes the place of the parts.
	Series string `json:"series,omitempty"`
	// Partial says that roots are missing: something failed, or it is one part
	// of several. A partial publication does not take the place of a complete
	// one.
	Partial bool `json:"partial,omitempty"`
	// Pin is the name under which the publication stays until it is
	// unpinned; PinKeep is how many publications of that name do, at least 1.
	Pin     string `json:"pin,omitempty"`
	PinKeep int    `json:"pinKeep,omitempty"`
	Roots   []Root `json:"roots"`
	// BuildDeps are base names of store paths that the run has added, and that
	// are in no root's closure: they were built only to build others with.
	BuildDeps []string `json:"buildDeps,omitempty"`
}

// MaxBuildDeps bounds the BuildDeps of a publication.
const MaxBuildDeps = 2000

// Unpin takes the pin from the publications of that name made until Time.
type Unpin struct {
	Name string    `json:"name"`
	Time time.Time `json:"time"`
}

// Ends reports whether it ends the pin of a publication.
func (u Unpin) Ends(p Publication) bool { return u.Name == p.Pin && !u.Time.Before(p.Time) }

// Same reports whether two publications say the same but for when and in which
// run they were made.
func (p Publication) Same(q Publication) bool {
	return p.Flake == q.Flake && p.Revision == q.Revision && p.Ref == q.Ref &&
		p.Selection == q.Selection && p.Series == q.Series && p.Partial == q.Partial && p.Pin == q.Pin && p.PinKeep == q.PinKeep &&
		slices.Equal(p.Systems, q.Systems) && slices.Equal(p.Roots, q.Roots) && p.Source() == q.Source()
}

// Removal hides all copies of an entry, but none that was added later.
type Removal struct {
	// HashPart is that of the entry's store path.
	HashPart string `json:"k"`
	// Added is the entry's, in Unix seconds.
	Added int64 `json:"added"`
}

// Root is one output that a publication keeps alive.
type Root struct {
	// Attr is the flake attribute, or "" for a store path given by itself.
	Attr string `json:"attr,omitempty"`
	// Path is the base name of the store path.
	Path string `json:"path"`
}

// Source is where the publication comes from, as far as that is certain. Older
// programs did not record it, but the page of the run belongs to a repository.
// Outside CI they recorded the flake as it was typed, which says nothing.
func (p Publication) Source() string { return cmp.Or(p.Origin, origin.Run(p.RunURL)) }

// Line tells apart publications that do not replace each other.
func (p Publication) Line() string {
	from := []string{"ref " + p.Ref, p.Source()}
	if p.Ref == "" {
		// Flake is the same as Origin, where a program that does not know
		// Origin has dropped it
		from = []string{"flake " + cmp.Or(p.Origin, p.Flake)}
	}
	if p.Series != "" {
		return strings.Join(append(from, "series "+p.Series), "\x00")
	}
	return strings.Join(append(from, strings.Join(slices.Sorted(slices.Values(p.Systems)), " "), p.Selection), "\x00")
}
