package page

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/internal/ui"
)

// view is what a template shows.
type view struct {
	links
	Title    string
	Section  string // of the navigation
	Template string
	Cache    string
	Version  string
	Digest   string
	Made     time.Time // of an export
	Health   *Health
	Page     any
}

// Rows of a page of a list.
const (
	rowsServed   = 50
	rowsExported = 200
	maxListed    = 100 // of references, referrers and publications on other pages
)

// pager is one page of a list.
type pager struct {
	First, Last, Count int
	Prev, Next         string // addresses, empty if there is none
}

func (l links) pager(name string, query url.Values, page, rows, count int) pager {
	p := pager{First: min((page-1)*rows+1, count), Last: min(page*rows, count), Count: count}
	if page > 1 {
		p.Prev = l.list(name, query, min(page-1, (count-1)/rows+1))
	}
	if p.Last < count {
		p.Next = l.list(name, query, page+1)
	}
	return p
}

// pageOf reads which page is asked for. The bound keeps products small.
func pageOf(query url.Values) int {
	n, _ := strconv.Atoi(query.Get("page"))
	return min(max(n, 1), 1_000_000)
}

func (l links) rows() int {
	if l.static {
		return rowsExported
	}
	return rowsServed
}

// pathRow is a store path in a list.
type pathRow struct {
	*collect.CataloguePath
	Href    string
	Closure *index.Total // nil if it is not shown
	AddedAt time.Time
}

func (c *catalogue) row(l links, i int32) pathRow {
	p := &c.paths[i]
	r := pathRow{CataloguePath: p, Href: l.Path(p.HashPart), AddedAt: time.Unix(p.Added, 0).UTC()}
	return r
}

// measured is row with the closure, unless there are too many paths.
func (c *catalogue) measured(l links, i int32) pathRow {
	r := c.row(l, i)
	<-c.summed
	if c.closures != nil {
		r.Closure = &c.closures[i]
	}
	return r
}

func rows(l links, numbers []int32, row func(links, int32) pathRow) []pathRow {
	rows := make([]pathRow, len(numbers))
	for i, n := range numbers {
		rows[i] = row(l, n)
	}
	return rows
}

type homePage struct {
	Total        index.Total
	Stored       int64
	Gone         index.Total // what the next collection would remove
	Publications []*publication
	Count        int // of publications
	Largest      []pathRow
	Chart        *growthChart
	Config       string
	Keyless      bool // the cache has no public key
}

func (p *Page) home(c *catalogue, l links) homePage {
	chain := c.snapshot.Keys()
	h := homePage{
		Total: c.total, Stored: c.stored, Count: len(c.publications), Publications: c.publications[:min(len(c.publications), 6)],
		Chart: c.chart(), Config: p.nixConf(chain),
		Keyless: chain.Keyless(),
	}
	h.Gone = c.removable()
	order := c.orders[bySize]
	h.Largest = rows(l, order[:min(len(order), 6)], c.row)
	return h
}

type pathsPage struct {
	Query       string
	Sort        string
	Orders      []order
	Publication *publication // only what it reaches
	RefersTo    *pathRow     // only what refers to it
	Rows        []pathRow
	Pager       pager
}

// order is a way to sort, for a list's head.
type order struct {
	Name, Label string
	Href        string
	Current     bool
}

func (c *catalogue) pathList(l links, query url.Values) (pathsPage, bool) {
	page := pathsPage{Query: strings.TrimSpace(query.Get("q")), Sort: query.Get("sort")}
	if c.order(page.Sort) == nil {
		page.Sort = byName
	}
	const longest = 300 // a store path is shorter
	if len(page.Query) > longest {
		page.Query = strings.ToValidUTF8(page.Query[:longest], "")
	}
	kept := url.Values{"q": {page.Query}, "sort": {page.Sort}, "publication": {query.Get("publication")}, "refers-to": {query.Get("refers-to")}}
	if page.Sort == byName {
		kept.Del("sort")
	}
	marked := c.search(page.Query)
	if id := query.Get("publication"); id != "" {
		if page.Publication = c.byID[id]; page.Publication == nil {
			return page, false
		}
		marked = both(marked, c.closure(page.Publication.roots))
	}
	if hashPart := query.Get("refers-to"); hashPart != "" {
		i, ok := c.lookup(hashPart)
		if !ok {
			return page, false
		}
		to, users := c.row(l, i), make([]bool, len(c.paths))
		for _, u := range c.referrers[i] {
			users[u] = true
		}
		page.RefersTo, marked = &to, both(marked, users)
	}
	for _, o := range []order{{Name: byName, Label: "Name"}, {Name: byNarSize, Label: "NAR size"}, {Name: bySize, Label: "Compressed"}, {Name: byClosure, Label: "Closure"}, {Name: byAdded, Label: "Added"}} {
		if c.order(o.Name) == nil {
			continue
		}
		q := maps.Clone(kept)
		q.Del("sort")
		if o.Name != byName {
			q.Set("sort", o.Name)
		}
		o.Href, o.Current = l.list(pathsName, q, 1), o.Name == page.Sort
		page.Orders = append(page.Orders, o)
	}
	at, most := pageOf(query), l.rows()
	numbers, count := c.list(c.order(page.Sort), marked, (at-1)*most, most)
	page.Rows = rows(l, numbers, c.measured)
	page.Pager = l.pager(pathsName, kept, at, most, count)
	return page, true
}

// both marks what is in both; nil is all.
func both(a, b []bool) []bool {
	for i := range a {
		b[i] = b[i] && a[i]
	}
	return b
}

