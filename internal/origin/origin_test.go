package origin

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// All ways to one repository have one name, and no name has a credential.
func TestURL(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://github.com/me/one":                      "github.com/me/one",
		"https://github.com/me/one.git":                  "github.com/me/one",
		"https://github.com/me/one/":                     "github.com/me/one",
		"https://github.com:443/me//one.git/":            "github.com/me/one",
		"http://GitHub.com./me/one":                      "github.com/me/one",
		"git@github.com:me/one.git":                      "github.com/me/one",
		"github.com:me/one":                              "github.com/me/one",
		"github.com:/me/one":                             "github.com/me/one",
		"ssh://git@github.com/me/one":                    "github.com/me/one",
		"ssh://git@github.com:22/me/one.git":             "github.com/me/one",
		"git+ssh://git@github.com/me/one?ref=x":          "github.com/me/one",
		"git://github.com:9418/me/one.git":               "github.com/me/one",
		"https://user:s3cret@github.com/me/one.git":      "github.com/me/one",
		"https://s3cret@github.com/me/one":               "github.com/me/one",
		"https://github.com/me/one?private_token=s3cret": "github.com/me/one",
		"https://github.com/me/one#s3cret":               "github.com/me/one",
		"s3cret@github.com:me/one":                       "github.com/me/one",
		"https://git.example.org:3000/a/b/c/":            "git.example.org:3000/a/b/c",
		"ssh://git@git.example.org:2222/a/b":             "git.example.org:2222/a/b",
		"https://[FE80::1]:8443/a":                       "[fe80::1]:8443/a",
		"git@[fe80::1]:a":                                "[fe80::1]/a",
		"https://example.org/Me/One":                     "example.org/Me/One", // not every server takes these for the same
		"https://example.org/a b?c":                      "example.org/a%20b",
		"https://example.org/a%3Fb":                      "example.org/a%3Fb",
		"git@host:a\nb":                                  "",
		"https://example.org/../../etc":                  "example.org/etc",

		"": "", "/srv/git/one.git": "", "../one.git": "", "file:///srv/one": "", "ext::sh -c x": "", "https://github.com": "", "https://github.com/": "",
		"https://github.com/.git": "", "https:///me/one": "", "https://user:s3#cret@github.com/me/one": "", "https://s3cret?x@github.com/me/one": "", "git@:me/one": "",
		"https://%zz/": "", "codecommit::eu://one": "",
	} {
		got := URL(text)
		if got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
		if strings.Contains(got, "s3") {
			t.Errorf("%s: the name %q has a secret", text, got)
		}
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	for page, want := range map[string]string{
		"https://github.com/me/one/actions/runs/77":             "github.com/me/one",
		"https://github.com/actions/runs/actions/runs/77":       "github.com/actions/runs",
		"http://git.example.org:3000/me/one/actions/runs/5":     "git.example.org:3000/me/one",
		"https://example.org/git/me/one/actions/runs/5":         "example.org/git/me/one",
		"https://gitlab.example.org/Group/Sub/Project/-/jobs/9": "gitlab.example.org/Group/Sub/Project",
		"https://user:s3cret@github.com/me/one/actions/runs/77": "github.com/me/one",
		"https://github.com//actions/runs/77":                   "",
		"/me/one/actions/runs/77":                               "",
		"https://github.com/me/one/actions/runs/":               "",
		"https://github.com/me/one/actions/runs/77/attempts/x":  "",
		"https://ci.example.org/jobs/1":                         "",
		"ssh://github.com/me/one/actions/runs/77":               "",
		"javascript:https://github.com/me/one/actions/runs/77":  "",
		"": "",
		"https://github.com/me/one/actions/runs/77\nhttps://x/-/jobs/": "",
	} {
		if got := Run(page); got != want {
			t.Errorf("%q: got %q, want %q", page, got, want)
		}
	}
}

func TestFolder(t *testing.T) {
	t.Parallel()
	for _, tc := range [][3]string{
		{"Laptop", "/home/me/one/", "laptop:/home/me/one"}, {"laptop", "/a b?c\n/../d", "laptop:/d"}, {"laptop", "/a b?", "laptop:/a%20b%3F"},
		{"laptop", "one", ""}, {"", "/one", ""}, {"laptop", "/", "laptop:/"},
	} {
		if got := Folder(tc[0], tc[1]); got != tc[2] {
			t.Errorf("%q, %q: got %q, want %q", tc[0], tc[1], got, tc[2])
		}
	}
	if a, b := URL("ssh://laptop/home/me"), Folder("laptop", "/home/me"); a == b {
		t.Errorf("a repository on a machine and a folder of it have one name, %s", a)
	}
}

func TestWithin(t *testing.T) {
	t.Parallel()
	query := url.Values{"shallow": {"1"}, "ref": {"x"}, "dir": {"a/b"}, "token": {"s3cret"}}
	if got := Within("h/p", query); got != "h/p?dir=a%2Fb&ref=x" {
		t.Errorf("got %q", got)
	}
	if got := Within("", query) + Within("h/p", nil); got != "h/p" {
		t.Errorf("got %q", got)
	}
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"git@github.com:me/one.git", "https://u:p@h:1/x?y#z", "https://h/a/-/jobs/1", "github:o/r?token=x", "github.com:me/.git", "h:a.git.git", "h:a/...git", "h:.git", "..:0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, got := range []string{URL(s), Run(s), Folder("h", s)} {
			if strings.ContainsAny(got, "?#\n\x00 ") {
				t.Errorf("%q: got %q", s, got)
			}
		}
		if got := URL(s); got != "" && URL("https://"+got) != got {
			t.Errorf("%q: %q is no name of its own, but %q", s, got, URL("https://"+got))
		}
	})
}

func TestShown(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{
		".": here, "./x/": filepath.Join(here, "x"), "..": filepath.Dir(here), "../y": filepath.Join(filepath.Dir(here), "y"),
		"/abs": "/abs", "github:a/b": "github:a/b", ".?dir=x": ".?dir=x", ".hidden": ".hidden", "": "",
	} {
		if got := Shown(ref); got != want {
			t.Errorf("%q: got %q, want %q", ref, got, want)
		}
	}
}
