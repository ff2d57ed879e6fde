package page

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/index/format"
)

// publication is a record of a publish, and what it has to do with the cache
// as it is now.
type publication struct {
	collect.Verdict
	// ID is the same in each catalogue, and fit for an address.
	ID    string
	roots []int32 // of Publication.Roots those that the cache has
	// Fresh is what is in the cache now and was reached by no publication that
	// was made earlier.
	Fresh index.Total
	total func() index.Total // all that the roots reach
}

// growth is what the publications up to a time reach of the cache.
type growth struct {
	Publication *publication
	Total       index.Total
}

// publish takes in the publications, oldest first.
func (c *catalogue) publish(verdicts []collect.Verdict) {
	c.byID = make(map[string]*publication, len(verdicts))
	seen := make([]bool, len(c.paths))
	var sum index.Total
	sums := map[string]func() index.Total{} // publications often have the same roots
	for _, v := range verdicts {
		p := &publication{Verdict: v, ID: identify(v.Publication)}
		if c.byID[p.ID] != nil {
			continue // two writers have merged the same segments
		}
		var roots strings.Builder
		for _, r := range v.Publication.Roots {
			if i, ok := c.base(r.Path); ok {
				p.roots = append(p.roots, i)
				roots.WriteString(r.Path + " ")
			}
		}
		p.Fresh = c.spread(p.roots, seen)
		total, ok := sums[roots.String()]
		if !ok {
			from := p.roots
			total = sync.OnceValue(func() index.Total { return c.sum(c.closure(from)) })
			sums[roots.String()] = total
		}
		p.total = total
		add(&sum, p.Fresh)
		c.growth = append(c.growth, growth{p, sum})
		c.publications = append(c.publications, p)
		c.byID[p.ID] = p
	}
	slices.Reverse(c.publications)
}

// spread marks what paths lead to, and adds up what was not marked before.
func (c *catalogue) spread(from []int32, seen []bool) (t index.Total) {
	todo := slices.Clone(from)
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[i] {
			continue
		}
		seen[i] = true
		p := &c.paths[i]
		add(&t, index.Total{Paths: 1, NarSize: p.NarSize, FileSize: p.FileSize})
		todo = append(todo, p.References...)
	}
	return t
}

func identify(p format.Publication) string {
	text, _ := json.Marshal(p) // a year that JSON cannot write makes no page of its own
	sum := sha256.Sum256(text)
	return p.Time.UTC().Format("20060102T150405Z-") + hex.EncodeToString(sum[:6])
}

// keepers are the publications whose roots have a path in their closure,
// newest first.
func (c *catalogue) keepers(of int32) []*publication {
	users := c.users(of)
	var ps []*publication
	for _, p := range c.publications {
		if slices.ContainsFunc(p.roots, func(r int32) bool { return users[r] }) {
			ps = append(ps, p)
		}
	}
	return ps
}

// Run is the page of the CI run, or "" if it is no web page.
func (p *publication) Run() string {
	u, err := url.Parse(p.Publication.RunURL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return ""
	}
	return u.String()
}

// Revision is the beginning of the revision.
func (p *publication) Revision() string {
	r := []rune(p.Publication.Revision)
	return string(r[:min(len(r), 10)])
}

// Kept is for how long it is kept.
func (p *publication) Kept() string {
	switch {
	case p.Pinned:
		return "pinned"
	case !p.Keep:
		return "until the next collection"
	case p.Until.IsZero():
		return "until replaced"
	}
	return "until " + day(p.Until)
}

func (p *publication) Time() time.Time { return p.Publication.Time.UTC() }

// Reached is all that the roots need and the cache has.
func (p *publication) Reached() index.Total { return p.total() }
