package proxy

import (
	"encoding/json"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/proxytest"
)

// Scripts that read nixcache-oci's answers find the same names.
func TestStatusHasNixcacheNames(t *testing.T) {
	repo := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	data := proxytest.RandomBytes(1, 1000)
	proxytest.PutBlob(t, repo, data)
	proxytest.Publish(t, repo, format.Config{}, proxytest.FileEntry("hello-1.0", data))
	s := newServer(t, repo, func(o *Options) {
		o.Cache, o.Upstreams, o.Refresh = "ghcr.io/own/repo/nix-cache", []string{"https://a.example/"}, 90*time.Second
	})
	var got map[string]any
	if err := json.Unmarshal(proxytest.Get(s, "GET", "/_status").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if _, err := time.Parse(time.RFC3339, got["index_generated"].(string)); err != nil {
		t.Error(err)
	}
	maps.DeleteFunc(got, func(k string, _ any) bool {
		switch k {
		case "index_entries", "index_ttl", "repo", "upstream", "refreshed":
			return false
		}
		return true
	})
	b, _ := json.Marshal(got)
	if want := `{"index_entries":1,"index_ttl":90,"repo":"own/repo","upstream":["https://a.example"]}`; string(b) != want {
		t.Errorf("got %s, want %s", b, want)
	}

	resp, err := http.Post(proxytest.Start(t, s)+"/_refresh", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var refreshed struct {
		Refreshed bool
		Entries   int
	}
	if err := json.NewDecoder(resp.Body).Decode(&refreshed); err != nil || !refreshed.Refreshed || refreshed.Entries != 1 {
		t.Errorf("refreshed: got %+v, %v", refreshed, err)
	}
	empty := newServer(t, proxytest.OpenRepo(t, "oci:"+t.TempDir()))
	if st := empty.Status(); st.IndexGenerated != "unknown" || st.Refreshed {
		t.Errorf("an empty cache: got %+v", st)
	}
}
