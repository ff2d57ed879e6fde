package httpd

import (
	"net/http"
	"strings"
	"testing"
)

// Only what is everybody's is answered under a name that another site can have.
func TestHost(t *testing.T) {
	r := start(t, Options{
		Handler: text("ok"), Metrics: text("ok"), Hosts: []string{"Cache.example.org"},
		Private: func(r *http.Request) bool { return r.URL.Path == "/private" },
	})
	r.Ready("")
	c := client(t)
	for host, own := range map[string]bool{
		"": true, "127.0.0.1": true, "[::1]:80": true, "[fe80::1]": true, "10.0.0.1:37515": true, "LOCALHOST:1": true, "x.localhost": true,
		"cache": true, "cache:1": true, "cache.example.org": true, "cache.EXAMPLE.org.:80": true,
		"evil.example.org": false, "evil.example.org:80": false, "127.0.0.1.example.org": false, "localhost.example.org": false, "xcache.example.org": false,
	} {
		for path, want := range map[string]bool{"/private": own, PathMetrics: own, "/": true, PathHealth: true, PathReady: true} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.addr+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = host
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			var body strings.Builder
			_ = resp.Write(&body)
			if got := resp.StatusCode == 200; got != want || !want && (resp.StatusCode != 403 || !strings.Contains(body.String(), "--host")) {
				t.Errorf("%s for %q: got %s", path, host, body.String())
			}
		}
	}
	for name, ok := range map[string]bool{"a": true, "a-b.c_d": true, "": false, "a:1": false, "http://a": false, "a..b": false, "-a": false, "a b": false} {
		if CheckHost(name) != ok {
			t.Errorf("%q: got %v", name, !ok)
		}
	}
}
