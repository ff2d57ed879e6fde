package proxy

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/oranc"
	"github.com/org/nixoci-action/internal/oranctest"
	"github.com/org/nixoci-action/internal/proxytest"
)

// Who points the proxy at a repository of oranc's hears what to do, once.
func TestOrancIsNoticed(t *testing.T) {
	t.Parallel()
	repo := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	key := strings.Repeat("0", 32) + ".narinfo"
	oranctest.Put(t, repo, oranc.OldTag(key), key, "text/x-nix-narinfo", []byte("x"))
	var log bytes.Buffer
	s := newServer(t, repo, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	if got := proxytest.Get(s, "GET", "/"+key).Code; got != 404 {
		t.Errorf("got %d for a path that only oranc knows", got)
	}
	data := proxytest.RandomBytes(1, 1000)
	proxytest.PutBlob(t, repo, data)
	proxytest.Publish(t, repo, format.Config{}, proxytest.FileEntry("ours", data))
	for range 2 {
		if err := s.Reload(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "publish --import-oranc"); n != 1 || !strings.Contains(log.String(), "paths=1") {
		t.Errorf("said %d times: %s", n, log.String())
	}
}
