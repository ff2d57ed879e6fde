package page

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// Exported counts what an export wrote.
type Exported struct {
	Files int   `json:"files"`
	Size  int64 `json:"size"` // in bytes
}

// Export makes the pages as files that any server of files, or a browser
// without one, can show, in whatever folder they are. It calls write for each,
// one after the other, with a name that may have one slash. The pages of an
// empty cache can be exported, too. It stops at the first error, and when ctx
// ends.
func (p *Page) Export(ctx context.Context, write func(name string, body []byte) error) (Exported, error) {
	var done Exported
	snap := p.opts.Snapshot()
	if snap == nil {
		return done, errors.New("exporting pages of a cache that was not read")
	}
	now := p.opts.Now()
	c := newCatalogue(snap, now)
	put := func(name string, body []byte) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := write(name, body); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
		done.Files++
		done.Size += int64(len(body))
		return nil
	}
	page := func(name, file string, number int) error {
		l := linksFrom(name, true)
		v, ok := p.view(c, l, name, map[string][]string{"page": {strconv.Itoa(number)}})
		if !ok {
			return nil // an entry that clients do not get, either
		}
		v.links, v.Made = l, now
		body, err := p.render(c, v)
		if err != nil {
			return fmt.Errorf("making the page %s: %w", name, err)
		}
		return put(file+".html", body)
	}
	// .nojekyll has GitHub Pages publish the files as they are
	errs := []error{put(".nojekyll", nil), put("paths.json", c.searchList()), page(homeName, "index", 1), page(useName, useName, 1)}
	for name, a := range assets {
		errs = append(errs, put(name, a.body))
	}
	for name, count := range map[string]int{pathsName: len(c.paths), publicationsName: len(c.publications)} {
		for n := 1; n == 1 || (n-1)*rowsExported < count; n++ {
			file := name
			if n > 1 {
				file += "-" + strconv.Itoa(n)
			}
			errs = append(errs, page(name, file, n))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return done, err
	}
	for _, pub := range c.publications {
		if err := page(publicationName+pub.ID, publicationName+pub.ID, 1); err != nil {
			return done, err
		}
	}
	for i := range c.paths {
		if err := page(pathName+c.paths[i].HashPart, pathName+c.paths[i].HashPart, 1); err != nil {
			return done, err
		}
	}
	return done, nil
}

// searchList is what static/page.js searches.
func (c *catalogue) searchList() []byte {
	<-c.summed
	var reasons []string
	number := map[string]int{}
	var b bytes.Buffer
	b.WriteString(`{"paths":[`)
	for i := range c.paths {
		p := &c.paths[i]
		reason := brief(p.Reason)
		if !p.Keep {
			reason = "nothing: " + reason
		}
		n, ok := number[reason]
		if !ok {
			n = len(reasons)
			number[reason] = n
			reasons = append(reasons, reason)
		}
		closure := int64(0)
		if c.closures != nil {
			closure = c.closures[i].NarSize
		}
		if i > 0 {
			b.WriteString(",\n")
		}
		// a name has no character that JSON would escape
		fmt.Fprintf(&b, `["%s","%s",%d,%d,%d,%d,%d]`, p.HashPart, p.Name, p.NarSize, p.FileSize, closure, p.Added, n)
	}
	text, err := json.Marshal(reasons)
	if err != nil || reasons == nil {
		text = []byte("[]")
	}
	fmt.Fprintf(&b, `],"reasons":%s}`, text)
	return b.Bytes()
}
