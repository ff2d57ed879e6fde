package page

import (
	"cmp"
	"net/url"
	"strconv"
	"strings"
)

// links makes the addresses of pages, relative to one of them: so they hold
// below any path of a server, and in any folder of files.
type links struct {
	up     string // to the first page: "", "../", "../../"
	static bool
}

// linksFrom makes the links for a page by its name.
func linksFrom(name string, static bool) links {
	depth := strings.Count(name, "/")
	if !static && name != homeName {
		depth++ // below Prefix
	}
	return links{strings.Repeat("../", depth), static}
}

// Names of pages: what follows Prefix or, with .html at its end, the name of
// the exported file.
const (
	homeName         = "index"
	pathsName        = "paths"
	pathName         = "path/" // with the hash part
	publicationsName = "publications"
	publicationName  = "publication/" // with the id
	useName          = "use"
	healthName       = "health"
)

func (l links) to(name string) string {
	if l.static {
		return l.up + name + ".html"
	}
	return l.up + strings.TrimPrefix(Prefix, "/") + name
}

// Static tells that the pages are files.
func (l links) Static() bool { return l.static }

// Home is the first page.
func (l links) Home() string {
	if l.static {
		return l.up + "index.html"
	}
	return cmp.Or(l.up, "./")
}

// Paths is the list of store paths.
func (l links) Paths() string { return l.to(pathsName) }

// Path is the page of a store path.
func (l links) Path(hashPart string) string { return l.to(pathName + hashPart) }

// Publications is the list of publications.
func (l links) Publications() string { return l.to(publicationsName) }

// Publication is the page of a publication.
func (l links) Publication(p *publication) string { return l.to(publicationName + p.ID) }

// Use says how to use the cache.
func (l links) Use() string { return l.to(useName) }

// LinkHealth says how the server is.
func (l links) LinkHealth() string { return l.to(healthName) }

// Root is a file of Nix's protocol, or another that is not a page's.
func (l links) Root(name string) string { return l.up + name }

// Asset is a style sheet or a script.
func (l links) Asset(name string) string {
	if l.static {
		return l.up + name
	}
	return l.up + strings.TrimPrefix(Prefix, "/") + name
}

// list is a page, counted from 1, of a list.
func (l links) list(name string, query url.Values, page int) string {
	if l.static {
		if page > 1 {
			name += "-" + strconv.Itoa(page)
		}
		return l.to(name)
	}
	q := url.Values{}
	for k, v := range query {
		if v[0] != "" {
			q[k] = v
		}
	}
	if page > 1 {
		q.Set("page", strconv.Itoa(page))
	}
	if len(q) == 0 {
		return l.to(name)
	}
	return l.to(name) + "?" + q.Encode()
}

// With is the list of a publication's store paths.
func (l links) With(id string) string {
	return l.list(pathsName, url.Values{"publication": {id}}, 1)
}

// Referrers is the list of what refers to a store path.
func (l links) Referrers(hashPart string) string {
	return l.list(pathsName, url.Values{"refers-to": {hashPart}}, 1)
}

// Sorted is the whole list in an order.
func (l links) Sorted(order string) string {
	if l.static {
		return l.Paths()
	}
	return l.list(pathsName, url.Values{"sort": {order}}, 1)
}

// publicationRow is a publication in a list.
type publicationRow struct {
	L links
	P *publication
}

// Row is for a template that shows a publication.
func (l links) Row(p *publication) publicationRow { return publicationRow{l, p} }

// pathList is a table of store paths.
type pathList struct {
	Caption string
	Rows    []pathRow
}

// List is for a template that shows store paths.
func (links) List(caption string, rows []pathRow) pathList { return pathList{caption, rows} }
