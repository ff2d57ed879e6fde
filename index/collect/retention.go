package collect

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/origin"
)

// Retention says which publications keep what they published.
//
// Publications of one line replace each other: those with the same Origin, Ref
// (or, without one, Flake), Systems and Selection, or with the same Series
// instead of the last two. Publications in a row that have the same roots count as one: made when
// the last was, and in the place of those before since the first was. One that
// is partial takes the place of partial ones only.
type Retention struct {
	// Last is how many publications of each line are kept for ever: of a
	// branch whose name matches one of Branches, of a tag (at least one), of
	// what was published outside CI.
	Last int
	// Branches are globs (path.Match) over branch names; nil means all.
	Branches []string
	// Age is how long a publication is kept after that: since it was made, or
	// since newer ones took its place.
	Age time.Duration
	// PullRequests is how long the publications of a pull request, or of a
	// merge queue, are kept after they were made.
	PullRequests time.Duration
}

// DefaultRetention is what a collection goes by that is not told otherwise.
func DefaultRetention() Retention {
	const day = 24 * time.Hour
	return Retention{Last: 1, Age: 30 * day, PullRequests: 7 * day}
}

// DefaultDelay is the PlanOptions.Delay that suits every publisher and reader.
const DefaultDelay = 24 * time.Hour

// Verdict says whether a publication is kept, and why.
type Verdict struct {
	Publication format.Publication
	Keep        bool
	// From is what it was published from, for people: "main", "tag v1", "pull
	// request 12", a flake, a store path. It names the repository, too, where
	// the publications come from several: "main in github.com/me/one".
	From string
	// Reason is for people: "newest of main", "main, replaced 2026-11-20".
	Reason string
	// Until is when it stops to be kept, or stopped; zero means never.
	Until time.Time
	// Pinned says that its pin keeps it, whatever else does.
	Pinned bool
}

// Judge decides which publications are kept at the time now. The verdicts are
// in the order in which the publications were made. One made after now counts as
// made now; more than a day after now, it is kept, and takes nobody's place.
func (r Retention) Judge(pubs []format.Publication, unpinned []format.Unpin, now time.Time) []Verdict {
	j := judgement{retention: r, now: now, verdicts: make([]Verdict, len(pubs))}
	lines, pins := map[string][]int{}, map[string][]int{}
	origins := map[string]bool{}
	for _, p := range pubs {
		if p.Ref != "" || p.Pin != "" {
			origins[p.Source()] = true
		}
	}
	j.several = len(origins) > 1
	for i, p := range byTime(pubs) {
		j.verdicts[i].Publication, j.verdicts[i].From = p, j.source(p).name
		if p.Time.After(now.Add(format.MaxClockSkew)) {
			// nobody knows which of its line came after it
			j.verdicts[i].Keep, j.verdicts[i].Reason = true, j.verdicts[i].From+", published "+date(p.Time)+", which is to come"
			continue
		}
		lines[p.Line()] = append(lines[p.Line()], i)
		if p.Pin != "" && !j.unpinned(p, unpinned) {
			key := p.Pin + "\x00" + p.Line()
			pins[key] = append(pins[key], i)
		}
	}
	for _, members := range lines {
		j.line(j.generations(members))
		// once more for those that only their equals replace
		complete := slices.DeleteFunc(members, func(i int) bool { return j.verdicts[i].Publication.Partial })
		j.line(j.generations(complete))
	}
	for _, members := range pins {
		j.pin(j.generations(members))
	}
	return j.verdicts
}

// byTime sorts publications, those of one moment by what they say.
func byTime(pubs []format.Publication) []format.Publication {
	text := func(p format.Publication) string {
		b, _ := json.Marshal(p) // a year that JSON cannot write leaves the order open
		return string(b)
	}
	return slices.SortedStableFunc(slices.Values(pubs), func(a, b format.Publication) int {
		if c := a.Time.Compare(b.Time); c != 0 {
			return c
		}
		if c := cmp.Compare(len(a.Roots), len(b.Roots)); c != 0 {
			return c
		}
		return strings.Compare(text(a), text(b))
	})
}

// judgement is one run of Judge.
type judgement struct {
	retention Retention
	now       time.Time
	several   bool      // the publications come from several repositories
	verdicts  []Verdict // by the publications' time
}

// generation is a row of publications with the same roots.
type generation struct {
	members     []int // positions of verdicts
	first, last time.Time
}

// generations groups the publications at the given positions, newest first.
func (j *judgement) generations(members []int) []generation {
	var gens []generation
	for _, i := range members {
		p := j.verdicts[i].Publication
		at := j.past(p.Time)
		if n := len(gens); n > 0 && slices.Equal(p.Roots, j.newest(gens[n-1]).Roots) {
			gens[n-1].members, gens[n-1].last = append(gens[n-1].members, i), at
			continue
		}
		gens = append(gens, generation{members: []int{i}, first: at, last: at})
	}
	slices.Reverse(gens)
	return gens
}

func (j *judgement) newest(g generation) format.Publication {
	return j.verdicts[g.members[len(g.members)-1]].Publication
}

