package proxy

import (
	"net/http"
	"strings"
	"testing"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/proxytest"
)

func TestRoutes(t *testing.T) {
	repo := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	data := proxytest.RandomBytes(1, 1000)
	e := proxytest.FileEntry("hello-1.0", data)
	proxytest.PutBlob(t, repo, data)
	proxytest.Publish(t, repo, format.Config{PublicKeys: []string{proxytest.PublicKey}, Priority: 25}, e)
	s := newServer(t, repo)
	absent := strings.Repeat("0", 32)

	for _, tc := range []struct {
		method, path string
		status       int
		contentType  string
		body         string // "" is not compared
	}{
		{"GET", "/nix-cache-info", 200, "text/x-nix-cache-info", "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 25\n"},
		{"GET", "/" + e.Path.HashPart + ".narinfo", 200, "text/x-nix-narinfo", e.Narinfo()},
		{"GET", "/" + e.URL(), 200, "application/x-nix-nar", string(data)},
		{"GET", "/public-key", 200, "text/plain; charset=utf-8", proxytest.PublicKey + "\n"},
		{"GET", "/_status", 200, "application/json", ""},
		{"GET", "/" + absent + ".narinfo", 404, "", ""},
		{"GET", "/" + e.Path.HashPart[1:] + ".narinfo", 404, "", ""},
		{"GET", "/../" + e.Path.HashPart + ".narinfo", 404, "", ""},
		{"GET", "/" + strings.Repeat("e", 32) + ".narinfo", 404, "", ""}, // e is not in Nix's base32
		{"GET", "/" + strings.Replace(e.URL(), ".zst", ".xz", 1), 404, "", ""},
		{"GET", "/" + strings.TrimSuffix(e.URL(), ".zst"), 404, "", ""},
		{"GET", "/nar/" + strings.Repeat("0", 52) + ".nar.zst", 404, "", ""},
		{"GET", "/nar/", 404, "", ""},
		{"GET", "/", 404, "", ""},
		{"GET", "/" + e.Path.HashPart + ".ls", 404, "", ""},
		{"GET", "/log/" + e.Path.HashPart + "-hello.drv", 404, "", ""},
		{"GET", "//nix-cache-info", 404, "", ""},
		{"PUT", "/nix-cache-info", 405, "", ""},
		{"PUT", "/" + absent + ".narinfo", 405, "", "this proxy takes nothing; one that is started with --allow-push and one --cache does\n"},
		{"DELETE", "/" + e.URL(), 405, "", ""},
		{"POST", "/nix-cache-info", 405, "", ""},
		{"GET", "/_refresh", 405, "", ""},
	} {
		got := proxytest.Get(s, tc.method, tc.path)
		if got.Code != tc.status {
			t.Errorf("%s %s: got status %d, want %d", tc.method, tc.path, got.Code, tc.status)
			continue
		}
		if tc.contentType != "" && got.Header().Get("Content-Type") != tc.contentType {
			t.Errorf("%s %s: got content type %q, want %q", tc.method, tc.path, got.Header().Get("Content-Type"), tc.contentType)
		}
		if tc.body != "" && got.Body.String() != tc.body {
			t.Errorf("%s %s: got %q, want %q", tc.method, tc.path, got.Body, tc.body)
		}
		if got.Header().Get("Content-Encoding") != "" {
			t.Errorf("%s %s has a Content-Encoding, which old versions of Nix cannot read", tc.method, tc.path)
		}
		if tc.status == http.StatusMethodNotAllowed && got.Header().Get("Allow") == "" {
			t.Errorf("%s %s: no Allow header", tc.method, tc.path)
		}
		if tc.method != "GET" || tc.path == "/_refresh" || tc.path == "/_status" {
			continue
		}
		// `nix copy --from` asks with HEAD first
		head := proxytest.Get(s, "HEAD", tc.path)
		if head.Code != got.Code || tc.status == 200 && (head.Body.Len() > 0 || head.Header().Get("Content-Length") != got.Header().Get("Content-Length")) {
			t.Errorf("HEAD %s: got %d, %d bytes, %v; GET had %d, %v", tc.path, head.Code, head.Body.Len(), head.Header(), got.Code, got.Header())
		}
	}
}

func TestDefaultsOfAnEmptyCache(t *testing.T) {
	s := newServer(t, proxytest.OpenRepo(t, "oci:"+t.TempDir()))
	if got, want := proxytest.Get(s, "GET", "/nix-cache-info").Body.String(), "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := proxytest.Get(s, "GET", "/public-key").Code; got != 404 {
		t.Errorf("/public-key of an unsigned cache: got %d, want 404", got)
	}
}

// A bug must not look like a broken connection: that fails a build.
func TestPanicIsNotFound(t *testing.T) {
	s := newServer(t, proxytest.OpenRepo(t, "oci:"+t.TempDir()))
	s.upstreams = nil // the next miss dereferences it
	url := proxytest.Start(t, s)
	resp, _, err := proxytest.Fetch(t, url+"/"+strings.Repeat("0", 32)+".narinfo")
	if err != nil || resp.StatusCode != 404 {
		t.Errorf("got %d, %v; want 404", resp.StatusCode, err)
	}
}