type pathPage struct {
	pathRow
	Entry        *format.Entry
	Keys         []string // names of the keys that have signed it
	Publications []*publication
	More         int // publications that are not listed
	References   []reference
	Referrers    []pathRow
	Users        int // all referrers
	MoreUsers    int
	Commands     []string
}

// reference is one that the cache may not have.
type reference struct {
	Base   string // with the hash part
	Row    *pathRow
	Itself bool
}

func (p *Page) path(c *catalogue, l links, hashPart string) (pathPage, bool) {
	i, ok := c.lookup(hashPart)
	if !ok {
		return pathPage{}, false
	}
	e, ok := c.snapshot.Lookup(hashPart)
	if !ok {
		return pathPage{}, false
	}
	v := pathPage{pathRow: c.row(l, i), Entry: &e}
	closure := c.closureOf(i)
	v.Closure = &closure
	for _, s := range e.Signatures {
		name, _, _ := strings.Cut(s, ":")
		if !slices.Contains(v.Keys, name) {
			v.Keys = append(v.Keys, name)
		}
	}
	v.Publications = c.keepers(i)
	v.More = max(len(v.Publications)-maxListed, 0)
	v.Publications = v.Publications[:len(v.Publications)-v.More]
	for _, base := range e.References {
		r := reference{Base: base, Itself: base == e.Path.Base()}
		if n, ok := c.base(base); ok && !r.Itself {
			row := c.row(l, n)
			r.Row = &row
		}
		v.References = append(v.References, r)
	}
	users := c.referrers[i]
	v.Users = len(users)
	v.MoreUsers = max(len(users)-maxListed, 0)
	v.Referrers = rows(l, users[:len(users)-v.MoreUsers], c.row)
	v.Commands = []string{"nix-store --realise " + e.Path.String(), p.copyCommand(c.snapshot.Keys(), &e)}
	return v, true
}

// copyCommand gets a path without the cache being in nix.conf.
func (p *Page) copyCommand(keys format.KeyChain, e *format.Entry) string {
	how := "nix copy --from " + p.opts.URL
	switch {
	case len(keys.Trusted) > 0 && len(e.Signatures) > 0:
		how += " --option " + bincache.SettingKeys + " " + quoteShell(strings.Join(keys.Trusted, " "))
	case e.CA == "" && (len(keys.Trusted) > 0 || keys.Keyless()):
		how += " --no-check-sigs"
	}
	return how + " " + e.Path.String()
}

type publicationsPage struct {
	Rows  []*publication
	Pager pager
}

func (c *catalogue) publicationList(l links, query url.Values) publicationsPage {
	at, rows := pageOf(query), l.rows()
	from := min((at-1)*rows, len(c.publications))
	return publicationsPage{
		Rows:  c.publications[from:min(from+rows, len(c.publications))],
		Pager: l.pager(publicationsName, nil, at, rows, len(c.publications)),
	}
}

type publicationPage struct {
	*publication
	Roots []root
}

// root is an output that was published.
type root struct {
	Attr string
	reference
}

func (c *catalogue) publication(l links, id string) (publicationPage, bool) {
	p := c.byID[id]
	if p == nil {
		return publicationPage{}, false
	}
	v := publicationPage{publication: p}
	for _, r := range p.Publication.Roots {
		shown := root{Attr: r.Attr, reference: reference{Base: r.Path}}
		if n, ok := c.base(r.Path); ok {
			row := c.measured(l, n)
			shown.Row = &row
		}
		v.Roots = append(v.Roots, shown)
	}
	return v, true
}

type usePage struct {
	Config, NixOS, Start string
	Keys                 format.KeyChain
}

func (p *Page) use(keys format.KeyChain) usePage {
	u := usePage{Config: p.nixConf(keys), Keys: keys, Start: "nix run github:org/nixoci-action#proxy -- --cache " + quoteShell(p.opts.Cache)}
	u.NixOS = strings.TrimSuffix(p.substituter(keys).NixOS(), "\n")
	return u
}

// nixConf are the lines for nix.conf.
func (p *Page) nixConf(keys format.KeyChain) string {
	return strings.TrimSuffix(p.substituter(keys).Shown(), "\n")
}

func (p *Page) substituter(keys format.KeyChain) bincache.Substituter {
	return bincache.Substituter{URL: p.opts.URL, PublicKeys: keys.Trusted, Untrusted: len(keys.Trusted) == 0 && !keys.Keyless()}
}

// quoteShell quotes a word where a shell would take it apart.
func quoteShell(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._/:@+,=", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// view makes the view of a page by its name, without what all have in common.
func (p *Page) view(c *catalogue, l links, name string, query url.Values) (view, bool) {
	v := view{Section: name, Template: name}
	ok := true
	section, id, below := strings.Cut(name, "/")
	if below {
		v.Template, section = section, section+"/"
	}
	switch {
	case name == homeName:
		v.Page = p.home(c, l)
	case name == pathsName:
		v.Title = "Store paths"
		v.Page, ok = c.pathList(l, query)
	case name == publicationsName:
		v.Title = "Publications"
		v.Page = c.publicationList(l, query)
	case name == useName:
		v.Title = "Use it"
		v.Page = p.use(c.snapshot.Keys())
	case section == pathName && storepath.ValidHashPart(id):
		var page pathPage
		if page, ok = p.path(c, l, id); ok {
			v.Title = page.Name
		}
		v.Page, v.Section = page, pathsName
	case section == publicationName:
		var page publicationPage
		if page, ok = c.publication(l, id); ok {
			v.Title = ui.Line(page.From) + ", " + minute(page.Time())
		}
		v.Page, v.Section = page, publicationsName
	default:
		return v, false
	}
	return v, ok
}
