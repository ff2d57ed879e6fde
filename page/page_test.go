package page

import (
	"context"
	"encoding/json"
	"errors"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/index/format"
)

var href = regexp.MustCompile(`(?:href|src|action)="([^"]*)"`)

// links are the addresses in a page, resolved; those of other hosts are left
// out and must be web pages.
func linksOf(t *testing.T, from *url.URL, body string) []*url.URL {
	t.Helper()
	var all []*url.URL
	for _, m := range href.FindAllStringSubmatch(body, -1) {
		u, err := from.Parse(html.UnescapeString(m[1]))
		if err != nil {
			t.Fatalf("%s: %v", from, err)
		}
		if u.Host != from.Host {
			if u.Scheme != "https" && u.Scheme != "http" {
				t.Errorf("%s links to %s", from, u)
			}
			continue
		}
		u.Fragment = ""
		all = append(all, u)
	}
	return all
}

// crawl follows every link from a page and returns the pages by their path and
// query.
func crawl(t *testing.T, start string, get func(u *url.URL) (status int, body string)) map[string]string {
	t.Helper()
	first, err := url.Parse(start)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	todo := []*url.URL{first}
	for len(todo) > 0 {
		u := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if _, ok := seen[u.RequestURI()]; ok {
			continue
		}
		status, body := get(u)
		if status != 200 || body == "" {
			t.Fatalf("%s: got %d, %d bytes", u, status, len(body))
		}
		seen[u.RequestURI()] = body
		if strings.HasPrefix(body, "<!doctype html>") {
			todo = append(todo, linksOf(t, u, body)...)
		}
	}
	return seen
}

// mounted is a page as a proxy has it, with the other files that it links to.
func mounted(p *Page) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case Owns(r.URL.Path):
			p.ServeHTTP(w, r)
		case strings.HasSuffix(r.URL.Path, ".narinfo") || r.URL.Path == "/_status":
			_, _ = io.WriteString(w, "not a page")
		default:
			http.NotFound(w, r)
		}
	})
}

func healthy() Health {
	return Health{Started: daysAgo(1), Succeeded: now, Tried: now, Served: []Count{{Name: "NARs", N: 12345}, {Name: "size", N: 5e9, Bytes: true}}}
}

