package collect

import (
	"maps"
	"slices"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index/format"
)

// reason returns the number of a new reason.
func (t *table) reason(text string) int32 {
	t.why = append(t.why, text)
	return int32(len(t.why) - 1) //nolint:gosec // one for each publication
}

// lookup returns the row of a store path's base name.
func (t *table) lookup(base string) (int32, bool) {
	p, ok := t.snapshot.Position(base)
	if !ok {
		return 0, false
	}
	r := t.row(p)
	return r, !t.rows[r].damaged
}

// walk marks rows and all they refer to with a reason, but for those that have
// one.
func (t *table) walk(from []int32, reason int32, mark func(*row) *int32) {
	todo := slices.Clone(from)
	for len(todo) > 0 {
		r := &t.rows[todo[len(todo)-1]]
		todo = todo[:len(todo)-1]
		if m := mark(r); *m == 0 && !r.damaged {
			*m = reason
			todo = append(todo, r.refs...)
		}
	}
}

func kept(r *row) *int32 { return &r.kept }
func gone(r *row) *int32 { return &r.gone }

func (t *table) keep(reason string, bases []string) {
	t.walk(t.find(bases), t.reason(reason), kept)
}

func (t *table) find(bases []string) []int32 {
	var rows []int32
	for _, b := range bases {
		if r, ok := t.lookup(b); ok {
			rows = append(rows, r)
		}
	}
	return rows
}

// rootPaths are the base names of what a publication keeps.
func rootPaths(p *format.Publication) []string {
	bases := make([]string, len(p.Roots))
	for i, r := range p.Roots {
		bases[i] = r.Path
	}
	return bases
}

// reach decides what stays: everything that something to be kept refers to,
// however far.
func (t *table) reach(o *PlanOptions, verdicts []Verdict) {
	for _, k := range o.Keep {
		t.keep(k.Reason, k.Paths)
	}
	// the newest say best why something is there
	for _, v := range slices.Backward(verdicts) {
		if v.Keep {
			t.keep(v.Reason, rootPaths(&v.Publication))
		}
	}
	t.keepYounger(o.Now.Add(-o.Delay), "added less than "+days(o.Delay)+" ago, or needed by what was", func(*row) bool { return true })
	for _, v := range slices.Backward(verdicts) {
		if !v.Keep {
			t.walk(t.find(rootPaths(&v.Publication)), t.reason(v.Reason), gone)
		}
	}
	for i := range verdicts {
		t.release(&verdicts[i].Publication)
	}
	// what a publish has left that did not come to its end
	t.keepYounger(o.Now.Add(-o.Retention.Age), "in no publication, added less than "+days(o.Retention.Age)+" ago, or needed by what was",
		func(r *row) bool { return r.gone == 0 })
	t.lose(o.lost)
	orphan := t.reason("in no publication, added more than " + days(max(o.Retention.Age, o.Delay)) + " ago")
	damaged := t.reason("damaged in the index")
	for i := range t.rows {
		switch r := &t.rows[i]; {
		case r.damaged:
			r.gone = damaged
		case r.gone == 0:
			r.gone = orphan
		}
	}
}

// release gives up what a publication was only built with, if nothing keeps it
// and nobody has added it since. Unlike what it refers to, it is known to be
// needed no more.
func (t *table) release(p *format.Publication) {
	reason := t.reason("only needed for a build that is published")
	for _, n := range t.find(p.BuildDeps) {
		if r := &t.rows[n]; r.gone == 0 && r.added <= p.Time.Unix() {
			r.gone = reason
		}
	}
}

func (t *table) keepYounger(limit time.Time, reason string, which func(*row) bool) {
	var from []int32
	for i := range t.rows {
		if r := &t.rows[i]; r.current && r.kept == 0 && r.added > limit.Unix() && which(r) {
			from = append(from, int32(i))
		}
	}
	t.walk(from, t.reason(reason), kept)
}

const reasonLost = "lost by the registry, or refers to what was"

// lose gives up what is in blobs that the registry has lost, and everything
// that refers to it.
//
// Documents that are lost are only forgotten: the paths can do without.
func (t *table) lose(lost map[v1.Hash]bool) {
	if len(lost) == 0 {
		return
	}
	t.lost = slices.Collect(maps.Keys(lost))
	for i := range t.blobs {
		t.blobs[i].lost = t.blobs[i].extras && lost[t.blobs[i].digest]
	}
	reason := t.reason(reasonLost)
	users := make([][]int32, len(t.rows))
	var todo []int32
	for i := range t.rows {
		for _, ref := range t.rows[i].refs {
			users[ref] = append(users[ref], int32(i))
		}
		if r := &t.rows[i]; r.stays() && lost[t.blobs[r.blob].digest] {
			todo = append(todo, int32(i))
		}
	}
	given := map[int32]bool{}
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if given[i] {
			continue
		}
		given[i] = true
		t.rows[i].kept, t.rows[i].gone = 0, reason
		todo = append(todo, users[i]...)
	}
}

// measure finds out what of each blob is needed.
func (t *table) measure() {
	type part struct {
		blob   int32
		offset int64
	}
	seen := map[part]bool{}
	for i := range t.rows {
		r := &t.rows[i]
		if !r.stays() {
			continue
		}
		b := &t.blobs[r.blob]
		b.needed = true
		if !b.packed {
			b.live = b.size
		} else if p := (part{r.blob, r.offset}); !seen[p] {
			seen[p] = true
			b.live += r.fileSize
		}
		for _, x := range r.extras {
			b := &t.blobs[x.blob]
			b.needed = !b.lost
			if p := (part{x.blob, int64(x.offset)}); !seen[p] {
				seen[p] = true
				b.live += int64(x.size)
			}
		}
	}
}

// stays reports whether the line is what readers see of a path to be kept.
func (r *row) stays() bool { return r.current && r.kept != 0 }

// sparse reports whether less than half of a pack, or of what documents share,
// is needed.
func (b *blob) sparse() bool { return (b.packed || b.extras) && b.needed && 2*b.live < b.size }

// days writes a duration for people.
func days(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d%day != 0 || d == 0:
		return d.String()
	case d == day:
		return "a day"
	}
	return strconv.Itoa(int(d/day)) + " days"
}