// past is t, or now if that is earlier: a clock that is wrong makes nothing
// young for ever.
func (j *judgement) past(t time.Time) time.Time {
	if t.After(j.now) {
		return j.now
	}
	return t
}

func (j *judgement) unpinned(p format.Publication, unpinned []format.Unpin) bool {
	return slices.ContainsFunc(unpinned, func(u format.Unpin) bool { return u.Name == p.Pin && !u.Time.Before(j.past(p.Time)) })
}

// set gives a generation its verdict.
func (j *judgement) set(g generation, keep bool, until time.Time, reason string) {
	for _, i := range g.members {
		v := &j.verdicts[i]
		v.Keep, v.Until, v.Reason = keep, until, reason
	}
}

// line judges the generations of a line.
func (j *judgement) line(gens []generation) {
	if len(gens) == 0 {
		return
	}
	source := j.source(j.newest(gens[0]))
	last := source.last(j.retention)
	for i, g := range gens {
		switch {
		case source.kind == fromRequest:
			j.until(g, source.name, "published", g.last, j.retention.PullRequests)
		case i < last:
			j.set(g, true, time.Time{}, source.reason(i))
		case i == 0: // the newest, but not kept for ever
			j.until(g, source.name, "published", g.last, j.retention.Age)
		default:
			// since it was pushed out, which the first of a row did
			j.until(g, source.name, "replaced", gens[i-max(last, 1)].first, j.retention.Age)
		}
	}
}

// until keeps a generation for a time after something happened to it.
func (j *judgement) until(g generation, name, what string, since time.Time, age time.Duration) {
	end := since.Add(max(age, 0))
	reason := fmt.Sprintf("%s, %s %s", name, what, date(since))
	keep := end.After(j.now)
	if keep {
		reason += ", kept until " + date(end)
	}
	j.set(g, keep, end, reason)
}

func date(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// pin judges the generations that a name pins; it goes before their lines.
func (j *judgement) pin(gens []generation) {
	newest := j.newest(gens[0])
	for i, g := range gens[:min(len(gens), max(newest.PinKeep, 1))] {
		reason := "pin " + newest.Pin + j.where(newest)
		if i > 0 {
			reason += ", " + ordinal(i) + " newest"
		}
		j.set(g, true, time.Time{}, reason)
		for _, v := range g.members {
			j.verdicts[v].Pinned = true
		}
	}
}

// where names the repository, where there are several.
func (j *judgement) where(p format.Publication) string {
	if o := p.Source(); j.several && o != "" {
		return " in " + o
	}
	return ""
}

func (j *judgement) source(p format.Publication) source {
	s := parseSource(p)
	if p.Ref != "" { // else the name is the origin
		s.name += j.where(p)
	}
	return s
}

// source is where a line comes from, as far as the rules differ.
type source struct {
	kind sourceKind
	name string // for people
	// branch is the branch's own name.
	branch string
}

type sourceKind int

const (
	fromElsewhere sourceKind = iota
	fromBranch
	fromTag
	fromRequest // a pull request or a merge queue
)

// parseSource says where a publication comes from.
func parseSource(p format.Publication) source {
	ref := origin.ParseRef(p.Ref)
	s := source{name: ref.String()}
	switch ref.Kind {
	case origin.PullRequest, origin.MergeRequest, origin.MergeQueue:
		s.kind = fromRequest
	case origin.Branch:
		s.kind, s.branch = fromBranch, ref.Name
	case origin.Tag:
		s.kind = fromTag
	default:
		s.name = cmp.Or(p.Ref, p.Origin, p.Flake, rootNames(p.Roots))
	}
	return s
}

// rootNames names store paths that were published by themselves.
func rootNames(roots []format.Root) string {
	if len(roots) == 0 {
		return "nothing"
	}
	_, name, _ := strings.Cut(roots[0].Path, "-")
	if len(roots) > 1 {
		name += fmt.Sprintf(" and %d more", len(roots)-1)
	}
	return name
}

// last is how many generations of the line are kept for ever.
func (s source) last(r Retention) int {
	switch {
	case s.kind == fromTag:
		return max(r.Last, 1)
	case s.kind == fromBranch && !r.matches(s.branch):
		return 0
	}
	return max(r.Last, 0)
}

// matches reports whether the newest publications of a branch are kept for
// ever. A glob that is none keeps rather than removes.
func (r Retention) matches(branch string) bool {
	return r.Branches == nil || slices.ContainsFunc(r.Branches, func(glob string) bool {
		ok, err := path.Match(glob, branch)
		return ok || err != nil
	})
}

// reason says why the generation at position i is kept for ever.
func (s source) reason(i int) string {
	switch {
	case i > 0:
		return ordinal(i) + " newest of " + s.name
	case s.kind == fromTag:
		return s.name
	}
	return "newest of " + s.name
}

// ordinal writes the position i, counted from 0: "1st", "2nd", "11th".
func ordinal(i int) string {
	n := i + 1
	suffix := "th"
	if n%100/10 != 1 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return fmt.Sprintf("%d%s", n, suffix)
}
