package registry

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// pages answers with one page of tags for each "last", and a Link to the next.
func pages(perPage map[string]string, links map[string]string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		last := r.URL.Query().Get("last")
		if l := links[last]; l != "" {
			w.Header().Set("Link", l)
		}
		fmt.Fprintf(w, `{"name":"x","tags":%s}`, perPage[last])
		return true
	}
}

func TestTags(t *testing.T) {
	const list = "/v2/" + fakeRepo + "/tags/list"
	tests := []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request) bool
		want   []string
		pages  int
		fails  string
	}{
		{name: "no repository", answer: answer(404, "NAME_UNKNOWN", "x"), pages: 1},
		{name: "no tags", answer: pages(map[string]string{"": "null"}, nil), pages: 1},
		{name: "one page", answer: pages(map[string]string{"": `["b","a"]`}, nil), want: []string{"b", "a"}, pages: 1},
		{
			name: "two pages", pages: 2, want: []string{"a", "b", "c"},
			answer: pages(map[string]string{"": `["a","b"]`, "b": `["c"]`}, map[string]string{"": "<" + list + `?last=b&n=2>; rel="next"`}),
		}, {
			name: "only the second has tags", pages: 2, want: []string{"c"},
			answer: pages(map[string]string{"": `[]`, "b": `["c"]`}, map[string]string{"": "<" + list + `?last=b>; rel=next`}),
		}, {
			name: "names that nobody can ask for", pages: 1, want: []string{"a.b_c-d"},
			answer: pages(map[string]string{"": `["../x","","a.b_c-d","-a","a/b","a?b","ä"]`}, nil),
		}, {
			name: "not JSON", answer: pages(map[string]string{"": `<html>`}, nil), pages: 1, fails: "decoding",
		}, {
			name: "next page elsewhere", pages: 1, fails: "next page",
			answer: pages(map[string]string{"": `["a"]`}, map[string]string{"": `<http://example.org/x>; rel="next"`}),
		}, {
			name: "next page is the same", pages: 1, fails: "next page",
			answer: pages(map[string]string{"": `["a"]`}, map[string]string{"": "<" + list + `?n=1000>; rel="next"`}),
		}, {
			name: "second page vanished", pages: 2, fails: "not found",
			answer: func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Query().Get("last") != "" {
					return answer(404, "NAME_UNKNOWN", "x")(w, r)
				}
				w.Header().Set("Link", "<"+list+`?last=a>; rel="next"`)
				fmt.Fprint(w, `{"tags":["a"]}`)
				return true
			},
		}, {
			name: "pages in a circle", fails: "2000 pages", pages: maxTagPages,
			answer: func(w http.ResponseWriter, r *http.Request) bool {
				next := map[string]string{"a": "b"}[r.URL.Query().Get("last")]
				if next == "" {
					next = "a"
				}
				w.Header().Set("Link", "<"+list+"?last="+next+`>; rel="next"`)
				fmt.Fprint(w, `{"tags":[]}`)
				return true
			},
		}, {
			name: "endless page", pages: 1, fails: "longer than",
			answer: func(w http.ResponseWriter, r *http.Request) bool {
				blanks := []byte(strings.Repeat(" ", 1<<20))
				for r.Context().Err() == nil {
					if _, err := w.Write(blanks); err != nil {
						break
					}
				}
				return true
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, rule{kind: "GET tags", times: 1 << 20, answer: tt.answer})
			got, err := f.open().Tags(within(t, 60*time.Second))
			if !slices.Equal(got, tt.want) || tt.fails == "" && err != nil || tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails)) {
				t.Errorf("got %q, %v; want %q and an error with %q", got, err, tt.want, tt.fails)
			}
			if n := len(f.requests()) - 1; n != tt.pages {
				t.Errorf("got %d requests, want %d", n, tt.pages)
			}
		})
	}
}

func TestTagsAfterARetry(t *testing.T) {
	f := newFake(t, rule{kind: "GET tags", answer: func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, `{"tags":["a","b"`)
		return true
	}})
	f.manifests["v1"] = nil
	got, err := f.open().Tags(t.Context())
	if err != nil || !slices.Equal(got, []string{"v1"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestNextPage(t *testing.T) {
	from, err := url.Parse("https://h/v2/r/tags/list?n=5")
	if err != nil {
		t.Fatal(err)
	}
	for link, want := range map[string]string{
		`</v2/r/tags/list?last=x&n=5>; rel="next"`:        "https://h/v2/r/tags/list?last=x&n=5",
		`<https://h/v2/r/tags/list?last=x>; rel="next"`:   "https://h/v2/r/tags/list?last=x",
		`<list?last=x>; rel=next`:                         "https://h/v2/r/tags/list?last=x",
		`<?last=a>; rel="prev", <?last=b>; rel="next"`:    "https://h/v2/r/tags/list?last=b",
		`<?last=a>; title="x"; rel="last next"`:           "https://h/v2/r/tags/list?last=a",
		`<?last=a,b>; rel="next"; title="y"`:              "https://h/v2/r/tags/list?last=a,b",
		`<?last=a>; Rel = "Next"`:                         "https://h/v2/r/tags/list?last=a",
		`<?last=a>; rel="prev"`:                           "",
		`<?last=a>; rel="nextish"`:                        "",
		`<?last=a>; title="rel=next"`:                     "",
		`<?last=a`:                                        "",
		``:                                                "",
		`<//evil/v2/r/tags/list>; rel="next"`:             "error",
		`<http://h:80/v2/r/tags/list?last=x>; rel="next"`: "error",
		`<%zz>; rel="next"`:                               "error",
	} {
		u, err := nextPage(from, []string{link})
		got := ""
		if u != nil {
			got = u.String()
		}
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: got %q (%v), want %q", link, got, err, want)
		}
	}
}

func FuzzNextPage(f *testing.F) {
	f.Add(`</v2/r/tags/list?last=x&n=5>; rel="next"`)
	f.Add(`<//evil/x>; rel=next`)
	from, err := url.Parse("https://h/v2/r/tags/list?n=5")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, link string) {
		u, err := nextPage(from, []string{link})
		if err != nil && !errors.As(err, new(permanentError)) {
			t.Errorf("%q: %v would be tried again", link, err)
		}
		if u != nil && (u.Host != from.Host || u.String() == from.String()) {
			t.Errorf("%q leads to %s", link, u)
		}
	})
}
