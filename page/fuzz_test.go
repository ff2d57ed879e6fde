package page

import (
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// Any query finds what its words say, and no request breaks a page.
func FuzzSearch(f *testing.F) {
	fake := newFake(f)
	app, _ := fake.small()
	p := fake.page()
	c := p.mustCurrent()
	for _, q := range []string{"", "app", "APP 1", app.Path.String(), app.Path.HashPart[:7], "\n", "a\nb", "-", "İ", "\xff", strings.Repeat("a ", 200)} {
		f.Add(q, "closure", "2")
	}
	f.Fuzz(func(t *testing.T, query, sort, page string) {
		found := c.search(query)
		words := strings.Fields(strings.ToLower(strings.TrimPrefix(query, "/nix/store/")))
		for i := range c.paths {
			name := strings.ToLower(c.paths[i].Name)
			want := !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(name, w) })
			byHash := len(words) == 1 && strings.HasPrefix(c.paths[i].HashPart, words[0][:min(6, len(words[0]))])
			if got := found == nil || found[i]; got != want && !byHash {
				t.Errorf("%q: got %t for %s", query, got, name)
			}
		}
		q := url.Values{"q": {query}, "sort": {sort}, "page": {page}}
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.Path, r.URL.RawQuery = "/_page/paths", q.Encode()
		p.ServeHTTP(w, r)
		if body := w.Body.String(); w.Code != 200 || strings.Count(body, "</html>") != 1 {
			t.Errorf("%s: got %d, %s", q.Encode(), w.Code, body)
		}
	})
}
