package registry

import (
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/hint"
)

func TestOpen(t *testing.T) {
	tests := []struct {
		cache, want string // String of the repository
		scheme      string
		fails, hint string
	}{
		{cache: "ghcr.io/owner/repo/nix-cache", want: "ghcr.io/owner/repo/nix-cache", scheme: "https"},
		{cache: "https://ghcr.io/owner/repo", want: "ghcr.io/owner/repo", scheme: "https"},
		{cache: "localhost:5000/x/y", want: "localhost:5000/x/y", scheme: "http"},
		{cache: "http://localhost:5000/x/y", want: "localhost:5000/x/y", scheme: "http"},
		{cache: "localhost/x", want: "localhost/x", scheme: "https"},
		{cache: "127.0.0.1:5000/x", want: "127.0.0.1:5000/x", scheme: "http"},
		{cache: "[::1]:5000/x", want: "[::1]:5000/x", scheme: "http"},
		{cache: "http://registry.lan:5000/x", want: "http://registry.lan:5000/x", scheme: "http"},
		{cache: "docker.io/user/cache", want: "index.docker.io/user/cache", scheme: "https"},
		{cache: "registry.example.org:443/a/b-c/d_e/f__g/h.i", want: "registry.example.org:443/a/b-c/d_e/f__g/h.i", scheme: "https"},
		{cache: "oci:/tmp/x", want: "oci:/tmp/x"},
		{cache: "oci:rel/x", want: "oci:rel/x"},

		{cache: "oci:", fails: "names no directory"},
		{cache: "", fails: "names no registry", hint: "HOST/OWNER/NAME"},
		{cache: "owner/repo", fails: "names no registry", hint: "HOST/OWNER/NAME"},
		{cache: "./cache", fails: "names no registry", hint: "write oci:./cache"},
		{cache: "../cache", fails: "names no registry", hint: "write oci:../cache"},
		{cache: "/srv/cache", fails: "names no registry", hint: "write oci:/srv/cache"},
		{cache: "ghcr.io", fails: "names no registry", hint: "HOST/OWNER/NAME"},
		{cache: "ghcr.io/", fails: "names no registry", hint: "HOST/OWNER/NAME"},
		{cache: "ghcr.io/Owner/Repo", fails: "capital letters", hint: "did you mean ghcr.io/owner/repo?"},
		{cache: "ghcr.io/o/r:latest", fails: "tag or digest", hint: "HOST/OWNER/NAME"},
		{cache: "ghcr.io/o/r@sha256:abc", fails: "tag or digest", hint: "HOST/OWNER/NAME"},
		{cache: "ghcr.io/o/r/", fails: "no name of a repository", hint: "HOST/OWNER/NAME"},
		{cache: "ghcr.io/o//r", fails: "no name of a repository", hint: "HOST/OWNER/NAME"},
		{cache: "ghcr.io/o/../r", fails: "no name of a repository", hint: "HOST/OWNER/NAME"},
		{cache: "ghcr.io/o/r?x=y", fails: "no name of a repository", hint: "HOST/OWNER/NAME"},
		{cache: "ghcr.io/o r", fails: "no name of a repository", hint: "HOST/OWNER/NAME"},
		{cache: "ghcr.io/o/-r", fails: "no name of a repository", hint: "HOST/OWNER/NAME"},
		{cache: "ftp://ghcr.io/o/r", fails: "ftp:", hint: "HOST/OWNER/NAME"},
		{cache: "docker.io/library-only", fails: "library", hint: "HOST/OWNER/NAME"},
		{cache: "bad host.example/x", fails: "bad host", hint: "HOST/OWNER/NAME"},
		{cache: "https://user:hunter2@ghcr.io/o/r", fails: `a user before its registry "ghcr.io"`, hint: "docker login"},
		{cache: "user:hunter2@ghcr.io/o/r", fails: "a user before its registry", hint: "docker login"},
	}
	for _, tt := range tests {
		repo, err := Open(tt.cache, Options{})
		if check := Check(tt.cache); (check == nil) != (err == nil) {
			t.Errorf("%q: Check says %v, Open %v", tt.cache, check, err)
		}
		if tt.fails != "" {
			if err == nil || !strings.Contains(err.Error(), tt.fails) || !strings.Contains(hint.Of(err), tt.hint) || strings.Contains(err.Error()+hint.Of(err), "hunter2") {
				t.Errorf("%q: got %v (hint %q), want an error with %q and a hint with %q", tt.cache, err, hint.Of(err), tt.fails, tt.hint)
			}
			continue
		}
		if err != nil || repo.String() != tt.want {
			t.Errorf("%q: got %v, %v", tt.cache, repo, err)
			continue
		}
		r, ok := repo.(*remote)
		if ok && r.repo.Scheme() != tt.scheme {
			t.Errorf("%q: got scheme %s, want %s", tt.cache, r.repo.Scheme(), tt.scheme)
		}
		if again, err := Open(repo.String(), Options{}); err != nil || again.String() != repo.String() {
			t.Errorf("%q: opened again it is %v, %v", tt.cache, again, err)
		} else if ok && again.(*remote).repo.Scheme() != tt.scheme {
			t.Errorf("%q: opened again it has another scheme", tt.cache)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add("ghcr.io/o/r")
	f.Add("http://a:b@c/d")
	f.Fuzz(func(t *testing.T, cache string) {
		repo, err := Open(cache, Options{})
		if err != nil {
			return
		}
		if again, err := Open(repo.String(), Options{}); err != nil || again.String() != repo.String() {
			t.Errorf("%q is %q, and then %v (%v)", cache, repo, again, err)
		}
	})
}

func TestMaxBlobSize(t *testing.T) {
	for cache, want := range map[string]int64{
		"ghcr.io/o/r": 10_000_000_000, "https://ghcr.io/o/r": 10_000_000_000, "localhost:5000/ghcr.io/x": 0, "oci:ghcr.io/o/r": 0, "nonsense": 0,
	} {
		if got := MaxBlobSize(cache); got != want {
			t.Errorf("%s: got %d, want %d", cache, got, want)
		}
	}
}