func request(h http.Handler, method, target string, headers ...string) *http.Response {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func get(t *testing.T, h http.Handler, target string) (int, string) {
	t.Helper()
	resp := request(h, "GET", target)
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// Every link of every page leads somewhere, below whatever path the page is.
func TestLinksResolve(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.small()
	f.large(300, layered)
	p := f.page(func(o *Options) { o.Health = healthy })
	for name, h := range map[string]http.Handler{
		"http://cache.test/": mounted(p), "http://cache.test/ghcr.io/a/b/": http.StripPrefix("/ghcr.io/a/b", mounted(p)),
	} {
		seen := crawl(t, name, func(u *url.URL) (int, string) { return get(t, h, u.String()) })
		prefix := strings.TrimSuffix(strings.TrimPrefix(name, "http://cache.test"), "/")
		for _, e := range f.refs {
			if _, ok := seen[prefix+"/_page/path/"+e[:32]]; !ok {
				t.Errorf("%s: nothing links to %s", name, e)
			}
		}
		for _, want := range []string{"/_page/health", "/_page/use", "/_page/paths?page=2", "/_page/paths?page=3&sort=closure", "/_page/style.css", "/_status"} {
			if _, ok := seen[prefix+want]; !ok {
				t.Errorf("%s: nothing links to %s", name, want)
			}
		}
	}
}

// The exported files link to each other only, from whatever folder.
func TestExportedLinksResolve(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.small()
	f.large(500, layered)
	files := map[string]string{}
	done, err := f.page().Export(t.Context(), func(name string, body []byte) error {
		if _, twice := files[name]; twice || path.Clean(name) != name || strings.Count(name, "/") > 1 || strings.HasPrefix(name, "_") {
			t.Errorf("%q is written", name)
		}
		files[name] = string(body)
		return nil
	})
	if err != nil || done.Files != len(files) {
		t.Fatalf("got %+v, %v; %d files", done, err, len(files))
	}
	seen := crawl(t, "http://pages.test/some/folder/index.html", func(u *url.URL) (int, string) {
		body, ok := files[strings.TrimPrefix(u.Path, "/some/folder/")]
		if !ok || u.RawQuery != "" {
			t.Errorf("there is no %s", u)
		}
		return 200, body
	})
	for name := range files {
		if _, ok := seen["/some/folder/"+name]; !ok && name != ".nojekyll" && name != "paths.json" {
			t.Errorf("nothing links to %s", name)
		}
	}
	if !strings.Contains(files["paths.html"], `data-static="paths.json"`) {
		t.Error("the search does not know where its list is")
	}
	var list struct {
		Paths   [][]any
		Reasons []string
	}
	if err := json.Unmarshal([]byte(files["paths.json"]), &list); err != nil || len(list.Paths) != len(f.refs) || len(list.Reasons) == 0 {
		t.Errorf("paths.json: %v, %d paths", err, len(list.Paths))
	}
	stop := errors.New("disk full")
	if _, err := f.page().Export(t.Context(), func(string, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v, want %v", err, stop)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	if _, err := f.page().Export(ctx, func(string, []byte) error { return nil }); !errors.Is(err, stop) {
		t.Errorf("got %v, want %v", err, stop)
	}
}

// What publications say is free text, and must stay text.
func TestHostileText(t *testing.T) {
	t.Parallel()
	const bad = `"><script>alert(1)</script><img src=x onerror=alert(2)>'` + "\u202e\x1b[31m"
	f := newFake(t)
	e := f.entry("fine-1.0")
	e.Signatures = nil
	bads := []string{"javascript:alert(1)", "https://user:secret@ci.example.org/", "data:text/html,x", "//evil.example.org/x", "https://ci.example.org/\"><script>"}
	for i, run := range bads {
		f.publish(format.Publication{
			Time: daysAgo(float64(i)), Ref: "refs/heads/" + bad + strconv.Itoa(i), Origin: bad, Flake: bad, Revision: bad, RunURL: run, Systems: []string{bad}, Pin: bad,
			Roots: []format.Root{{Attr: bad, Path: e.Path.Base()}, {Attr: "x", Path: bad}, {Attr: "short", Path: "x"}},
		}, map[bool][]format.Entry{true: {e}}[i == 0]...)
	}
	p := f.page(func(o *Options) {
		o.Cache = bad
		o.Health = func() Health { h := healthy(); h.Err = errors.New(bad + " https://u:secret@h/?token=secret"); return h }
	})
	check := func(name, body string) {
		if !strings.HasPrefix(body, "<!doctype html>") {
			return
		}
		for _, never := range []string{"<script>", "<img", "javascript:", "data:text", "secret", "\u202e", "\x1b", `href="//evil`} {
			if strings.Contains(body, never) {
				t.Errorf("%s has %q", name, never)
			}
		}
	}
	seen := crawl(t, "http://cache.test/", func(u *url.URL) (int, string) { return get(t, mounted(p), u.String()) })
	for name, body := range seen {
		check(name, body)
	}
	if len(seen) < 15 {
		t.Errorf("only %d pages were seen", len(seen))
	}
	_, body := get(t, p, "/_page/paths?q="+url.QueryEscape(bad))
	check("the search", body)
	if _, err := p.Export(t.Context(), func(name string, body []byte) error { check(name, string(body)); return nil }); err != nil {
		t.Error(err)
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	app, _ := f.small()
	health := healthy()
	p := f.page(func(o *Options) { o.Health = func() Health { return health } })
	target := "/_page/path/" + app.Path.HashPart
	for _, name := range []string{"/", target, "/_page/style.css", "/_page/health", "/_page/none"} {
		resp := request(p, "GET", name)
		h := resp.Header
		if got := h.Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none'; ") || strings.Contains(got, "unsafe") {
			t.Errorf("%s: got the policy %q", name, got)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "no-cache" || h.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: got %v", name, h)
		}
	}
	resp := request(p, "GET", target)
	etag := resp.Header.Get("ETag")
	if resp := request(p, "GET", target, "If-None-Match", `"x", W/`+etag); etag == "" || resp.StatusCode != 304 {
		t.Errorf("the same again, %s: got %d", etag, resp.StatusCode)
	}
	head := request(p, "HEAD", target)
	if body, _ := io.ReadAll(head.Body); len(body) > 0 || head.Header.Get("Content-Length") != resp.Header.Get("Content-Length") {
		t.Errorf("HEAD: got %d bytes, %v", len(body), head.Header)
	}
	if resp := request(p, "POST", target); resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: got %d", resp.StatusCode)
	}
	// when the registry goes away each page says so
	health.Err = errors.New("no route")
	if resp := request(p, "GET", target, "If-None-Match", etag); resp.StatusCode != 200 {
		t.Errorf("after a failure: got %d, want a new page", resp.StatusCode)
	}
	if _, body := get(t, p, target); !strings.Contains(body, "The registry could not be read") {
		t.Error("the page says nothing of the registry")
	}
	health.Err = nil
	f.publish(format.Publication{Time: now, Ref: "refs/heads/new"}, f.entry("new-1"))
	if got := request(f.page(), "GET", target).Header.Get("ETag"); got == etag || got == "" {
		t.Errorf("after a publish: got %s again", got)
	}
	for _, name := range []string{"none", "path/x", "path/../style.css", "path/" + strings.Repeat("0", 32), "publication/x", "paths?publication=x", "paths?refers-to=x", "path/" + app.Path.HashPart + "/x", ""} {
		if status, body := get(t, p, Prefix+name); status != 404 || !strings.Contains(body, "There is no such page") {
			t.Errorf("%s: got %d", name, status)
		}
	}
}

// A path's page has what the narinfo has, what refers to it, and why it is kept.
func TestPathPage(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	app, lib := f.small()
	p := f.page()
	_, body := get(t, p, "/_page/path/"+app.Path.HashPart)
	for _, want := range []string{
		app.Path.String(), app.NarHash, app.FileHash, app.Deriver, "test-1", "newest of main", "on-an-upstream-1.0", "not in this cache",
		"nix copy --from http://127.0.0.1:37515 --option extra-trusted-public-keys " + quoteShell(testKey) + " " + app.Path.String(), "nix-store --realise " + app.Path.String(), "in 3 paths",
	} {
		if !strings.Contains(body, html.EscapeString(want)) {
			t.Errorf("the page of %s has no %q", app.Path.Name, want)
		}
	}
	r, err := p.Path(t.Context(), PathSummary{Path: lib.Path.String()})
	if err != nil {
		t.Fatal(err)
	}
	var from []string
	for _, pub := range r.Publications {
		from = append(from, pub.From)
	}
	if got := strings.Join(from, ", "); got != "pull request 7, main, tag v1.0, main" {
		t.Errorf("%s is needed by %s", lib.Path.Name, got)
	}
	if len(r.Referrers) != 3 || r.Closure.Paths != 2 || !r.Keep {
		t.Errorf("got %+v", r)
	}
	for name, want := range map[string]string{
		"orphan-0.1": "in no publication, added more than 30 days ago", "release-1.0": "pin production", "app-1.2-pre": "pull request 7, published 2026-11-05",
	} {
		found, _, err := p.Find(t.Context(), name)
		if err != nil || len(found) != 1 || found[0].Reason != want {
			t.Errorf("%s: got %+v, %v, want %q", name, found, err, want)
		}
	}
}

func TestSearch(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	app, _ := f.small()
	f.publish(format.Publication{Time: now}, f.entry("App-Upper-9"))
	c := f.page().mustCurrent()
	names := func(query string) string {
		numbers, count := c.list(c.inOrder, c.search(query), 0, 100)
		var all []string
		for _, n := range numbers {
			all = append(all, c.paths[n].Name)
		}
		if count != len(all) {
			t.Errorf("%q: got %d paths, counted %d", query, len(all), count)
		}
		return strings.Join(all, " ")
	}
	everything := "App-Upper-9 app-1.0 app-1.1 app-1.2-pre glibc-2.40 libfoo-1.2 orphan-0.1 release-1.0"
	for query, want := range map[string]string{
		"": everything, "  ": everything, "APP": "App-Upper-9 app-1.0 app-1.1 app-1.2-pre", "app 1.2": "app-1.2-pre", "1.2 lib": "libfoo-1.2", "0\n": "app-1.0 glibc-2.40 orphan-0.1 release-1.0",
		"nothing": "", app.Path.HashPart: "app-1.1", app.Path.HashPart[:8]: "app-1.1", app.Path.Base(): "app-1.1", app.Path.String(): "app-1.1", app.Path.HashPart + "-other": "", "glibc": "glibc-2.40",
	} {
		if got := names(query); got != want {
			t.Errorf("%q: got %q, want %q", query, got, want)
		}
	}
	for _, order := range []string{byNarSize, bySize, byClosure, byAdded} {
		value := map[string]func(i int32) int64{
			byNarSize: func(i int32) int64 { return c.paths[i].NarSize }, bySize: func(i int32) int64 { return c.paths[i].FileSize },
			byClosure: func(i int32) int64 { return c.closureOf(i).NarSize }, byAdded: func(i int32) int64 { return c.paths[i].Added },
		}[order]
		numbers := c.order(order)
		if len(numbers) != len(c.paths) || !slices.IsSortedFunc(numbers, func(a, b int32) int { return int(value(b) - value(a)) }) {
			t.Errorf("%s: got the order %v", order, numbers)
		}
	}
}

// The sums of all closures are those of walks, also where there are cycles.
func TestClosures(t *testing.T) {
	t.Parallel()
	for _, cycles := range []bool{false, true} {
		f := newFake(t)
		paths := make([]collect.CataloguePath, 3000)
		for i := range paths {
			paths[i] = collect.CataloguePath{NarSize: int64(1 + f.rng.IntN(1000)), FileSize: int64(1 + f.rng.IntN(1000))}
			for range f.rng.IntN(14) {
				// in no order of numbers, and a self-reference now and then
				if to := f.rng.IntN(len(paths)); cycles || to*7919%3001 <= i*7919%3001 {
					paths[i].References = append(paths[i].References, int32(to))
				}
			}
		}
		got := closures(paths)
		c := &catalogue{paths: paths}
		large := 0
		for i := range paths {
			want := c.sum(c.closure([]int32{int32(i)}))
			if got[i] != want {
				t.Fatalf("cycles %t, path %d: got %+v, want %+v", cycles, i, got[i], want)
			}
			if want.Paths > 64 {
				large++
			}
		}
		if _, cyclic := referencesFirst(paths); cyclic != cycles && cycles || large == 0 {
			t.Errorf("cycles %t: the test is too easy: %d large closures", cycles, large)
		}
	}
}

// Before anything is known, the pages say so; an empty cache has all pages.
func TestNothingToShow(t *testing.T) {
	t.Parallel()
	p := New(Options{Snapshot: func() *index.Snapshot { return nil }, Cache: "ghcr.io/a/b", Health: func() Health { return Health{Err: errors.New("no such host")} }})
	for _, name := range []string{"/", "/_page/paths"} {
		if status, body := get(t, p, name); status != 503 || !strings.Contains(body, "has not been read yet") || !strings.Contains(body, "no such host") {
			t.Errorf("%s: got %d, %s", name, status, body)
		}
	}
	if status, body := get(t, p, "/_page/health"); status != 200 || !strings.Contains(body, "no such host") {
		t.Errorf("health: got %d, %s", status, body)
	}
	empty := newFake(t).page(func(o *Options) { o.Health = healthy })
	seen := crawl(t, "http://cache.test/", func(u *url.URL) (int, string) { return get(t, mounted(empty), u.String()) })
	if body := seen["/"]; !strings.Contains(body, "There is nothing in this cache yet") || !strings.Contains(body, "trusts everybody who can write to it") {
		t.Errorf("an empty cache: got %s", body)
	}
	if _, err := empty.Export(t.Context(), func(string, []byte) error { return nil }); err != nil {
		t.Error(err)
	}
}

// The catalogue is made once for a snapshot, and let go when nobody looks.
func TestIdle(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.small()
	p := f.page(func(o *Options) { o.Idle = 50 * time.Millisecond })
	c := p.mustCurrent()
	if p.mustCurrent() != c {
		t.Error("it was made twice")
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		p.mu.Lock()
		gone := p.catalogue == nil
		p.mu.Unlock()
		if gone {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it is kept for ever")
		}
	}
	if p.mustCurrent() == c {
		t.Error("it was not let go")
	}
}

// The growth ends with all that publications reach, and counts nothing twice.
func TestGrowth(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.small()
	c := f.page().mustCurrent()
	last := c.growth[len(c.growth)-1].Total
	reached := map[int32]bool{}
	for _, p := range c.publications {
		for i, m := range c.closure(p.roots) {
			if m {
				reached[int32(i)] = true
			}
		}
	}
	var want index.Total
	for i := range maps.Keys(reached) {
		add(&want, index.Total{Paths: 1, NarSize: c.paths[i].NarSize, FileSize: c.paths[i].FileSize})
	}
	if last != want || last.Paths != len(c.paths)-1 {
		t.Errorf("got %+v, want %+v of %d paths, all but the orphan", last, want, len(c.paths))
	}
	again := &catalogue{paths: c.paths, hashes: c.hashes}
	var verdicts []collect.Verdict
	for _, p := range slices.Backward(c.publications) {
		verdicts = append(verdicts, p.Verdict, p.Verdict)
	}
	again.publish(verdicts)
	if len(again.publications) != len(c.publications) || again.growth[len(again.growth)-1].Total != want {
		t.Errorf("each record twice: got %d publications, want %d", len(again.publications), len(c.publications))
	}
	chart := c.chart()
	if chart == nil || len(chart.Rows) != 4 || strings.Contains(chart.Wide.Line, "NaN") {
		t.Errorf("got the chart %+v", chart)
	}
	for size, want := range map[int64][2]float64{0: {4, 1}, 4: {4, 1}, 5: {6, 2}, 3_200_000: {4e6, 1e6}, 9_900_000: {10e6, 2.5e6}} {
		if top, step := axis(size); top != want[0] || step != want[1] {
			t.Errorf("axis(%d): got %g, %g, want %g", size, top, step, want)
		}
	}
}
