package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/ui"
)

//go:embed templates static
var files embed.FS

// asset is a file that does not depend on the cache.
type asset struct {
	body              []byte
	contentType, etag string
}

var (
	assets    = loadAssets()
	templates = loadTemplates()
)

func loadAssets() map[string]asset {
	types := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
	all := map[string]asset{}
	list, err := files.ReadDir("static")
	if err != nil {
		panic(err)
	}
	for _, f := range list {
		body, err := files.ReadFile("static/" + f.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(body)
		all[f.Name()] = asset{body, types[path.Ext(f.Name())], strconv.Quote(hex.EncodeToString(sum[:12]))}
	}
	return all
}

// loadTemplates makes a set of templates for each page: the layout and itself.
func loadTemplates() map[string]*template.Template {
	funcs := template.FuncMap{
		"bytes": ui.Bytes, "number": ui.Number, "count": ui.Count, "text": ui.Line, "ratio": ui.Ratio,
		"brief":  brief,
		"minute": minute, "day": day, "machine": machine,
		"errtext": func(err error) string { return ui.Line(err.Error()) },
	}
	layout := template.Must(template.New("layout.html").Funcs(funcs).ParseFS(files, "templates/layout.html", "templates/parts.html"))
	all := map[string]*template.Template{}
	for _, name := range []string{"index", "paths", "path", "publications", "publication", "use", "health", "unread", "missing"} {
		all[name] = template.Must(template.Must(layout.Clone()).ParseFS(files, "templates/"+name+".html"))
	}
	return all
}

// brief is a reason without what is said for completeness.
func brief(reason string) string {
	before, _, _ := strings.Cut(ui.Line(reason), ", or needed by what was")
	return before
}

// minute writes a time for people, in UTC.
func minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }

// machine writes a time for the attribute of a time element.
func machine(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// render makes a page. c is nil if nothing is known yet.
func (p *Page) render(c *catalogue, v view) ([]byte, error) {
	v.Cache, v.Version = p.opts.Cache, p.opts.Version
	if c != nil {
		v.Digest = c.snapshot.Digest()
	}
	var b bytes.Buffer
	err := templates[v.Template].ExecuteTemplate(&b, "layout.html", v)
	return b.Bytes(), err
}

// Trouble reports whether there is something that people should know first.
func (v view) Trouble() bool { return v.Health != nil && v.Health.trouble() }
